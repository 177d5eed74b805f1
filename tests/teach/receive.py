"""receive.py [NAME]  receives a struct of its own from a program in C (driver.c), to its end"""
import ctypes
import sys
from shmprueba import Segment


class Trade(ctypes.Structure):
    _fields_ = [("number", ctypes.c_uint64), ("symbol", ctypes.c_char * 8),
                ("price", ctypes.c_double), ("size", ctypes.c_uint32)]


name = sys.argv[1] if sys.argv[1:] else "/orders"
count, volume, trade = 0, 0, Trade()
with Segment(name, size=ctypes.sizeof(Trade), schema=Trade, receive=True) as segment:
    while True:
        message = segment.receive()
        if message is None:
            continue             # nothing came for a second: the sender may not be there yet
        data = bytes(message.payload)
        if not segment.release(message) or len(data) < ctypes.sizeof(Trade):
            break                # an empty message ends the stream
        trade = Trade.from_buffer_copy(data)
        count, volume = count + 1, volume + trade.size
print(f"{count} trades, {volume} shares, the last is number {trade.number}")
