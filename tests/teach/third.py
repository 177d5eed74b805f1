"""third.py NAME COUNT  reads the newest message of a segment COUNT times: numpy, and the layout
that `cliente_c --layout` prints, which comes on standard input. Nothing of this project is
imported. A message of the demo can be checked: it begins with its number n, and byte i after the
sample is (n + i) % 251. In the middle of every 1,000th copy this reader naps, so that some are torn
for certain. It prints how many were accepted, different, refused, torn among those, and accepted
but torn."""
import re
import sys
import threading
import time
import numpy

name, count = sys.argv[1], int(sys.argv[2])
at = {(block, field): int(offset) for block, field, offset in
      re.findall(r"^(\w+) +(\w+) +(\d+) +\d+ \S+$", sys.stdin.read(), re.M)}

segment = numpy.memmap("/dev/shm/" + name, "u1", "r")
words, ints = segment.view("u8"), segment.view("u4")
slots, stride, capacity = (int(ints[at["shm_header", field] // 4])
                           for field in ("slot_count", "slot_stride", "payload_capacity"))
head_word = (at["segment", "lane_down"] + at["shm_lane_block", "head"]) // 8
pattern = (numpy.arange(capacity + 251) % 251).astype("u1")
lock = threading.Lock()
lock.acquire()


def fence() -> None:
    """README, "Memory order"."""
    lock.release()
    lock.acquire()


def is_whole(copy: numpy.ndarray, n: int) -> bool:
    return (len(copy) >= 64 and int(copy[:8].view("u8")[0]) == n
            and numpy.array_equal(copy[64:], pattern[n % 251:][64:len(copy)]))


tries = accepted = different = refused = torn = wrong = last = 0
while accepted < count:
    n = int(words[head_word])
    tries += 1
    fence()
    slot = at["segment", "slots"] + n % slots * stride
    if words[slot // 8] != 2 * n:               # it is already being overwritten
        refused += 1
        continue
    length = min(int(ints[(slot + at["shm_slot", "length"]) // 4]), capacity)
    begin = slot + at["shm_slot", "payload"]
    copy = segment[begin:begin + length].copy()
    if tries % 1000 == 0:
        time.sleep(.001)
        copy[length // 2:] = segment[begin + length // 2:begin + length]
    fence()
    if words[slot // 8] != 2 * n:               # it was overwritten while it was copied
        refused += 1
        torn += not is_whole(copy, n)
        continue
    different += n != last
    accepted, last = accepted + 1, n
    wrong += not is_whole(copy, n)
print(accepted, different, refused, torn, wrong)
