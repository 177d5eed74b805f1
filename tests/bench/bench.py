#!/usr/bin/env python3
"""Shared memory beside what one would use instead: one job, Python to C, over each of them.

cmake --build build --target bench       some minutes; the table here, the files in build/bench
bench.py --quick                         is everything there and sane? (ctest label bench)

Rounds are interleaved (A B C A B C ...), every figure is the median over them, and a ratio is the
median of each round's ratio: a machine that drifts favours nobody. Latency is measured paced, so
that no queue is part of it; throughput flat out. Readers are compared with those that read the same
way. README.md beside this file says how to read the table, and what adaptive is compared with.
"""
import argparse
import csv
import gc
import json
import os
import platform
import signal
import subprocess
import sys
import time
from statistics import median
from typing import Callable, Dict, List, Optional, Tuple

import python_pair
import transports
from transports import (Broken, Copy, Pipe, RINGS, ROOT, Shm, ShmRead, Stream, TRANSPORTS,
                        Transport, ZeroMq, short, spread)

READER = os.environ.get("BENCH_READER", os.path.join(ROOT, "build", "tests", "bench_reader"))
RATES = {64: 10_000, 1024: 10_000, 65536: 4_000, 1 << 20: 400}  # paced, messages a second
ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
WATCHDOG_S = 30
READS = ("spin", "adaptive", "block")
AWAITED, AWAITED_RATE = ("known", "fresh"), 1000  # see transports.awaited
Key = Tuple[str, str, int]  # transport, how it is read, bytes
# name, where it stands among the figures, is more better?
GOALS = (("p50", ("seen", "p50"), False), ("whole", ("whole", "p50"), False),
         ("msg/s", ("rate",), True), ("CPU", ("cpu_s_per_million",), False),
         ("trip", ("trip", "p50"), False))


def rivals_read(read: str, figure: str) -> str:
    """How the others read where we read like this: only shared memory is adaptive. That one sleeps
    when nothing comes, so it is measured against who does so, too; but in a round trip it is awake
    all the time, and the Python side as well, so there against who spins."""
    return read if read != "adaptive" else "spin" if figure == "trip" else "block"


def size_name(size: int) -> str:
    return f"{size} B" if size < 1024 else f"{size >> 10} KiB" if size < 1 << 20 else "1 MiB"


class Progress:
    def __init__(self, total: int) -> None:
        self.begin, self.total, self.done = time.monotonic(), total, 0
        self.shown = sys.stderr.isatty() and os.environ.get("TERM") != "dumb"

    def tick(self, what: str = "publish") -> None:
        self.done += 1
        left = (time.monotonic() - self.begin) * (self.total / self.done - 1)
        if self.shown:
            print(f"\r\033[K{100 * self.done // self.total:4d} %  {left:4.0f} s left  {what}",
                  end="", file=sys.stderr, flush=True)

    def end(self) -> None:
        if self.shown:
            print("\r\033[K", end="", file=sys.stderr, flush=True)


def pinned(cpus: List[int]) -> None:
    if cpus:
        os.sched_setaffinity(0, cpus[:1])


class Bench:
    def __init__(self, options: argparse.Namespace, cpus: List[int]) -> None:
        self.options, self.cpus, self.reader = options, cpus, None
        self.rounds: List[Dict[Key, dict]] = []
        self.missing: Dict[str, str] = {}  # transport at a size: why there is none
        quick = options.quick
        self.seconds, self.awaited_s = (.04, .05) if quick else (.25, .4)
        self.sizes = [64, 1 << 20] if quick else sorted(RATES)

    # -- one measurement

    def start(self, *arguments: object, fds: Tuple[int, ...] = ()) -> None:
        self.reader = subprocess.Popen([READER, *map(str, arguments)], pass_fds=fds,
                                       stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True)

    def figures(self) -> dict:
        reader, self.reader = self.reader, None
        out = reader.communicate()[0]
        if reader.returncode:
            raise Broken(f"bench_reader ended with {reader.returncode}: {out}")
        return json.loads(out)

    def stop_reader(self) -> None:
        if self.reader:
            self.reader.kill()
            self.reader.communicate()
            self.reader = None

    def cpu(self, index: int) -> int:
        return self.cpus[index] if self.cpus else -1

    def measure(self, link: Transport, job: str) -> dict:
        """One job over one transport, with a fresh reader."""
        settled = max(int(RATES[link.size] * self.seconds * .05), 5)  # of the paced ones: warm-up
        warm_up = link.warm_up + (settled if job == "paced" else 0)
        looks = job == "paced" or link.size >= 65536 and link.name != Shm.name
        self.start(link.kind, link.read, link.size, warm_up,
                   "echo" if job == "trips" else "read" if looks else "take", self.cpu(1),
                   *link.place(), fds=tuple(link.readers))
        link.started()
        if self.reader.stdout.readline() != "ready\n":
            raise Broken("bench_reader did not start")
        count = int(RATES[link.size] * self.seconds)
        result: dict = {}
        if job == "paced":
            costs = transports.paced(link, count + settled, 10 ** 9 // RATES[link.size])
            sent, result["send"] = link.warm_up + len(costs), spread(costs[settled:])
        elif job in AWAITED:
            count = int(AWAITED_RATE * self.awaited_s)
            sent = transports.awaited(link.send, count, job == "known", transports.warm(link))
            link.send(0, sent + 1)
        elif job == "flat":
            messages, _, cpu = transports.flat_out(link, self.seconds * .7)
            sent = link.warm_up + messages
        else:
            times = transports.trips(link, self.seconds * .7)
            sent, result["trip"] = link.warm_up + len(times), spread(times)
        read = self.figures()
        if read["count"] != sent or read["bad"]:
            raise Broken(f"{sent} messages sent, {read['count']} came, {read['bad']} damaged")
        if job == "paced":
            result.update(seen=read["seen"], whole=read["whole"])
        elif job in AWAITED:
            result[job] = read["seen"]
        elif job == "flat":
            rate = messages / read["elapsed_ns"] * 1e9
            result.update(rate=rate, bytes_per_s=rate * link.size, messages=messages,
                          cpu_s_per_million=(cpu + read["cpu_ns"]) / messages * 1e-3)
        return result

    def python(self, name: str, size: int, job: str) -> dict:
        """From Python to Python; flat out in bursts, so that a queue stays short."""
        def awaited(send: Callable[[int, int], None]) -> int:
            return transports.awaited(send, int(AWAITED_RATE * self.awaited_s), False)

        def flat(send: Callable[[int, int], None]) -> int:
            n, end = 0, time.monotonic() + self.awaited_s
            while time.monotonic() < end:
                for n in range(n + 1, n + 1001):
                    send(transports.now(), n)
            return n

        found, sent = python_pair.measure(name, size, flat if job == "flat" else awaited,
                                          self.cpu(1))
        if job != "flat":
            return {job: found["seen"]}
        rate = found["seen"]["count"] / found["elapsed_ns"] * 1e9
        return {"rate": rate, "bytes_per_s": rate * size, "messages": sent,
                "lost": found["lost"] / sent}

    def floor(self) -> dict:
        self.start("floor", "spin", 10 ** 9 // RATES[64], 100,
                   100 + int(RATES[64] * self.seconds), self.cpu(1), self.cpu(0))
        read = self.figures()
        return {"seen": read["seen"], "whole": read["whole"]}

    def copy(self, size: int) -> dict:
        link = Copy(size, "spin")
        try:
            messages, elapsed, _ = transports.flat_out(link, self.seconds * .7)
        finally:
            link.close()
        rate = messages / elapsed * 1e9
        return {"rate": rate, "bytes_per_s": rate * size, "messages": messages}

    def one(self, kind: Optional[type], key: Key, job: str) -> dict:
        """With a watchdog: SIGALRM raises wherever the writer waits."""
        name, read, size = key
        signal.setitimer(signal.ITIMER_REAL, WATCHDOG_S)
        try:
            if read == "python":
                return self.python(name, size, job)
            if kind is None:
                return self.floor() if name == "floor" else self.copy(size)
            link = kind(size, read)
            try:
                return self.measure(link, job)
            finally:
                self.stop_reader()
                link.close()
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.stop_reader()

    # -- all of them

    def plan(self) -> List[Tuple[Optional[type], Key, str]]:
        plan: List[Tuple[Optional[type], Key, str]] = [(None, ("floor", "spin", 64), "paced")]
        for size in self.sizes:
            plan.append((None, ("slice copy", "-", size), "flat"))
            for job in ("paced", "flat", "trips"):
                for read in READS:
                    kinds = TRANSPORTS if read != "adaptive" else [Shm]
                    plan += [(kind, (kind.name, read, size), job) for kind in kinds]
                    if job == "flat" and size >= 65536:
                        plan.append((ShmRead, (ShmRead.name, read, size), job))
        plan += [(kind, (kind.name, "spin", 1 << 20), job)
                 for job in ("paced", "flat", "trips") for kind in RINGS]
        plan += [(kind, (kind.name, read, 64), job) for job in AWAITED
                 for kind, read in ((Pipe, "spin"), (Pipe, "block"), (Stream, "block"),
                                    (ZeroMq, "block"))]
        plan += [(None, (name, "python", size), job) for size in python_pair.SIZES
                 for job in ("fresh", "flat") for name in (python_pair.READER, python_pair.QUEUE)]
        return plan

    def run(self) -> None:
        plan, rounds = self.plan(), self.options.rounds
        publish_rounds = max(3 * rounds, 3)
        progress = Progress(rounds * len(plan) + publish_rounds * 2)
        gc.disable()
        try:
            for turn in range(rounds):
                figures: Dict[Key, dict] = {}
                for kind, key, job in plan:
                    progress.tick(f"round {turn + 1} of {rounds}: {key[0]}, {key[1]}, "
                                  f"{size_name(key[2])}, {job}")
                    where = f"{key[0]} at {size_name(key[2])}"
                    if where in self.missing:
                        continue
                    try:
                        figures.setdefault(key, {}).update(self.one(kind, key, job))
                    except OSError as error:
                        if kind is Shm or turn:
                            raise
                        self.missing[where] = error.strerror or str(error)
                        figures.pop(key)
                    gc.collect()
                self.rounds.append(figures)
            self.publish = transports.publish_costs(publish_rounds,
                                                    2_000 if self.options.quick else 65_536,
                                                    progress.tick)
        finally:
            progress.end()
            gc.enable()

    # -- figures over the rounds

    def value(self, key: Key, *path: str) -> Optional[float]:
        values = [self.at(figures, key, *path) for figures in self.rounds]
        return None if None in values else median(values)

    @staticmethod
    def at(figures: Dict[Key, dict], key: Key, *path: str) -> Optional[float]:
        found = figures.get(key)
        for name in path:
            found = found.get(name) if found else None
        return found

    def ratio(self, key: Key, base: Key, *path: str) -> Optional[float]:
        pairs = [(self.at(f, key, *path), self.at(f, base, *path)) for f in self.rounds]
        return median(a / b for a, b in pairs) if all(a and b for a, b in pairs) else None

    def publish_ratio(self) -> float:
        return median(row["calls"] / row["inlined"] for row in self.publish)

    def check(self) -> None:
        """Complete, and sane; never: fast."""
        for figures in self.rounds:
            for key, found in figures.items():
                for name in ("seen", "whole", "send", "trip", *AWAITED):
                    s = found.get(name)
                    if s and not (s["count"] > 0 and
                                  0 <= s["min"] <= s["p50"] <= s["p99"] <= s["p99_9"] <= s["max"]):
                        raise Broken(f"{key}, {name}: impossible figures {s}")
                wanted = {"floor": {"seen"}, "slice copy": {"rate"}, ShmRead.name: {"rate"}}.get(
                    key[0], {"rate", "fresh"} if key[1] == "python" else
                    {"seen", "whole", "send", "rate", "cpu_s_per_million", "trip"})
                if not wanted <= set(found) or not found.get("rate", 1) > 0:
                    raise Broken(f"{key}: incomplete, only {sorted(found)}")
        for read in READS:
            names = ("shm", "pipe", "unix stream", "tcp loopback")
            for name in names if read != "adaptive" else names[:1]:
                if any((name, read, size) not in self.rounds[0] for size in self.sizes):
                    raise Broken(f"{name}, {read}: missing")

    def missed(self) -> List[str]:
        """The cells in which another transport is better by more than 5 %; blocked round trips,
        which are the kernel's own wake-up: 20 %. Of large messages every reader looks at every line
        where flat out is compared."""
        found = []
        for size in self.sizes:
            for read in READS:
                for figure, path, more in GOALS:
                    flat = len(path) == 1 and size >= 65536
                    own = (ShmRead.name if flat else Shm.name, read, size)
                    for kind in TRANSPORTS[1:]:
                        other = (kind.name, rivals_read(read, figure), size)
                        ratio = self.ratio(other, own, *path)
                        limit = 1.2 if (figure, read) == ("trip", "block") else 1.05
                        times = (ratio if more else 1 / ratio) if ratio else 0
                        if times > limit:
                            found.append(f"{figure:6}{size_name(size):7}{read:9} {kind.name} "
                                         f"({other[1]}) is {times:.2f} times as good")
        return found

    def targets(self) -> List[dict]:
        """What the project promises; informational. Each a ratio within one run."""
        names = [kind.name for kind in TRANSPORTS if kind is not Shm]
        small, large = ("shm", "spin", 64), ("shm", "spin", 1 << 20)

        def best(read: str) -> float:
            found = [self.ratio((name, read, 64), small, "seen", "p50") for name in names]
            return min(value for value in found if value)

        sockets = [(name, read, 1 << 20) for name in names if name not in ("pipe", "posix mq")
                   for read in ("spin", "block")]
        over = [self.ratio(large, key, "rate") for key in sockets]
        stream = "unix stream"
        rows = [
            ("publish to seen, 64 B, in floors", self.ratio(small, ("floor", "spin", 64), "seen",
                                                            "p50"), "<=", 2.5),
            ("fastest spun kernel transport / shm spun", best("spin"), ">=", 2.3),
            ("fastest blocking kernel transport / shm spun", best("block"), ">=", 25),
            ("reserve, copy, commit / the same stores in a loop", self.publish_ratio(), "<=", 1.5),
            ("1 MiB messages / slice copies alone",
             self.ratio(large, ("slice copy", "-", 1 << 20), "rate"), ">=", .8),
            ("1 MiB messages / best socket", min(value for value in over if value), ">=", 4),
            ("round trip, 64 B / unix stream spun",
             self.ratio(small, (stream, "spin", 64), "trip", "p50"), "<=", .5),
            ("round trip, 64 B / unix stream blocking",
             self.ratio(small, (stream, "block", 64), "trip", "p50"), "<=", 1 / 15)]
        met = {"<=": lambda v, g: v <= g, ">=": lambda v, g: v >= g,
               "~": lambda v, g: 1 / g <= v <= g}
        return [{"target": name, "ratio": value, "sign": sign, "goal": goal,
                 "met": met[sign](value, goal)} for name, value, sign, goal in rows]


# ---- out -----------------------------------------------------------------------------------------

def facts(cpus: List[int]) -> Dict[str, str]:
    def first(path: str, start: str = "") -> str:
        try:
            with open(path) as lines:
                return next(line.split(":")[-1].strip() for line in lines if line.startswith(start))
        except (OSError, StopIteration):
            return ""
    cpu = first("/proc/cpuinfo", "model name") or first("/proc/device-tree/model").strip("\0")
    if sys.platform == "darwin":
        cpu = subprocess.run(["sysctl", "-n", "machdep.cpu.brand_string"], text=True,
                             stdout=subprocess.PIPE).stdout.strip()
    reader = json.loads(subprocess.run([READER, "facts"], stdout=subprocess.PIPE,
                                       check=True).stdout)
    governor = first("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return {"cpu": f"{cpu or platform.processor()}, {os.cpu_count()} CPUs"
                   + (f", governor {governor}" if governor else ""),
            "system": f"{platform.system()} {platform.release()} {platform.machine()}",
            "python": f"{platform.python_implementation()} {platform.python_version()}",
            "compiler": reader["compiler"],
            "ZeroMQ": f"{transports.zmq.zmq_version()}, C side {reader['libzmq']}"
                      if transports.zmq else "python3-zmq is not installed",
            "clock": f"{reader['clock']}, {reader['clock_cost_ns']} ns a look in C",
            "pinning": f"writer on CPU {cpus[0]}, reader on CPU {cpus[1]}" if cpus else "none",
            "load before": "%.2f %.2f %.2f" % os.getloadavg()}


def table(bench: Bench) -> str:
    lines = ["Times in us. p50 p99 p99.9: publish -> seen (the kernel's: before the send -> seen).",
             "whole: before the send -> all its cache lines looked at. send: the call in Python.",
             "msg/s, MB/s, CPU of both sides: flat out, taken. trip: Python -> C -> Python.",
             "x: times this project's figure, read the same way. '-': not to be had, or too few."]
    head = (f"{'':15}{'read':9}{'p50':>8}{'p99':>8}{'p99.9':>8}{'x':>6}{'whole':>8}{'x':>6}"
            f"{'send':>8}{'msg/s':>9}{'MB/s':>8}{'x':>6}{'CPU s/1e6':>10}{'trip':>8}{'x':>6}")
    for size in bench.sizes:
        lines += ["", f"{size_name(size)}{head[len(size_name(size)):]}"]
        kinds = TRANSPORTS[:1] + [ShmRead] + TRANSPORTS[1:] if size >= 65536 else TRANSPORTS
        keys = [(kind.name, read, size) for read in READS for kind in kinds
                if read != "adaptive" or issubclass(kind, Shm)]
        if size == 64:
            keys.insert(0, ("floor", "spin", 64))
        for key in keys + [("slice copy", "-", size)]:
            def value(*path: str) -> Optional[float]:
                return bench.value(key, *path)

            def ratio(*path: str, invert: bool = False) -> str:
                found = bench.ratio(key, ("shm", key[1], size), *path)
                return short(1 / found if found and invert else found)
            count = value("seen", "count") or 0
            lines.append(
                f"{key[0]:15}{key[1]:9}{short(value('seen', 'p50'), 1e-3):>8}"
                f"{short(value('seen', 'p99'), 1e-3, count >= 100):>8}"
                f"{short(value('seen', 'p99_9'), 1e-3, count >= 1000):>8}"
                f"{ratio('seen', 'p50'):>6}{short(value('whole', 'p50'), 1e-3):>8}"
                f"{ratio('whole', 'p50'):>6}{short(value('send', 'p50'), 1e-3):>8}"
                f"{short(value('rate')):>9}{short(value('bytes_per_s'), 1e-6):>8}{ratio('rate'):>6}"
                f"{short(value('cpu_s_per_million')):>10}{short(value('trip', 'p50'), 1e-3):>8}"
                f"{ratio('trip', 'p50'):>6}")
    return "\n".join(line.rstrip() for line in lines)


def targets_table(targets: List[dict]) -> str:
    signs = {"<=": "at most", ">=": "at least", "~": "within"}
    return "\n".join(["targets (informational)                              ratio   goal"] + [
        f"  {row['target']:46}{row['ratio']:9.3g}   {signs[row['sign']] + ' %.3g' % row['goal']:15}"
        f" {'met' if row['met'] else 'NOT met'}" for row in targets])


def rows_of(bench: Bench) -> List[dict]:
    """One flat dict for each transport, way to read and size: medians over the rounds."""
    rows = []
    for key in sorted(bench.rounds[0], key=lambda key: (key[2], key[1], key[0])):
        row: dict = {"transport": key[0], "read": key[1], "size": key[2]}
        for name, found in bench.rounds[0][key].items():
            if isinstance(found, dict):
                row.update({f"{name}_{part}_ns": bench.value(key, name, part) for part in found
                            if part != "count"})
            else:
                row[name] = bench.value(key, name)
        rows.append(row)
    return rows


def small_table(bench: Bench) -> str:
    lines = ["| 64 bytes | read by | p50 | p99 | whole | msg/s | CPU s/million | round trip |",
             "|---|---|---|---|---|---|---|---|"]
    names = {"shm": "**this project**", "zeromq": "ZeroMQ"}
    for kind in TRANSPORTS:
        for read in READS:
            if (kind.name, read, 64) not in bench.rounds[0]:
                continue
            cells = [short(bench.value((kind.name, read, 64), *path), scale) for scale, path in (
                (1e-3, ("seen", "p50")), (1e-3, ("seen", "p99")), (1e-3, ("whole", "p50")),
                (1, ("rate",)), (1, ("cpu_s_per_million",)), (1e-3, ("trip", "p50")))]
            lines.append(" | ".join([f"| {names.get(kind.name, kind.name)}", read, *cells]) + " |")
    return "\n".join(lines)


def python_table(bench: Bench) -> str:
    lines = ["| Python to Python | bytes | p50 | p90 | p99 | messages/s | of them lost |",
             "|---|---|---|---|---|---|---|"]
    for size in python_pair.SIZES:
        for name in (python_pair.READER, python_pair.QUEUE):
            key = (name, "python", size)
            ages = " | ".join(short(bench.value(key, "fresh", part), 1e-3)
                              for part in ("p50", "p90", "p99"))
            lines.append(f"| {name} | {size:,} | {ages} | {short(bench.value(key, 'rate'))} "
                         f"| {100 * bench.value(key, 'lost'):.0f} % |")
    return "\n".join(lines)


def ring_table(bench: Bench) -> str:
    """What a larger ring costs."""
    lines = ["| slots of 1 MiB | ring | whole | messages/s | round trip |", "|---|---|---|---|---|"]
    for slots, name in sorted([(8, Shm.name)] + [(kind.slots, kind.name) for kind in RINGS]):
        flat, said = (ShmRead.name, ", the default") if name == Shm.name else (name, "")
        whole, trip = (short(bench.value((name, "spin", 1 << 20), figure, "p50"), 1e-3)
                       for figure in ("whole", "trip"))
        rate = short(bench.value((flat, "spin", 1 << 20), "rate"))
        lines.append(f"| {slots}{said} | {slots} MiB | {whole} | {rate} | {trip} |")
    return "\n".join(lines)


def write_files(folder: str, blocks: Dict[str, str], rows: List[dict]) -> None:
    """results.csv, and the blocks of README.md that plot.py puts there."""
    os.makedirs(folder, exist_ok=True)
    with open(os.path.join(folder, "results.csv"), "w", newline="") as out:
        fields = list(dict.fromkeys(field for row in rows for field in row))
        writer = csv.DictWriter(out, fields, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
    for name, block in blocks.items():
        with open(os.path.join(folder, name), "w", encoding="utf-8") as out:
            print(block, file=out)


def parse_options(arguments: List[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Shared memory beside pipe, sockets, queue.")
    add = parser.add_argument
    add("--quick", action="store_true", help="few messages: is it all there and sane?")
    add("--rounds", type=int, choices=range(1, 100), metavar="N", help="(5; quick: 1)")
    add("--no-pin", action="store_true", help="leave both sides where they are put")
    add("--output", default=os.path.join("build", "bench"), metavar="FOLDER",
        help="of results.csv, and of what plot.py puts into README.md (build/bench)")
    options = parser.parse_args(arguments)
    options.rounds = options.rounds or (1 if options.quick else 5)
    return options


def end_by_signal(number: int, _frame: object) -> None:
    if number == signal.SIGALRM:
        raise Broken(f"no progress for {WATCHDOG_S} s")
    raise KeyboardInterrupt(number)


def main(arguments: List[str]) -> int:
    options = parse_options(arguments)
    for number in ENDINGS + (signal.SIGALRM,):
        signal.signal(number, end_by_signal)
    cpus: List[int] = []
    if hasattr(os, "sched_getaffinity") and not options.no_pin:
        cpus = sorted(os.sched_getaffinity(0))[:2]
        if len(cpus) < 2:
            print("bench.py: skipped: two processes that spin need two CPUs", file=sys.stderr)
            return 77
    try:
        about = facts(cpus)
        print("\n".join(f"{name:12} {value}" for name, value in about.items()) + "\n", flush=True)
        pinned(cpus)
        bench = Bench(options, cpus)
        begin = time.monotonic()
        bench.run()
        bench.check()
        targets = bench.targets()
        missed = bench.missed()
        print(table(bench), python_table(bench), ring_table(bench), sep="\n\n")
        print("\ncells in which another transport is better by more than 5 % (blocked round trips: "
              f"20 %): {len(missed)}", *missed, sep="\n  ")
        print("\n" + targets_table(targets))
        quiet = bench.value(("floor", "spin", 64), "seen", "p50")
        if bench.value(("floor", "spin", 64), "seen", "p99") > 20 * quiet:
            print("  the machine was busy with something else: these figures are worth little")
        for where, why in bench.missing.items():
            print(f"  no {where}: {why}")
        run = f"{options.rounds} rounds in {time.monotonic() - begin:.0f} s"
        machine = f"{about['cpu']}; {about['python']}"
        write_files(options.output, {
            "machine.txt": machine,
            "run.md": f"{machine}; {about['system']};\n"
                      f"ZeroMQ {about['ZeroMQ']}; {about['pinning']}; {run}.",
            "small.md": small_table(bench), "python.md": python_table(bench),
            "rings.md": ring_table(bench), "targets.txt": targets_table(targets),
            "missed.txt": "\n".join(missed) or "none"}, rows_of(bench))
        print(f"\n{run}; results.csv in {options.output}")
        return 0
    except KeyboardInterrupt as ending:
        print("bench.py: ended by a signal", file=sys.stderr)
        return 128 + (ending.args[0] if ending.args else signal.SIGINT)
    except (Broken, OSError, transports.shmprueba.Error) as error:
        print(f"bench.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
