"""The second act: two counters in shared memory, one stored by struct.pack_into, the other by one
8-byte store. counter.py TORN: starts TORN --counters NAME, counts until it ends, and ends with its
status."""
import struct
import subprocess
import sys
from multiprocessing import shared_memory

shm = shared_memory.SharedMemory(create=True, size=4096)
words = shm.buf.cast("L")
words[0] = words[1] = n = 1
reader = subprocess.Popen([sys.argv[1], "--counters", "/" + shm.name.lstrip("/")])
try:
    while reader.poll() is None:
        for n in range(n + 1, n + 1001):
            struct.pack_into("Q", shm.buf, 0, n)  # clears the field, then writes it
            words[1] = n                          # one store: the old value, or the new one
finally:
    if reader.poll() is None:
        reader.kill()
        reader.wait()
    words.release()
    shm.close()
    shm.unlink()
sys.exit(reader.returncode if reader.returncode >= 0 else 128 - reader.returncode)
