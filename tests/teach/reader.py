"""reader.py [NAME]  reads along beside any number of C programs; prints once a second how many
trades came, and how old they were. Nobody waits for it."""
import ctypes
import sys
from shmprueba import Error, Reader, clock


class Trade(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint64), ("symbol", ctypes.c_char * 8),
                ("price", ctypes.c_double), ("size", ctypes.c_uint32)]


def read_along(name: str) -> None:
    with Reader(name, schema=Trade) as reader:
        begin, count, age_ns = clock(), 0, 0
        for message in reader:
            seen, data = clock(), bytes(message.payload)
            if not reader.confirm(message) or len(data) < ctypes.sizeof(Trade):
                continue         # overwritten meanwhile: counted in reader.lost; or too short
            trade = Trade.from_buffer_copy(data)
            count, age_ns = count + 1, age_ns + seen - message.timestamp_ns
            if seen - begin >= 1_000_000_000:
                rate, age_us = count * 1e9 / (seen - begin), age_ns / count / 1000
                print(f"{rate:.0f} a second, {age_us:.0f} us old, {reader.lost} lost, "
                      f"the last at {trade.price:.2f}", flush=True)
                begin, count, age_ns = seen, 0, 0
    print("its host has ended")


try:
    read_along(sys.argv[1] if sys.argv[1:] else "/trades")
except Error as error:
    sys.exit(f"reader.py: {error}")
except KeyboardInterrupt:
    pass
