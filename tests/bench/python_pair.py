"""From Python to Python, for bench.py: multiprocessing.Queue, which most would take, and Reader.

The sender sleeps between its messages: a queue's feeder thread needs the interpreter, too.
"""
import multiprocessing
import os
import signal
import struct
import time
from typing import Callable, Iterator, Optional, Tuple

from transports import Broken, now, shmprueba, spread

READER, QUEUE = "shm, Python Reader", "mp.Queue"
SIZES = (64, 4096)
FORK = multiprocessing.get_context("fork")
HEAD = struct.Struct("=QQ")  # stamp (0: stop), n; the last byte is n, too
PR_SET_PDEATHSIG, TAKES_S = 1, 30


# ---- the child ---------------------------------------------------------------------------------

Taken = Iterator[Tuple[int, int, int, int]]  # when it was seen, stamp, n, last byte


def take_queue(queue) -> Taken:
    while True:
        payload = queue.get()
        yield (now(), *HEAD.unpack_from(payload), payload[-1])


def take_segment(reader: "shmprueba.Reader") -> Taken:
    for message in reader:
        seen, payload = now(), message.payload
        found = (seen, *HEAD.unpack_from(payload), payload[-1])
        if reader.confirm(message):  # else it was overwritten meanwhile, and counts as lost
            yield found


def read(source: object, cpu: int, answer) -> None:
    if hasattr(shmprueba.libc, "prctl"):  # not to outlive bench.py
        shmprueba.libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
    if cpu >= 0:
        os.sched_setaffinity(0, [cpu])
    reader = shmprueba.Reader(source) if isinstance(source, str) else None
    answer.send("ready")
    ages, bad, begin, cpu_ns, seen = [], 0, 0, 0, 0
    for seen, stamp, n, last in take_segment(reader) if reader else take_queue(source):
        if stamp == 0:
            break
        ages.append(seen - stamp)
        bad += n & 255 != last
        if not begin:
            begin, cpu_ns = seen, time.process_time_ns()
    answer.send({"seen": spread(ages), "bad": bad, "lost": reader.lost if reader else 0,
                 "elapsed_ns": seen - begin, "cpu_ns": time.process_time_ns() - cpu_ns})
    os._exit(0)


# ---- the parent --------------------------------------------------------------------------------

def sender(put: Callable, size: int, whole: type) -> Callable[[int, int], None]:
    box = bytearray(size)

    def send(stamp: int, n: int) -> None:
        HEAD.pack_into(box, 0, stamp, n)
        box[-1] = n & 255
        put(whole(box))

    return send


def measure(name: str, size: int, job: Callable[[Callable], int], cpu: int) -> Tuple[dict, int]:
    """(what the child found, messages sent) of one job: job(send) sends, and returns how many."""
    segment: Optional[shmprueba.Segment] = None
    if name == READER:
        source: object = f"shmbench-{os.getpid()}"
        segment = shmprueba.Segment(source, size)
        send = sender(segment.send, size, memoryview)
    else:
        source = FORK.Queue()
        send = sender(source.put, size, bytes)
    ours, theirs = FORK.Pipe()
    child = FORK.Process(target=read, args=(source, cpu, theirs), daemon=True)
    child.start()
    try:
        if not ours.poll(TAKES_S) or ours.recv() != "ready":
            raise Broken(f"{name}: its reader did not start")
        sent = job(send)
        send(0, 0)
        if not ours.poll(TAKES_S):
            raise Broken(f"{name}: its reader did not end")
        found = ours.recv()
    finally:
        child.kill()
        child.join()
        if segment:
            segment.close()
        else:
            source.cancel_join_thread()  # where the reader has failed, nobody takes the rest
            source.close()
        ours.close()
        theirs.close()
    if found["bad"] or found["seen"]["count"] + found["lost"] != sent:
        raise Broken(f"{name}: {sent} sent, {found['seen']['count']} came, {found['lost']} lost, "
                     f"{found['bad']} damaged")
    return found, sent
