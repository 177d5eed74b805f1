"""publish.py [NAME]         sends its own struct, 1,000 times a second
publish.py NAME frames    sends camera frames, 30 times a second (numpy)"""
import ctypes
import sys
import time
from contextlib import suppress
from shmprueba import Segment, clock


class Trade(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint64), ("symbol", ctypes.c_char * 8),
                ("price", ctypes.c_double), ("size", ctypes.c_uint32)]


def publish_trades(name: str) -> None:
    with Segment(name, size=ctypes.sizeof(Trade), schema=Trade) as segment:
        begin_ns = clock()
        for n in range(1, 1 << 63):
            trade = Trade(n, b"ACME", 100 + n % 64 / 4, n % 512)
            segment.send(trade, due_ns=begin_ns + n * 1_000_000)


def publish_frames(name: str) -> None:
    import numpy
    with Segment(name, size=480 * 640 * 3) as segment:
        for n in range(1, 1 << 63):
            frame = numpy.frombuffer(segment.reserve(), "u1").reshape(480, 640, 3)
            frame[:] = n % 256  # or camera.read(frame): straight into the slot
            segment.commit(frame.nbytes)
            time.sleep(1 / 30)  # a camera's read() waits by itself


with suppress(KeyboardInterrupt):  # Ctrl-C: by now the segment is closed, and its name is gone
    (publish_frames if sys.argv[2:] else publish_trades)((sys.argv[1:] or ["/trades"])[0])
