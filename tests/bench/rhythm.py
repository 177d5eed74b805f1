"""A host with a schedule of its own, for bench_wait.py.   rhythm.py NAME CLIENTS SEED PHASE...

PHASE: COUNTxGAP_US, periodic; COUNT~GAP_US, exponential gaps of that mean; and for data that arrive
up to 200 us after a moment that is known: COUNTwGAP_US polls for them with warm() as the body of
the loop, COUNTcGAP_US sleeps until they are there, and then stamps them. Publishes 64 B messages
(those of bench_reader: a stamp, n, ..., n; stamp 0 ends it) from when so many clients are there,
each due when the schedule says so, and prints how often it made a wake call.
"""
import json
import random
import re
import signal
import struct
import sys
import time
from os.path import abspath, dirname

sys.path.insert(0, dirname(dirname(dirname(abspath(__file__)))) + "/src")
import shmprueba  # noqa: E402

PR_SET_TIMERSLACK, JITTER_NS = 29, 200_000


def main(name: str, clients: str, seed: str, *phases: str) -> None:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    shmprueba.libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
    now, wake, gaps, wakes = shmprueba.clock, shmprueba.futex, random.Random(int(seed)), 0
    message = struct.Struct("=QQ40xQ")

    def counted_wake(*arguments: object) -> int:
        nonlocal wakes
        wakes += 1
        return wake(*arguments)

    shmprueba.futex = counted_wake
    with shmprueba.Segment(name, 64, stall_timeout=60) as segment:
        reserve, commit, warm, n = segment.reserve, segment.commit, segment.warm, 0

        def publish(stamp: int, due: int = 0) -> None:
            message.pack_into(reserve(), 0, stamp, n, n)
            commit(64, due)

        print("live", flush=True)
        try:
            while segment.attached < int(clients):
                segment.care()
                time.sleep(1e-3)
            due = now()
            for count, kind, gap in (re.fullmatch(r"(\d+)([x~wc])(\d+)", p).groups()
                                     for p in phases):
                for n in range(n + 1, n + int(count) + 1):
                    due += int(1e3 * (gaps.expovariate(1 / int(gap)) if kind == "~" else int(gap)))
                    segment.wait_until(due)
                    arrival = due + gaps.randrange(JITTER_NS)
                    if kind == "w":
                        while now() < arrival:
                            warm()
                        publish(now(), due)
                    elif kind == "c":
                        time.sleep(max(arrival - now(), 0) * 1e-9)
                        publish(now(), due)
                    else:
                        while now() < due - 10_000:
                            warm()
                        publish(1, due)
            n += 1
            publish(0)
        except KeyboardInterrupt:
            pass
        print(json.dumps({"published": segment.published, "wakes": wakes}), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
