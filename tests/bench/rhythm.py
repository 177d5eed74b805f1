"""A host with a schedule of its own, for bench_wait.py.   rhythm.py NAME CLIENTS SEED PHASE...

PHASE: COUNTxGAP_US, periodic, or COUNT~GAP_US, exponential gaps of that mean. Publishes 64 B
messages (those of bench_reader: a stamp, n, ..., n; stamp 0 ends it) from when so many clients are
there, each due when the schedule says so, and prints how often it made a wake call.
"""
import json
import os
import random
import re
import signal
import struct
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
import host  # noqa: E402

AHEAD_NS = 100_000  # publish() is called so long before a message is due, and rehearses


def main(name: str, clients: str, seed: str, *phases: str) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    host.libc.prctl(host.PR_SET_TIMERSLACK, 1, 0, 0, 0)
    options = host.parse_options(["--name", name, "--quiet"])
    segment = host.Segment(options.name, 64)
    keeper = host.Keeper(options, segment)
    down, gaps, wakes = keeper.down, random.Random(int(seed)), 0
    wake, pack, stamp = down.wake, struct.Struct("=IIQQ40xQ").pack_into, 1

    def counted_wake() -> None:
        nonlocal wakes
        wakes += 1
        wake()

    def fill(at: int, n: int) -> None:
        pack(segment.memory, at, 64, 0, stamp, n, n)

    down.wake = counted_wake
    publish = down.writer(keeper.make_room)
    segment.go_live()
    print("live", flush=True)
    try:
        keeper.wait_for(lambda: keeper.clients() >= int(clients), "")
        due = host.clock()
        for count, kind, gap in (re.fullmatch(r"(\d+)([x~])(\d+)", p).groups() for p in phases):
            for _ in range(int(count)):
                due += int(1e3 * (int(gap) if kind == "x" else gaps.expovariate(1 / int(gap))))
                while True:
                    ahead = due - AHEAD_NS - keeper.care()
                    if ahead <= 0:
                        break
                    time.sleep(min(ahead, host.HEARTBEAT_NS) * 1e-9)
                publish(fill, due)
        stamp = 0
        publish(fill)
    except (KeyboardInterrupt, host.Ended):
        pass
    finally:
        segment.end()
    print(json.dumps({"published": segment.words[down.head], "wakes": wakes}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
    os._exit(0)  # frames hold views of the segment: nothing to be unmapped in order
