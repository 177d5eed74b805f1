#!/usr/bin/env python3
"""What taskset and chrt give here: the real pair at 1 kHz, started as a user would start it.

scheduling.py [--quick] [--output FOLDER]      a minute; a table, and FOLDER/scheduling.md
chrt needs root, or CAP_SYS_NICE; without it those rows are missing.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
from statistics import median
from typing import Dict, List, Tuple

from transports import short

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
CLIENT = os.environ.get("CLIENTE_C", os.path.join(ROOT, "build", "cliente_c"))
NAME, RATE, LONGEST_S = f"shmsched-{os.getpid()}", 1000, 60
FIFO = ["chrt", "-f", "50"]
HOW = {"neither": ([], []), "taskset": (["taskset", "-c", "0"], ["taskset", "-c", "1"]),
       "chrt -f 50": (FIFO, FIFO)}
HOW["both"] = tuple(one + FIFO for one in HOW["taskset"])
Figures = Dict[str, float]


def run(how: str, wait: str, busy: bool, count: int) -> Figures:
    """The client's latency. busy: a process that does nothing else on each CPU."""
    burners = [subprocess.Popen(["taskset", "-c", str(i), "sh", "-c", "while :; do :; done"])
               for i in range(2 if busy else 0)]
    before_host, before_client = HOW[how]
    try:
        host = subprocess.Popen(
            [*before_host, sys.executable, os.path.join(ROOT, "host.py"), "--name", NAME, "--quiet",
             "--rate", str(RATE), "--count", str(count), "--wait-client"])
        try:
            out = subprocess.run([*before_client, CLIENT, "--timeout", "20", "--count", "0",
                                  "--wait", wait, "--json", NAME], stdout=subprocess.PIPE,
                                 check=True, timeout=LONGEST_S).stdout
            host.wait(LONGEST_S)
        finally:
            host.terminate()
            host.wait()
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()
    found = json.loads(out)
    return {**found["latency_ns"], "cpu": found["cpu"]["percent"]}


def main() -> int:
    parser = argparse.ArgumentParser(description="What taskset and chrt give.")
    parser.add_argument("--quick", action="store_true", help="short runs, one round")
    parser.add_argument("--output", metavar="FOLDER", help="of scheduling.md")
    options = parser.parse_args()
    cpus = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else set()
    if not {0, 1} <= cpus or not shutil.which("chrt"):
        print("scheduling.py: skipped: it needs CPUs 0 and 1, and chrt (util-linux)",
              file=sys.stderr)
        return 77
    may = subprocess.run([*FIFO, "true"], stderr=subprocess.DEVNULL).returncode == 0
    kinds = [(how, "adaptive", busy) for busy in (False, True) for how in HOW]
    kinds += [(how, "spin", False) for how in ("taskset", "both")]
    kinds = [kind for kind in kinds if may or "chrt" not in HOW[kind[0]][0]]
    rounds, count = (1, 100) if options.quick else (3, 1500)
    found: Dict[Tuple[str, str, bool], List[Figures]] = {}
    for _ in range(rounds):
        for kind in kinds:
            found.setdefault(kind, []).append(run(*kind, count))
    lines = ["| CPUs | client | started with | p50 | p99 | max, us | of a core |",
             "|---|---|---|---|---|---|---|"]
    for (how, wait, busy), figures in found.items():
        p50, p99, most = (short(median(one[name] for one in figures), 1e-3)
                          for name in ("p50", "p99", "max"))
        cpu = median(one["cpu"] for one in figures)
        lines.append(f"| {'busy' if busy else 'free'} | {wait} | {how} | {p50} | {p99} | {most} "
                     f"| {cpu:.0f} % |")
    print("\n".join(lines))
    if options.output:
        os.makedirs(options.output, exist_ok=True)
        with open(os.path.join(options.output, "scheduling.md"), "w") as out:
            print(*lines, sep="\n", file=out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
