#!/usr/bin/env python3
"""What waiting costs, and what it delays: the real pair, every figure a ratio in one run.

cmake --build build --target bench-wait    some minutes; one table: target, result, met or not
bench_wait.py --before REV                 and the rows against the project as it was at REV
bench_wait.py --quick                      does each run work? (ctest label bench)

All runs of one round follow each other, every second round backwards; a result is the median over
the rounds of each round's own ratio. README.md beside this file says what the rows are.
"""
import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from math import isfinite
from statistics import median
from typing import Dict, List, NamedTuple, Optional, Tuple

from bench import ENDINGS, Progress, end_by_signal
from pair_runs import Failed, NOW, Runs, Version, build
from transports import short

SPIN, ADAPTIVE, BLOCK = ("--wait", "spin"), ("--wait", "adaptive"), ("--wait", "block")
RATES = {1000: 1.0, 100: 1.5, 20: 2.5}  # messages a second: seconds
TRACE = ("1x500000", "400x1000", "120x10000", "1000x100")  # quiet, 1 kHz, 100 Hz, 10 kHz
PHASES = {"1 kHz": (1, 401), "100 Hz": (401, 521), "10 kHz": (521, 1521)}
Figures = Dict[str, float]


class Row(NamedTuple):
    what: str
    over: str        # the figure, or ...
    under: str       # ... "", or the one that it is divided by
    sign: str = ""   # none: just what it is
    goal: float = 0
    unit: str = ""
    minus: bool = False  # the figure less the other one


WAITING = [
    Row("1 kHz, default: p50 / spin's", "1000 adaptive p50", "1000 spin p50", "<=", 1.2),
    Row("1 kHz, default: p90 / spin's", "1000 adaptive p90", "1000 spin p90", "<=", 2),
    Row("1 kHz, default: CPU, points over block's", "1000 adaptive cpu", "1000 block cpu", "<=", 12,
        minus=True),
    Row("100 Hz, default: p50 / spin's", "100 adaptive p50", "100 spin p50", "<=", 1.5),
    Row("100 Hz, default: CPU", "100 adaptive cpu", "", "<=", 2, "%"),
    Row("20 Hz, default: p50 / spin's", "20 adaptive p50", "20 spin p50", "<=", 5),
    Row("20 Hz, default: CPU", "20 adaptive cpu", "", "<=", 1, "%"),
    Row("random gaps, default: p50 / block's", "random adaptive p50", "random block p50", "<=",
        1.05),
    Row("random gaps, default: CPU", "random adaptive cpu", "", "<=", 30, "%"),
    Row("nothing for 10 s, default: CPU", "idle cpu", "", "<=", .3, "%"),
    *(Row(f"not pinned, 1 kHz, {name}: {p} / pinned spin's", f"free {mode} {p}", f"1000 spin {p}",
          "<=", goal) for name, mode in (("default", "adaptive"), ("spin", "spin"))
      for p, goal in (("p50", 2), ("p90", 50))),
    *(Row(f"late sleeps, 1 kHz, default: {p} / spin's", f"noisy adaptive {p}", f"noisy spin {p}",
          "<=", goal) for p, goal in (("p50", 1.2), ("p90", 3))),
    Row("late sleeps: CPU, points over block's + lateness", "noisy adaptive cpu", "noisy allowed",
        "<=", 5, minus=True),
    *(Row(f"fresh data, {name}: call -> seen, warm / cold", f"warm {mode}", f"cold {mode}", "<=",
          .5) for name, mode in (("default", "adaptive"), ("spin", "spin"))),
    *(Row(f"fresh data, warm, {name}: / data known before", f"warm {mode}", f"1000 {mode} due",
          "<=", 5) for name, mode in (("default", "adaptive"), ("spin", "spin"))),
    *(Row(f"then {name}: learned after", f"learned {name}", "", "<=", 32, " messages")
      for name in PHASES),
    *(Row(f"CPUs busy, 1 kHz, default: {p} / block's", f"busy adaptive {p}", f"busy block {p}",
          "<=", goal) for p, goal in (("p50", 1), ("p90", 2), ("p99", 5))),
    Row("CPUs busy, 1 kHz, spin: p50 / before", "busy spin p50", "before busy spin p50", "<=", .5),
    Row("two clients that spin on one CPU: seen", "two spinners seen", "", ">=", .99),
    Row("host and client that spin on one CPU: trips", "one CPU trips", "", ">=", 50, " a second"),
    Row("ten default readers: due -> seen p50 / block's", "ten adaptive due", "ten block due", "<=",
        1.2),
    Row("full rate: published, blocking / spinning reader", "flat block", "flat spin", ">=", .85),
    Row("full rate: published, default / spinning reader", "flat adaptive", "flat spin", ">=", .95),
    Row("1 kHz, blocking reader: wake calls a sleep", "1 kHz wakes", "1 kHz sleeps", "<=", 2),
    Row("full rate, blocking reader: wake calls a sleep", "flat wakes", "flat sleeps", "<=", 2),
    *(Row(f"host.py at {rate} Hz: {name} / before", f"{rate} spin {key}",
          f"before {rate} spin {key}", "<=", .5)
      for rate in (1000, 100) for name, key in (("publish", "publish"), ("due -> seen", "due"))),
    Row("host.py flat out, nobody there / before", "flat nobody", "before flat nobody", ">=", 1.1)]
COMPARED = [
    Row("publish -> seen p50, 1 kHz, spinning", "1000 spin p50", "before 1000 spin p50", "<=",
        1.05),
    Row("published a second, nobody there", "flat nobody", "before flat nobody", ">=", .95),
    Row("published a second, a spinning reader", "flat spin", "before flat spin", ">=", .95),
    Row("published a second, a lossless reader", "flat lossless", "before flat lossless", ">=",
        .95),
    Row("round trip p50, 64 B, spinning", "trip", "before trip", "<=", 1.05),
    Row("attach: open, stat, map, check", "attach", "before attach", "<=", 1.05)]
FURTHER = [Row(f"published a second, {n} that spin / nobody", f"flat {n} spinning", "flat nobody")
           for n in (1, 2, 3, 4)]


class Round:
    """The runs of one round; each of jobs() is a call that puts what it measured into figures."""

    def __init__(self, runs: Runs, before: Optional[Version], quick: bool, turn: int) -> None:
        self.runs, self.before, self.turn, self.quick = runs, before, turn, quick
        self.scale = .15 if quick else 1
        self.figures: Dict[str, float] = {}

    def jobs(self) -> List[Tuple]:
        found: List[Tuple] = [(self.learned,), (self.one_cpu,), (self.wakes,)]
        found += [(self.paced, "", NOW, rate, mode) for rate in RATES for mode in (SPIN, ADAPTIVE)]
        found += [(self.paced, "", NOW, 1000, BLOCK), (self.noisy,)]
        found += [(job, mode) for job in (self.free, self.fresh) for mode in (ADAPTIVE, SPIN)]
        found += [(job, mode) for job in (self.random, self.ten) for mode in (ADAPTIVE, BLOCK)]
        found += [(self.busy, "", NOW, mode) for mode in (ADAPTIVE, BLOCK, SPIN)]
        found += [(self.flat, f"flat {name}", NOW, *clients) for name, clients in (
            ("spin", (SPIN,)), ("block", (BLOCK,)), ("adaptive", (ADAPTIVE,)), ("nobody", ()),
            *((f"{n} spinning", (SPIN,) * n) for n in (1, 2, 3, 4)))]
        if self.turn < 3:  # ten seconds, and nothing that could vary much
            found += [(self.idle,)]
        if self.before:
            old = self.before
            found += [(self.paced, "before ", old, rate, SPIN) for rate in (1000, 100)]
            found += [(self.busy, "before ", old, SPIN), (self.flat, "before flat nobody", old),
                      (self.flat, "before flat spin", old, SPIN)]
            for mark, version in (("", NOW), ("before ", old)):
                found += [(self.flat, mark + "flat lossless", version, (*SPIN, "--lossless")),
                          (self.trip, mark, version), (self.attach, mark, version)]
        return found[::-1] if self.turn % 2 else found

    def rate(self, rate: int, seconds: float) -> Tuple[str, ...]:
        return "--rate", str(rate), "--count", str(max(int(rate * seconds * self.scale), 5))

    def paced(self, mark: str, version: Version, rate: int, mode: Tuple[str, str]) -> None:
        host, (client,) = self.runs.pair(version, self.rate(rate, RATES[rate]), mode)
        for name, value in (("p50", client["latency_ns"]["p50"]),
                            ("p90", client["latency_ns"]["p90"]),
                            ("cpu", client["cpu"]["percent"]),
                            ("publish", host["publish_ns"]["p50"]),
                            ("due", client["due_latency_ns"]["p50"])):
            self.figures[f"{mark}{rate} {mode[1]} {name}"] = value

    def free(self, mode: Tuple[str, str]) -> None:
        """Not pinned, as a newcomer runs it."""
        both = self.runs.cpus
        _, (client,) = self.runs.pair(NOW, self.rate(1000, 1.5), mode, on=both)
        for name in ("p50", "p90"):
            self.figures[f"free {mode[1]} {name}"] = client["latency_ns"][name]

    def noisy(self) -> None:
        """With sleeps made late. What that lets the default spin for is p97 - p50 of a sleep."""
        for mode in (ADAPTIVE, SPIN, BLOCK):
            late = self.runs.noise()
            _, (client,) = self.runs.pair(NOW, self.rate(1000, 1.5), mode)
            if mode == ADAPTIVE:
                self.figures.update({f"sleep {p}": late[p] for p in late})
            for name in ("p50", "p90"):
                self.figures[f"noisy {mode[1]} {name}"] = client["latency_ns"][name]
            self.figures[f"noisy {mode[1]} cpu"] = client["cpu"]["percent"]
        self.figures["noisy allowed"] = (self.figures["noisy block cpu"] + 100 * (
            self.figures["sleep p97"] - self.figures["sleep p50"]) / 1e6)

    def fresh(self, mode: Tuple[str, str]) -> None:
        """Data that nobody could prepare: from before the call of send to when C has seen them."""
        for kind in ("warm", "cold"):
            phase = f"{int(1500 * self.scale)}{kind[0]}1000"
            _, (reader,) = self.runs.rhythm([phase], mode[1], reader="take")
            self.figures[f"{kind} {mode[1]}"] = reader["whole"]["p50"]

    def flat(self, name: str, version: Version, *clients: Tuple[str, ...]) -> None:
        host, _ = self.runs.pair(version, ("--rate", "0"), *clients, seconds=.5)
        self.figures[name] = host["rate_hz"]

    def busy(self, mark: str, version: Version, mode: Tuple[str, str]) -> None:
        _, (client,) = self.runs.pair(version, self.rate(1000, 1.5), mode, burn=True)
        for name in ("p50", "p90", "p99"):
            self.figures[f"{mark}busy {mode[1]} {name}"] = client["latency_ns"][name]

    def trip(self, mark: str, version: Version) -> None:
        how = ("--echo", "--rate", "0", "--count", str(int(60_000 * self.scale)))
        host, _ = self.runs.pair(version, how, (*SPIN, "--echo"))
        self.figures[mark + "trip"] = host["round_trip_ns"]["p50"]

    def attach(self, mark: str, version: Version) -> None:
        self.figures[mark + "attach"] = self.runs.attach_us(version, 3 if self.quick else 15)

    def random(self, mode: Tuple[str, str]) -> None:
        phase = f"{int(1200 * self.scale)}~1000"  # the same gaps for both
        _, (client,) = self.runs.rhythm([phase], mode[1], seed=self.turn)
        self.figures[f"random {mode[1]} p50"] = client["latency_ns"]["p50"]
        self.figures[f"random {mode[1]} cpu"] = client["cpu"]["percent"]

    def ten(self, mode: Tuple[str, str]) -> None:
        two = self.runs.cpus[:2]
        _, clients = self.runs.rhythm([f"{int(1500 * self.scale)}x1000"], *[mode[1]] * 10,
                                      host_on=two, on=two)
        self.figures[f"ten {mode[1]} due"] = median(
            client["due_latency_ns"]["p50"] for client in clients)

    def learned(self) -> None:
        """After how many messages of a new rhythm are 16 in a row seen as soon as by spinning? As
        soon: their median is at most twice that of the spinning reader's second half."""
        ages = {mode: self.runs.rhythm(TRACE, mode, reader="trace")[1][0]["ages"]
                for mode in ("adaptive", "spin")}
        for name, (begin, end) in PHASES.items():
            limit = 2 * median(ages["spin"][(begin + end) // 2:end])
            good = (k - begin for k in range(begin, end - 15)
                    if median(ages["adaptive"][k:k + 16]) <= limit)
            self.figures[f"learned {name}"] = next(good, end - begin)

    def one_cpu(self) -> None:
        one = self.runs.others[:1]
        _, two = self.runs.rhythm([f"{int(1000 * self.scale)}x1000"], "spin", "spin", on=one)
        self.figures["two spinners seen"] = min(
            client["messages"] / max(client["messages"] + client["lost"], 1) for client in two)
        host, _ = self.runs.pair(NOW, ("--rate", "0", "--echo"), (*SPIN, "--echo"), seconds=.6,
                                 on=one)
        self.figures["one CPU trips"] = host["rate_hz"]

    def wakes(self) -> None:
        for name, count, gap in (("1 kHz", 800, 1000), ("flat", 200_000, 0)):
            phase = f"{int(count * self.scale)}x{gap}"
            host, (client,) = self.runs.rhythm([phase], "block")
            self.figures[name + " wakes"] = host["wakes"]
            self.figures[name + " sleeps"] = max(client["waits"]["slept"], 1)

    def idle(self) -> None:
        _, (client,) = self.runs.pair(NOW, ("--input", "-", "--rate", "1"), ADAPTIVE,
                                      seconds=.5 if self.quick else 10)
        self.figures["idle cpu"] = client["cpu"]["percent"]


def result(row: Row, rounds: List[Figures]) -> Optional[float]:
    """The median of the rounds' ratios; None: nobody measured it."""
    found = [figures for figures in rounds if row.over in figures]
    if not found or row.under and row.under not in found[0]:
        return None
    if row.minus:
        return median(figures[row.over] - figures[row.under] for figures in found)
    return median(figures[row.over] / (figures[row.under] if row.under else 1)
                  for figures in found)


def table(title: str, rows: List[Row], rounds: List[Figures]) -> str:
    lines = [f"{title:50}{'result':>10}  target"]
    for row in rows:
        value = result(row, rounds)
        if value is None:
            lines.append(f"  {row.what:48}{'-':>10}  needs --before REV")
            continue
        if not isfinite(value) or value < 0 and not row.minus:
            raise Failed(f"{row.what}: impossible: {value}")
        met = value <= row.goal if row.sign == "<=" else value >= row.goal
        goal = f"{row.sign} {row.goal:g}{row.unit}"
        said = f"{goal:16} {'met' if met else 'NOT met'}"
        lines.append(f"  {row.what:48}{value:10.3g}  {said if row.sign else ''}".rstrip())
    return "\n".join(lines)


def at_1_khz(rounds: List[Figures]) -> str:
    """What the README begins with."""
    lines = [f"{'1 kHz, client waits by':24}{'p50':>10}{'p90':>10}  CPU"]
    for name in ("adaptive", "spin", "block"):
        p50, p90, cpu = (median(figures[f"1000 {name} {key}"] for figures in rounds)
                         for key in ("p50", "p90", "cpu"))
        lines.append(f"  {name:22}{p50 / 1000:7.2f} us{p90 / 1000:7.2f} us  {cpu:.1f} %")
    return "\n".join(lines)


def in_words(rounds: List[Figures]) -> str:
    """The figures beside the ratios."""
    def us(name: str) -> str:
        return f"{median(figures[name] for figures in rounds) / 1000:.1f}"

    late = [us(f"sleep {p}") for p in ("p50", "p90", "p99")]
    lines = ["late sleeps: a sleep of 1 ms ended late by {} us at p50, {} at p90, {} at p99".format(
        *late) + ("" if float(late[2]) > 200 else "; too little to prove much")]
    for name, mode in (("spin", "spin"), ("default", "adaptive")):
        lines.append(f"{name}: data known before they are due are seen {us(f'1000 {mode} due')} us "
                     f"after that; data that just arrived, {us(f'warm {mode}')} us after the call "
                     f"of send if warm() ran until then, {us(f'cold {mode}')} us if not")
    return "\n".join(lines)


def write_files(folder: str, printed: str, rounds: List[Figures]) -> None:
    """For plot.py: what was printed, what its picture shows, and the table that README.md has."""
    def middle(name: str) -> float:
        return median(figures[name] for figures in rounds)

    rows = [("known", mode, middle(f"1000 {mode} due"), middle(f"1000 {mode} cpu"))
            for mode in ("adaptive", "spin", "block")]
    rows += [(data, mode, middle(f"{kind} {mode}"), "") for mode in ("adaptive", "spin")
             for data, kind in (("fresh", "cold"), ("fresh+warm", "warm"))]
    csv = "\n".join(",".join(map(str, row)) for row in [("data", "wait", "p50_ns", "cpu_percent"),
                                                       *rows])
    headline = ["| client waits by | age when seen, p50 / p90 | of a core |", "|---|---|---|"]
    for mode, name in (("adaptive", "**`adaptive`, the default**"), ("spin", "`spin`"),
                       ("block", "`block`")):
        p50, p90 = (short(middle(f"1000 {mode} {p}"), 1e-3) for p in ("p50", "p90"))
        headline.append(f"| {name} | {p50} / {p90} us | {middle(f'1000 {mode} cpu'):.3g} % |")
    os.makedirs(folder, exist_ok=True)
    for name, text in (("waiting.txt", printed), ("waiting.csv", csv),
                       ("headline.md", "\n".join(headline))):
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            print(text, file=out)


def measure(options: argparse.Namespace, cpus: List[int]) -> List[Figures]:
    rounds: List[Figures] = []
    with Runs(cpus) as runs, tempfile.TemporaryDirectory(prefix="shmwait-") as folder:
        before = build(options.before, folder) if options.before else None
        progress = None
        for turn in range(options.rounds):
            one = Round(runs, before, options.quick, turn)
            jobs = one.jobs()
            progress = progress or Progress(options.rounds * len(jobs))
            for job, *arguments in jobs:
                progress.tick(f"round {turn + 1} of {options.rounds}: {job.__name__}")
                job(*arguments)
            rounds.append(one.figures)
        progress.end()
    return rounds


def main() -> int:
    parser = argparse.ArgumentParser(description="What waiting costs, and what it delays.")
    add = parser.add_argument
    add("--quick", action="store_true", help="short runs, one round: does each work?")
    add("--rounds", type=int, choices=range(1, 100), metavar="N", help="(9; quick: 1)")
    add("--output", metavar="FOLDER", help="of waiting.txt, waiting.csv, headline.md, for plot.py")
    add("--before", metavar="REV", help="measure against the project at this revision of git, too")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 9)
    cpus = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if len(cpus) < 2:
        print("bench_wait.py: skipped: it pins, and needs two CPUs", file=sys.stderr)
        return 77
    for number in ENDINGS:
        signal.signal(number, end_by_signal)
    begin = time.monotonic()
    try:
        rounds = measure(options, cpus)
        parts = [at_1_khz(rounds), table("waiting", WAITING, rounds), in_words(rounds),
                 table("each further reader", FURTHER, rounds)
                 + f"\n  (host.py on CPU {cpus[0]}; the readers share {len(cpus) - 1} others)"]
        if options.before:
            parts.append(table(f"beside {options.before}", COMPARED, rounds))
        parts.append(f"{len(rounds)} rounds in {time.monotonic() - begin:.0f} s; load before and "
                     "in it %.2f %.2f %.2f" % os.getloadavg())
        print("\n\n".join(parts))
        if options.output:
            write_files(options.output, "\n\n".join(parts), rounds)
        return 0
    except KeyboardInterrupt as ending:
        print("bench_wait.py: ended by a signal", file=sys.stderr)
        return 128 + (ending.args[0] if ending.args else signal.SIGINT)
    except (Failed, OSError, subprocess.SubprocessError) as error:
        print(f"bench_wait.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
