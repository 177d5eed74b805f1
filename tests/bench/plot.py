#!/usr/bin/env python3
"""latency.svg and throughput.svg, by the standard library alone.  plot.py results.json [FOLDER]

One line a transport, its name at its end in its colour, light and dark by the reader's setting.
"""
import json
import math
import os
import sys
from html import escape
from typing import Callable, Dict, List, Optional, Sequence, Tuple

Points = List[Tuple[float, float]]
# name: (light, dark); one of these two is always on show, so both must contrast with their ground
COLOURS = {"shm": ("#c2410c", "#fb923c"), "pipe": ("#1d4ed8", "#7aa9ff"),
           "unix stream": ("#15803d", "#4ade80"), "unix seqpacket": ("#be185d", "#f79ac8"),
           "tcp loopback": ("#7e22ce", "#c99bff"), "posix mq": ("#8a5a00", "#f2cf3b"),
           "zeromq": ("#0e7490", "#5fd4e6"), "shm, adaptive": ("#9a3412", "#fdba74"),
           "floor": ("#57606a", "#a5adb8"), "slice copy": ("#57606a", "#a5adb8")}
PANELS = (("readers that spin", ("spin", "-")), ("readers that sleep", ("block", "adaptive", "-")))
LABELS = {"shm": "this project", "shm, adaptive": "its default", "floor": "one cache line",
          "slice copy": "slice copy alone"}
WIDTH, HEIGHT, LEFT, TOP, BOTTOM, NAMES = 1000, 500, 84, 92, 56, 124


def style() -> str:
    def rules(dark: int) -> str:
        ground, ink, faint = (("#ffffff", "#1f2328", "#d8dee4"),
                              ("#0d1117", "#e6edf3", "#30363d"))[dark]
        return (f".ground{{fill:{ground}}}text{{fill:{ink}}}.grid{{stroke:{faint}}}"
                + "".join(f".l{i}{{stroke:{pair[dark]}}}text.t{i}{{fill:{pair[dark]}}}"
                          for i, pair in enumerate(COLOURS.values())))
    return ("<style>text{font:13px system-ui,sans-serif}.title{font-size:18px;font-weight:600}"
            ".head{font-size:14px;font-weight:600}path{fill:none;stroke-width:1.8;"
            "stroke-linejoin:round}path.own{stroke-width:3.6}path.edge{stroke-dasharray:5 4}"
            "path.lead{stroke-width:.8;stroke-dasharray:1 3}path.grid{stroke-width:1}"
            "text.own{font-weight:600}"
            f"{rules(0)}@media(prefers-color-scheme:dark){{{rules(1)}}}</style>")


def text(x: float, y: float, words: str, kind: str = "", anchor: str = "start") -> str:
    return (f'<text x="{x:.1f}" y="{y:.1f}" class="{kind}" text-anchor="{anchor}">'
            f'{escape(words)}</text>')


def path(points: Sequence[Tuple[float, float]], kind: str) -> str:
    return f'<path class="{kind}" d="M{" L".join(f"{x:.1f} {y:.1f}" for x, y in points)}"/>'


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

    out = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
           f'width="{WIDTH}" height="{HEIGHT}" role="img"><title>{escape(title)}</title>', style(),
           f'<rect class="ground" width="{WIDTH}" height="{HEIGHT}"/>',
           text(16, 30, title, "title"), text(16, 50, about)]
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
            own = (" own" if line[:3] == "shm" else
                   " edge" if line in ("floor", "slice copy") else "")
            out.append(path([(left + a * wide, down(b)) for a, b in lines[line]], f"l{i}{own}"))
            out.append(path([(x + 2, y), (left + wide + 14, place)], f"lead l{i}"))
            out.append(text(left + wide + 17, place + 4, LABELS.get(line, line), f"t{i}{own}"))
    return "\n".join(out + ["</svg>", ""])


def micro(ns: float) -> str:
    for size, name in ((1e9, "s"), (1e6, "ms"), (1e3, "µs")):
        if ns >= size:
            return f"{ns / size:g} {name}"
    return f"{ns:g} ns"


def line_of(row: dict) -> str:
    """The same transport may be read in two ways in one panel."""
    return row["transport"] + (", adaptive" if row["read"] == "adaptive" else "")


def latency(rows: List[dict], about: str) -> str:
    def lines(reads: Sequence[str]) -> Dict[str, Points]:
        return {line_of(row): [(i / 24, max(y, 1)) for i, y in enumerate(row["seen"]["curve"])]
                for row in rows if row["size"] == 64 and row["read"] in reads and "seen" in row}
    ticks = [(0.0, "min")] + [(-math.log10(1 - p) / 3, f"{100 * p:g} %")
                              for p in (.5, .9, .99, .999)]
    return chart("Published in Python, seen in C: 64 bytes", about,
                 [(name, lines(reads)) for name, reads in PANELS],
                 ticks, "this part of all messages took at most", micro)


def throughput(rows: List[dict], about: str) -> str:
    sizes = sorted({row["size"] for row in rows})

    def lines(reads: Sequence[str]) -> Dict[str, Points]:
        found: Dict[str, Points] = {}
        for row in sorted(rows, key=lambda row: row["size"]):
            if row["read"] in reads and "bytes_per_s" in row and line_of(row) in COLOURS:
                x = sizes.index(row["size"]) / max(len(sizes) - 1, 1)
                found.setdefault(line_of(row), []).append((x, row["bytes_per_s"]))
        return {name: points for name, points in found.items() if len(points) > 1}
    names = {64: "64 B", 1024: "1 KiB", 65536: "64 KiB", 1 << 20: "1 MiB"}
    ticks = [(i / max(len(sizes) - 1, 1), names.get(size, f"{size} B"))
             for i, size in enumerate(sizes)]
    return chart("Flat out from Python to C", about,
                 [(name, lines(reads)) for name, reads in PANELS],
                 ticks, "bytes a message", lambda y: f"{y / 1e6:g} MB/s" if y < 1e9
                 else f"{y / 1e9:g} GB/s")


def write_plots(folder: str, rows: List[dict], machine: Dict[str, str]) -> None:
    about = "; ".join(machine[part] for part in ("cpu", "system", "python") if machine.get(part))
    pinning = machine.get("pinning")
    about += f"; {pinning}" if pinning and pinning != "none" else ""
    for name, draw in (("latency.svg", latency), ("throughput.svg", throughput)):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            out.write(draw(rows, about))


def main(arguments: List[str]) -> Optional[str]:
    if not 1 <= len(arguments) <= 2:
        return "plot.py results.json [FOLDER]"
    with open(arguments[0]) as file:
        results = json.load(file)
    write_plots(arguments[1] if len(arguments) > 1 else os.path.dirname(arguments[0]) or ".",
                results["results"], results["machine"])
    return None


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
