#!/usr/bin/env python3
"""What each way of waiting costs: the real pair at 1 kHz, then with a host that has nothing to say.

cmake --build build --target bench-wait
"""
import argparse
import json
import os
import signal
import subprocess
import sys
import time
from typing import List

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
CLIENT = os.environ.get("CLIENTE_C", os.path.join(ROOT, "build", "cliente_c"))
MODES = ("spin", "adaptive", "yield", "sleep", "block")
NAME = f"shmwait-{os.getpid()}"


def pair(mode: str, seconds: float, rate: int, cpus: List[int]) -> dict:
    """cliente_c --json of one run; rate 0: a host that lives and is silent."""
    pins = [["--cpu", str(cpu)] for cpu in cpus] or [[], []]
    what = (["--rate", str(rate), "--count", str(int(rate * seconds)), "--wait-client"] if rate
            else ["--input", "-"])
    host = subprocess.Popen([sys.executable, os.path.join(ROOT, "host.py"), "--name", NAME,
                             "--quiet", *what, *pins[0]], stdin=subprocess.PIPE)
    client = None
    try:
        client = subprocess.Popen([CLIENT, "--wait", mode, "--timeout", "20", "--count", "0",
                                   "--json", *pins[1], NAME], stdout=subprocess.PIPE)
        if not rate:
            time.sleep(seconds)
            host.stdin.close()  # the end of its input
        out = client.communicate(timeout=seconds + 40)[0]
        if client.returncode or host.wait(40):
            raise RuntimeError(f"--wait {mode}: exit {client.returncode} and {host.wait(40)}")
        return json.loads(out)
    finally:
        for process in (client, host):
            if process:
                process.poll() is None and process.terminate()  # the host unlinks its segment
                process.wait(10)


def main() -> int:
    parser = argparse.ArgumentParser(description="What each way of waiting costs.")
    parser.add_argument("--quick", action="store_true", help="does it work? 0.2 s a run, not 3")
    parser.add_argument("--no-pin", action="store_true", help="leave both sides where they are put")
    options = parser.parse_args()
    cpus = sorted(os.sched_getaffinity(0))[:2] if hasattr(os, "sched_getaffinity") else []
    cpus = [] if len(cpus) < 2 or options.no_pin else cpus
    seconds = .2 if options.quick else 3.0
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    where = f"host on CPU {cpus[0]}, client on CPU {cpus[1]}" if cpus else "not pinned"
    print(f"1,000 messages a second of 64 B, {where}\n"
          f"{'--wait':10}{'p50 us':>9}{'p99 us':>9}{'busy, % CPU':>13}{'idle, % CPU':>13}",
          flush=True)
    try:
        for mode in MODES:
            busy, idle = pair(mode, seconds, 1000, cpus), pair(mode, seconds, 0, cpus)
            seen = busy["latency_ns"]
            ordered = 0 <= seen["min"] <= seen["p50"] <= seen["p99"]
            if busy["messages"] + busy["lost"] != 1000 * seconds or not ordered:
                raise RuntimeError(f"--wait {mode}: impossible figures: {busy}")
            print(f"{mode:10}{seen['p50'] / 1e3:9.2f}{seen['p99'] / 1e3:9.2f}"
                  f"{busy['cpu']['percent']:13.2f}{idle['cpu']['percent']:13.2f}", flush=True)
        return 0
    except KeyboardInterrupt:
        return 130
    except (RuntimeError, OSError, subprocess.TimeoutExpired) as error:
        print(f"wait_cost.py: {error}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
