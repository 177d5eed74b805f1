#!/usr/bin/env python3
"""Pictures and tables of README.md from the files that the benchmarks wrote into FOLDER.

plot.py FOLDER [README.md ...]       latency.svg and throughput.svg into FOLDER, by the standard
library alone. In each README, what stands between `<!-- figures NAME -->` and `<!-- end -->` is
replaced by FOLDER/NAME; with a README, csv and svg are also copied to results/ beside this file.
"""
import csv
import math
import os
import re
import shutil
import sys
from html import escape
from typing import Callable, Dict, List, NamedTuple, Optional, Sequence, Tuple

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
KEPT = ("results.csv", "waiting.csv", "latency.svg", "throughput.svg")
Row = Dict[str, str]
Points = List[Tuple[float, float]]
# name: (light, dark); one of these two is always on show, so both must contrast with their ground
COLOURS = {"shm": ("#c2410c", "#fb923c"), "pipe": ("#1d4ed8", "#7aa9ff"),
           "unix stream": ("#15803d", "#4ade80"), "unix seqpacket": ("#be185d", "#f79ac8"),
           "tcp loopback": ("#7e22ce", "#c99bff"), "posix mq": ("#8a5a00", "#f2cf3b"),
           "zeromq": ("#0e7490", "#5fd4e6"), "shm, adaptive": ("#9a3412", "#fdba74"),
           "slice copy": ("#57606a", "#a5adb8")}
PANELS = (("readers that spin", ("spin", "-")), ("readers that sleep", ("block", "adaptive", "-")))
LABELS = {"shm": "this project", "shm, adaptive": "its default", "slice copy": "slice copy alone"}
# What one would use instead, in latency.svg
RIVALS = {"pipe": "pipe", "unix stream": "UNIX socket", "zeromq": "ZeroMQ",
          "mp.Queue": "multiprocessing.Queue"}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, NAMES = 1000, 500, 84, 92, 56, 124


# ---- SVG -----------------------------------------------------------------------------------------

def style() -> str:
    def rules(dark: int) -> str:
        ground, ink, faint, grid, theirs = (
            ("#ffffff", "#1f2328", "#59636e", "#d8dee4", "#afb8c1"),
            ("#0d1117", "#e6edf3", "#9198a1", "#30363d", "#57606a"))[dark]
        own = COLOURS["shm"][dark]
        return (f".ground{{fill:{ground}}}text{{fill:{ink}}}text.faint{{fill:{faint}}}"
                f".grid{{stroke:{grid}}}.theirs{{fill:{theirs}}}.ours{{fill:{own}}}"
                f"text.ours{{fill:{own}}}"
                + "".join(f".l{i}{{stroke:{pair[dark]}}}text.t{i}{{fill:{pair[dark]}}}"
                          for i, pair in enumerate(COLOURS.values())))
    return ("<style>text{font:13px system-ui,sans-serif}.title{font-size:18px;font-weight:600}"
            ".head{font-size:14px;font-weight:600}path{fill:none;stroke-width:1.8;"
            "stroke-linejoin:round}path.own{stroke-width:3.6}path.edge{stroke-dasharray:5 4}"
            "path.lead{stroke-width:.8;stroke-dasharray:1 3}path.grid{stroke-width:1}"
            "text.own,text.ours{font-weight:600}"
            f"{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}</style>")


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
            f'{escape(words)}</text>')


def path(points: Sequence[Tuple[float, float]], kind: str) -> str:
    return f'<path class="{kind}" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


def page(title: str, about: str, height: float, parts: List[str]) -> str:
    return "\n".join([
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height:.0f}" '
        f'width="{WIDTH}" height="{height:.0f}" role="img"><title>{escape(title)}</title>', style(),
        f'<rect class="ground" width="{WIDTH}" height="{height:.0f}"/>',
        text(16, 30, title, "title"), text(16, 51, about, "faint"), *parts, "</svg>", ""])


def micro(ns: float) -> str:
    us = ns / 1000
    return f"{us:,.{0 if us >= 9.95 else 1 if us >= .995 else 2}f} µs"


# ---- latency.svg: bars on one linear scale -------------------------------------------------------

class Bar(NamedTuple):
    name: str
    ns: float
    remark: str = ""
    ours: bool = True


def groups(rows: List[Row], waiting: List[Row]) -> List[Tuple[str, List[Bar]]]:
    def own(name: str, data: str, wait: str) -> List[Bar]:
        for row in waiting:
            if (row["data"], row["wait"]) == (data, wait):
                cpu = row["cpu_percent"] or ("100" if wait == "spin" else "")
                return [Bar(name, float(row["p50_ns"]), of_a_core(cpu) if cpu else "")]
        return []

    def others(data: str) -> List[Bar]:
        found = []
        for row in rows:
            if row["size"] == "64" and row["transport"] in RIVALS and row[f"{data}_p50_ns"]:
                name = RIVALS[row["transport"]] + (", spinning" if row["read"] == "spin" else "")
                found.append(Bar(name, float(row[f"{data}_p50_ns"]), {
                    "spin": of_a_core("100"), "python": "read in Python"}.get(row["read"], ""),
                    False))
        return sorted(found, key=lambda bar: bar.ns)

    return [("The sender knows beforehand when to send: it has a schedule",
             own("this project", "known", "adaptive")
             + own("this project, spinning", "known", "spin") + others("known")),
            ("The data have only just arrived",
             own("this project, with warm()", "fresh+warm", "adaptive")
             + own("this project, spinning, with warm()", "fresh+warm", "spin")
             + own("this project, without it", "fresh", "adaptive") + others("fresh"))]


def of_a_core(percent: str) -> str:
    return f"the reader takes {float(percent):.0f} % of a core"


def latency(rows: List[Row], waiting: List[Row], machine: str) -> str:
    parts: List[str] = []
    found, y = groups(rows, waiting), 84.0
    most = max(bar.ns for _, bars in found for bar in bars)
    left, step = 290, 24
    # The longest bar has 470 pixels, or as many as leave room for the words behind each bar.
    wide = min([470] + [most / bar.ns * (WIDTH - left - 28 - 8 * len(micro(bar.ns))
                                         - 7.5 * len(bar.remark))
                        for _, bars in found for bar in bars])
    for title, bars in found:
        parts.append(text(16, y, title, "head"))
        y += 8
        for bar in bars:
            kind, width = "ours" if bar.ours else "theirs", max(bar.ns / most * wide, 2)
            words, base = micro(bar.ns), y + 16
            parts += [text(left - 10, base, bar.name, "own" if bar.ours else "", "end"),
                      f'<rect class="{kind}" x="{left}" y="{y + 3:.0f}" width="{width:.1f}" '
                      'height="17"/>',
                      text(left + width + 8, base, words, "ours" if bar.ours else "")]
            if bar.remark:
                parts.append(text(left + width + 20 + 8 * len(words), base, bar.remark, "faint"))
            y += step
        y += 34
    return page("How late a message is seen: 64 bytes, from Python to C",
                f"median at 1,000 messages a second; {machine}", y - 18, parts)


# ---- throughput.svg: one line a transport, its name at its end -----------------------------------

def spaced(wanted: List[float], apart: float, lowest: float) -> List[float]:
    """The same order, at least `apart` from each other, none below `lowest`; wanted is sorted."""
    placed: List[float] = []
    for y in wanted:
        placed.append(max(y, placed[-1] + apart) if placed else y)
    limit = lowest
    for i in reversed(range(len(placed))):
        placed[i] = min(placed[i], limit)
        limit = placed[i] - apart
    return placed


def chart(title: str, about: str, panels: List[Tuple[str, Dict[str, Points]]],
          ticks: List[Tuple[float, str]], along: str, unit: Callable[[float], str]) -> str:
    """Panels side by side on one logarithmic y axis; x runs from 0 to 1."""
    values = [y for _, lines in panels for points in lines.values() for _, y in points]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)) - 1e-9)
    high = max(high, low + 1)
    bottom = HEIGHT - BOTTOM
    wide = (WIDTH - LEFT) / len(panels) - NAMES - 16

    def down(y: float) -> float:
        return bottom - (math.log10(y) - low) / (high - low) * (bottom - TOP)

    out: List[str] = []
    for number, (name, lines) in enumerate(panels):
        left = LEFT + number * (wide + NAMES + 16)
        out.append(text(left, TOP - 14, name, "head"))
        for power in range(low, high + 1):
            y = down(10 ** power)
            out.append(path([(left, y), (left + wide, y)], "grid"))
            if number == 0:
                out.append(text(left - 8, y + 4, unit(10 ** power), anchor="end"))
        for x, words in ticks:
            out.append(path([(left + x * wide, TOP), (left + x * wide, bottom)], "grid"))
            out.append(text(left + x * wide, bottom + 18, words, anchor="middle"))
        out.append(text(left + wide / 2, bottom + 40, along, anchor="middle"))
        ends = sorted((down(points[-1][1]), left + points[-1][0] * wide, line)
                      for line, points in lines.items())
        placed = sorted(zip(ends, spaced([end[0] for end in ends], 17, bottom)),
                        key=lambda found: found[0][2][:3] == "shm")  # ours on top
        for (y, x, line), place in placed:
            i = list(COLOURS).index(line)
            own = " own" if line[:3] == "shm" else " edge" if line == "slice copy" else ""
            out.append(path([(left + a * wide, down(b)) for a, b in lines[line]], f"l{i}{own}"))
            out.append(path([(x + 2, y), (left + wide + 14, place)], f"lead l{i}"))
            out.append(text(left + wide + 17, place + 4, LABELS.get(line, line), f"t{i}{own}"))
    return page(title, about, HEIGHT, out)


def throughput(rows: List[Row], machine: str) -> str:
    def line_of(row: Row) -> str:  # one transport may be read in two ways in one panel
        return row["transport"] + (", adaptive" if row["read"] == "adaptive" else "")

    rows = [row for row in rows if row["bytes_per_s"] and line_of(row) in COLOURS]
    sizes = sorted({int(row["size"]) for row in rows})

    def lines(reads: Sequence[str]) -> Dict[str, Points]:
        found: Dict[str, Points] = {}
        for row in sorted(rows, key=lambda row: int(row["size"])):
            if row["read"] in reads:
                x = sizes.index(int(row["size"])) / max(len(sizes) - 1, 1)
                found.setdefault(line_of(row), []).append((x, float(row["bytes_per_s"])))
        return {name: points for name, points in found.items() if len(points) > 1}
    names = {64: "64 B", 1024: "1 KiB", 65536: "64 KiB", 1 << 20: "1 MiB"}
    ticks = [(i / max(len(sizes) - 1, 1), names.get(size, f"{size} B"))
             for i, size in enumerate(sizes)]
    return chart("Flat out from Python to C", machine,
                 [(name, lines(reads)) for name, reads in PANELS], ticks, "bytes a message",
                 lambda y: f"{y / 1e6:g} MB/s" if y < 1e9 else f"{y / 1e9:g} GB/s")


# ---- files ---------------------------------------------------------------------------------------

def fill(readme: str, folder: str) -> None:
    """The marked blocks of this README that FOLDER has something for."""
    def block(match: "re.Match") -> str:
        path_ = os.path.join(folder, match.group(2))
        if not os.path.exists(path_):
            return match.group()
        with open(path_, encoding="utf-8") as file:
            body = file.read().rstrip("\n")
        if match.group(2).endswith(".txt"):
            body = f"```\n{body}\n```"
        return f"{match.group(1)}\n{body}\n<!-- end -->"

    with open(readme, encoding="utf-8") as file:
        old = file.read()
    new = re.sub(r"(<!-- figures (\S+) -->)\n.*?<!-- end -->", block, old, flags=re.DOTALL)
    with open(readme, "w", encoding="utf-8") as file:
        file.write(new)


def read_table(folder: str, name: str) -> List[Row]:
    with open(os.path.join(folder, name + ".csv"), newline="") as file:
        return list(csv.DictReader(file))


def main(arguments: List[str]) -> Optional[str]:
    if not arguments:
        return "plot.py FOLDER [README.md ...]"
    folder, *readmes = arguments
    tables = {name: read_table(folder, name) for name in ("results", "waiting")}
    with open(os.path.join(folder, "machine.txt"), encoding="utf-8") as file:
        machine = file.read().strip()
    for name, drawn in (("latency", latency(tables["results"], tables["waiting"], machine)),
                        ("throughput", throughput(tables["results"], machine))):
        with open(os.path.join(folder, name + ".svg"), "w", encoding="utf-8") as out:
            out.write(drawn)
    for readme in readmes:
        fill(readme, folder)
    for name in KEPT if readmes else ():
        shutil.copy(os.path.join(folder, name), RESULTS)
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
