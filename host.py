#!/usr/bin/env python3
"""host.py - creates the shared memory segment and publishes into it (standard library only).

Reads top to bottom: layout, name, clock, lane, segment, the jobs, command line. The C side is
include/shm_layout.h and src/; README.md has the walkthrough.
"""
import sys

if sys.version_info < (3, 8):
    sys.exit("host.py: needs Python 3.8 or newer (multiprocessing.shared_memory), this is %d.%d"
             % sys.version_info[:2])

import signal


class Stop:
    """Set by a signal; every loop looks at it. A handler may do no more than this."""
    signal = 0

    @classmethod
    def handler(cls, number, _frame):
        cls.signal = number


STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
if __name__ == "__main__":  # before the slow imports: Ctrl-C must not end in a traceback
    for _number in STOP_SIGNALS:
        if _number != signal.SIGHUP or signal.getsignal(_number) != signal.SIG_IGN:  # nohup
            signal.signal(_number, Stop.handler)

import argparse
import ctypes
import errno
import fcntl
import hashlib
import json
import mmap
import os
import platform
import select
import stat
import struct
import subprocess
import tempfile
import threading
import time
import zlib
from collections import Counter
from contextlib import suppress
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path
from typing import BinaryIO, Callable, List, Optional, Tuple

DONE, SYSTEM, USAGE, NO_CLIENT, REFUSED, DATA = 0, 1, 2, 3, 5, 6  # exit codes


class Failure(Exception):
    """Ends the program: one line on standard error, one exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


def put(text: str, stream) -> None:
    """Writes all of it, now. OSError: that cannot be."""
    if stream is None:  # print would take the standard output for it
        raise OSError(errno.EBADF, "it is closed")
    print(text, file=stream, end="", flush=True)


def remark(text: str) -> None:
    """One line on standard error; that nobody hears it is no reason to end."""
    with suppress(OSError):
        put(f"host.py: {text}\n", sys.stderr)


# ---- layout: the mirror of include/shm_layout.h ------------------------------------------------

MAGIC, VERSION, HEADER_SIZE, SLOT_HEAD, BLOCK = b"SHMPRUEB", 1, 1024, 32, 128
STARTING, LIVE, CLOSED = 0, 1, 2
LOSSLESS, BLOCKS, ATTACHED = 1, 2, 4
RAW, SAMPLE, FLAG_CRC = 0, 1, 1
DOWN, UP = 0, 1
U32, U64 = ctypes.c_uint32, ctypes.c_uint64


class Header(ctypes.Structure):
    _fields_ = [("magic", ctypes.c_char * 8), ("version", U32), ("header_size", U32),
                ("total_size", U64), ("slot_count", U32), ("slot_stride", U32),
                ("payload_capacity", U32), ("flags", U32), ("session", U64), ("host_pid", U64),
                ("payload_kind", U32), ("zero", U32 * 17)]


class Status(ctypes.Structure):
    _fields_ = [("state", U32), ("zero", U32), ("heartbeat_ns", U64), ("zeros", U64 * 14)]


class LaneBlock(ctypes.Structure):
    _fields_ = [("head", U64), ("zero", U64 * 15), ("cursor", U64), ("consumer_pid", U32),
                ("consumer_flags", U32), ("waiting", U32), ("zero1", U32), ("zeros", U64 * 13)]


class Slot(ctypes.Structure):
    _fields_ = [("seq", U64), ("timestamp_ns", U64), ("due_ns", U64), ("length", U32),
                ("crc32", U32)]


class Sample(ctypes.Structure):
    _fields_ = [("index", U64), ("time_s", ctypes.c_double), ("accel", ctypes.c_float * 3),
                ("gyro", ctypes.c_float * 3), ("temperature", ctypes.c_float), ("zero", U32),
                ("zeros", ctypes.c_uint8 * 16)]


STATE_AT, BEAT_AT = BLOCK // 4, (BLOCK + Status.heartbeat_ns.offset) // 8
HEARTBEAT_NS, SILENCE_NS = 50_000_000, 1_000_000_000  # twice as often as promised
EARLY_NS = 100_000  # a sleep ends some 60 us late, with cold caches: the rest until due is spun
LITTLE = sys.byteorder == "little"


def pair(first: int, second: int) -> int:
    """Two neighbouring u32 fields as the one u64 that is stored."""
    return first | second << 32 if LITTLE else first << 32 | second


def split(word: int) -> Tuple[int, int]:
    """What pair() has made one of."""
    return (word & 0xffffffff, word >> 32) if LITTLE else (word >> 32, word & 0xffffffff)


# ---- name: the same rule as src/shm_name.c -----------------------------------------------------

def normalise_name(name: str, system: str = sys.platform) -> str:
    """The name with exactly one leading slash; ValueError says what is wrong with it."""
    bare = name[1:] if name.startswith("/") else name
    raw = os.fsencode(bare)
    limit = 31 if system == "darwin" else 256  # with the slash: PSHMNAMLEN; NAME_MAX + 1
    if not bare:
        raise ValueError("is only a slash" if name else "is empty")
    for byte in raw:
        if byte < 0x20 or byte == 0x7f:
            raise ValueError("has a NUL or control character")
        if byte == 0x2f:
            raise ValueError("has a slash inside")
    if bare in (".", ".."):
        raise ValueError("is a folder, not a name")
    if len(raw) + 1 > limit:
        raise ValueError("is too long (Linux: 255 bytes after the slash, macOS: 31 with it)")
    return "/" + bare


# ---- clock and histogram -----------------------------------------------------------------------

def choose_clock(module=time) -> Tuple[str, Callable[[], int]]:
    """The clock of include/latency.h, by symbol: only macOS has CLOCK_UPTIME_RAW."""
    if hasattr(module, "CLOCK_UPTIME_RAW"):
        clock_id = module.CLOCK_UPTIME_RAW
        return "CLOCK_UPTIME_RAW", lambda: module.clock_gettime_ns(clock_id)
    return "CLOCK_MONOTONIC", module.monotonic_ns  # the same clock there, and a cheaper call


CLOCK_NAME, clock = choose_clock()


class Latency:
    """Durations in constant memory: 128 steps an octave, as src/latency.c."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self.count = self.sum = self.max = 0
        self.min = 1 << 63

    def record(self, ns: int) -> None:
        shift = max(ns.bit_length() - 8, 0)
        self.counts[(ns >> shift) + 1 << shift] += 1  # key: the end of the step
        self.count += 1
        self.sum += ns
        self.min = min(self.min, ns)
        self.max = max(self.max, ns)

    def percentile(self, fraction: float) -> int:
        seen = 0
        for end in sorted(self.counts):
            seen += self.counts[end]
            if seen >= fraction * self.count - 1e-6:
                return min(end - 1, self.max)
        return 0

    def summary(self) -> Optional[dict]:
        if not self.count:
            return None
        return {"min": self.min, "p50": self.percentile(.5), "p90": self.percentile(.9),
                "p99": self.percentile(.99), "p99_9": self.percentile(.999), "max": self.max,
                "mean": round(self.sum / self.count, 1)}

    def bars(self) -> List[str]:
        """One line an octave, as report.c prints them; of one duration at least."""
        octaves: Counter = Counter()
        for end, count in self.counts.items():
            octaves[(end - 1).bit_length()] += count
        most = max(octaves.values())
        return [f"  below {(1 << bits) / 1000:.2f} us".ljust(20) + f"{octaves[bits]:10} "
                + "#" * -(-octaves[bits] * 40 // most)
                for bits in range(min(octaves), max(octaves) + 1)]


# ---- futex (Linux): what --wait block sleeps on -------------------------------------------------

LINUX = sys.platform.startswith("linux")
FUTEX_CALL = {"x86_64": 202, "aarch64": 98, "riscv64": 98}.get(
    platform.machine() if LINUX else "")
FUTEX_WAIT, FUTEX_WAKE, PR_SET_TIMERSLACK = 0, 1, 29
WAKE_AGAIN_NS = 1_000_000
LONGEST_WAIT = (ctypes.c_long * 2)(0, 100_000_000)  # a struct timespec
libc = ctypes.CDLL(None, use_errno=True)


def futex(address: int, operation: int, value: int) -> int:
    """0, or errno. The address is that of the low half of a head."""
    result = libc.syscall(ctypes.c_long(FUTEX_CALL), ctypes.c_void_p(address),
                          ctypes.c_int(operation), ctypes.c_uint32(value & 0xffffffff),
                          LONGEST_WAIT, None, 0)
    return 0 if result >= 0 else ctypes.get_errno()


# ---- lane: both verbs --------------------------------------------------------------------------

# x86-64 keeps all stores in their order, and all loads; only a load may overtake an earlier store.
# So the fences that merely order stores, or loads, need no instruction there: left out, a message is
# seen a quarter sooner. CPython makes each access by a call of its own; of a JIT nobody knows.
WEAK = (platform.machine().lower() not in ("x86_64", "amd64")
        or sys.implementation.name != "cpython")
# The exception: glibc copies much at once with non-temporal stores, which keep no order with those
# before them. It never does so below 16 KiB (the least x86_non_temporal_threshold).
LARGE_COPY = 1 << 14


def make_fence() -> Callable[[], None]:
    """The two halves of a full memory barrier, to be called one after the other.

    Python has no fence instruction. Releasing and taking a private lock that is always held is one
    on x86-64 (two locked instructions) and on ARMv8 (store-release, then load-acquire): what stands
    before the pair is seen before what stands behind it. That is the machines' promise, not the
    language's, and RISC-V's libc breaks it: see README "Memory order", tests/model/order_model.py.
    """
    lock = threading.Lock()
    lock.acquire()
    return lock.release, lock.acquire


class Lane:
    """One direction of a segment. The steps are named as in src/lane.c and in the model.

    Live fields are written as aligned 8-byte stores only (words[...] = ...). struct.pack_into
    would clear the field first, and the other side would see the zeros (CPython issue 156866).
    """

    def __init__(self, segment: "Segment", index: int) -> None:
        block = BLOCK * 2 * (1 + index)
        self.segment, self.words, self.ints = segment, segment.words, segment.ints
        self.head = block // 8
        self.cursor = (block + LaneBlock.cursor.offset) // 8
        self.owner = (block + LaneBlock.consumer_pid.offset) // 8
        self.flags = (block + LaneBlock.consumer_flags.offset) // 4
        self.waiting = (block + LaneBlock.waiting.offset) // 4
        self.slots, self.stride = segment.slot_count, segment.slot_stride
        self.first = HEADER_SIZE + index * self.slots * self.stride
        self.futex_at = segment.address + block + (0 if LITTLE else 4)
        self.fence = make_fence()
        self.seen_cursor = self.missed_wakeups = self.woken = self.woken_ns = 0

    def consumer(self) -> Tuple[int, int]:
        """(pid, flags) of the consumer; (0, 0): nobody."""
        return split(self.words[self.owner])

    def wake(self, now: int) -> None:
        """SYNC wake: pairs with "sleep" (src/waiter.c). Either we see that the consumer waits, or
        it sees our head. One call is enough until it has run: before it sleeps again it moves the
        cursor past what it was woken for. (The millisecond is for a consumer that does not.)"""
        words, (release, acquire) = self.words, self.fence
        release(); acquire()
        if self.ints[self.waiting] and FUTEX_CALL and (
                words[self.cursor] >= self.woken or now - self.woken_ns > WAKE_AGAIN_NS):
            self.woken, self.woken_ns = words[self.head], now
            futex(self.futex_at, FUTEX_WAKE, 0x7fffffff)

    def writer(self, make_room: Callable[[int], int], n: int = 0) -> Callable[..., int]:
        """publish(fill, due=0, last=0): publishes the next message, and more until message `last`;
        returns when the last of them was. due: when it should have been, 0: no schedule.
        fill(at, n) writes message n into the segment's bytes from `at` on, and returns its length,
        or pair(length, crc); if it raises, nothing is published, and the slot is taken again.
        make_room(n) waits until message n may overwrite its slot and returns the last message that
        needs no further question. n: published so far; not read from head, where anybody writes.
        A closure, because bound cells cost half of what attributes do; and a loop in it, because
        flat out a call of it for each message would cost as much as three stores."""
        words, ints, head, flags, wake = self.words, self.ints, self.head, self.flags, self.wake
        release, acquire = self.fence
        first, stride, mask = self.first // 8, self.stride // 8, self.slots - 1
        now, limit = clock, 0
        weak = WEAK or self.segment.capacity >= LARGE_COPY

        def publish(fill: Callable[[int, int], int], due: int = 0, last: int = 0) -> int:
            nonlocal n, limit
            m = n
            while True:
                m += 1
                if m > limit:
                    limit = make_room(m)
                slot = first + (m & mask) * stride
                seq = 2 * m
                words[slot] = seq - 1            # SYNC seq = 2n-1
                if weak:
                    release(); acquire()         # SYNC F1: pairs with R4
                words[slot + 3] = fill((slot << 3) + SLOT_HEAD, m)
                if due:                          # little stands between the time stamp and head
                    words[slot + 2] = due
                    words[slot + 1] = timestamp = now()
                else:
                    words[slot + 2] = words[slot + 1] = timestamp = now()
                if weak:
                    release(); acquire()         # SYNC F2: pairs with "seq load"
                words[slot] = seq                # SYNC seq = 2n
                words[head] = n = m              # SYNC head = n: pairs with "head load"
                if ints[flags] & BLOCKS:
                    wake(timestamp)
                if m >= last:
                    return timestamp

        return publish

    def reader(self) -> Tuple[Callable, Callable, Callable]:
        """(take, confirm, done): take() is the next message's payload as a memoryview of the slot,
        or None; confirm() tells whether it was whole until now; done() frees the slot."""
        words, head, cursor, memory = self.words, self.head, self.cursor, self.segment.memory
        release, acquire = self.fence
        first, stride, mask = self.first // 8, self.stride // 8, self.slots - 1
        capacity, crc_on, weak = self.segment.capacity, self.segment.crc, WEAK
        n = 1  # nobody read before us
        slot = first + (n & mask) * stride
        crc_wanted = 0

        def take() -> Optional[memoryview]:
            nonlocal crc_wanted
            if words[head] < n:              # SYNC head load
                return None
            if weak:
                release(); acquire()         # SYNC A: pairs with F2; seq and payload come after it
            if words[slot] != 2 * n:         # SYNC seq load
                return None
            length, crc_wanted = split(words[slot + 3])
            if length > capacity:
                raise Failure(REFUSED, f"the client wrote an impossible length, {length} bytes")
            at = (slot << 3) + SLOT_HEAD
            return memory[at:at + length]

        def confirm(payload: memoryview) -> bool:
            good = not crc_on or zlib.crc32(payload, n & 0xffffffff) == crc_wanted
            if weak:
                release(); acquire()         # SYNC R4: pairs with F1; and releases "cursor store"
            return words[slot] == 2 * n and good  # SYNC seq again

        def done() -> None:
            nonlocal n, slot
            words[cursor] = n                # SYNC cursor store: after the fence of confirm
            n += 1
            slot = first + (n & mask) * stride

        return take, confirm, done

    def sleep(self, next_n: int) -> None:
        """Blocks until message next_n is published, 100 ms at most."""
        release, acquire = self.fence
        self.ints[self.waiting] = 1
        release(); acquire()                 # SYNC sleep: pairs with "wake" (src/lane.c)
        head = self.words[self.head]
        if head < next_n and futex(self.futex_at, FUTEX_WAIT, head) == errno.ETIMEDOUT:
            self.missed_wakeups += self.words[self.head] != head
        self.ints[self.waiting] = 0


# ---- segment -----------------------------------------------------------------------------------

class Found(shared_memory.SharedMemory):
    """Somebody else's: where it cannot be mapped, __init__ would unlink it."""

    def unlink(self) -> None:
        pass


class Segment:
    """The shared memory object: one host a name, memory reserved, gone at the end."""

    def __init__(self, name: str, size: int, slots: int, kind: int, crc: bool,
                 say: Callable[[str], None]) -> None:
        self.name, self.capacity, self.slot_count, self.crc = name, size, slots, crc
        self.slot_stride = -(-(SLOT_HEAD + size) // BLOCK) * BLOCK
        self.total = HEADER_SIZE + 2 * slots * self.slot_stride
        self.path = "/dev/shm" + name if LINUX else ""
        self.session = int.from_bytes(os.urandom(8), "little") or 1
        mask = os.umask(0o077)  # whatever it was: we open both, the lock and the segment, again
        try:
            self.lock_path, self.lock = self.take_lock()
        finally:
            os.umask(mask)
        if not name.isascii() or ":" in name:  # the tracker chokes on them; they do without it
            resource_tracker.register = resource_tracker.unregister = lambda *_name_and_type: None
        # The resource tracker is started in here and inherits the mask: a hang-up of the terminal
        # must not end it before us, or it would complain. It ignores SIGINT and SIGTERM by itself.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        try:
            self.clear_stale(say)
            self.create()
        except BaseException:
            self.drop_lock()
            raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
        self.memory = memoryview(self.shm.buf)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))  # until unmap()
        self.ints = self.memory.cast("I")
        self.words = self.memory.cast("Q")
        if sys.implementation.name != "cpython":  # PyPy's memoryview stores byte by byte
            self.words = (U64 * len(self.words)).from_buffer(self.memory)
        header = Header(version=VERSION, header_size=HEADER_SIZE, total_size=self.total,
                        slot_count=slots, slot_stride=self.slot_stride, payload_capacity=size,
                        flags=FLAG_CRC if crc else 0, session=self.session, host_pid=os.getpid(),
                        payload_kind=kind)
        self.memory[:BLOCK] = bytes(header)
        self.words[0] = int.from_bytes(MAGIC, sys.byteorder)  # whole or not there at all
        self.lanes = [Lane(self, DOWN), Lane(self, UP)]

    def take_lock(self) -> Tuple[str, int]:
        """An exclusive flock, which the kernel releases when its holder dies, however it dies."""
        digest = hashlib.sha256(os.fsencode(self.name)).hexdigest()[:16]
        try:
            path = os.path.join(tempfile.gettempdir(), f"shmprueba-{os.getuid()}-{digest}.lock")
            while True:
                fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                # A holder that ends removes the file: the lock must be on the one there now.
                with suppress(FileNotFoundError):
                    if os.path.samestat(os.fstat(fd), os.stat(path)):
                        return path, fd
                os.close(fd)
        except BlockingIOError:
            raise Failure(NO_CLIENT, f"another host of this name is running (it holds {path}); "
                                     "end it, or choose another --name")
        except OSError as error:
            raise Failure(SYSTEM, f"lock file: {error}; set TMPDIR to a folder you can write to")

    def drop_lock(self) -> None:
        with suppress(OSError):  # somebody has swept the temp folder, and perhaps another is there
            if os.path.samestat(os.fstat(self.lock), os.stat(self.lock_path)):
                os.unlink(self.lock_path)
        os.close(self.lock)

    def clear_stale(self, say: Callable[[str], None]) -> None:
        """Replaces what a dead host left; refuses what is alive, or not ours."""
        if self.path:
            try:
                found = os.lstat(self.path)
            except OSError:
                return  # nothing there; if it is worse, create() will say so
            if not stat.S_ISREG(found.st_mode):
                raise Failure(REFUSED, f"refused: {self.path} is not a shared memory object; "
                                       "remove it, or choose another --name")
            if found.st_uid != os.getuid():
                raise Failure(REFUSED, f"refused: {self.path} belongs to user {found.st_uid}; "
                                       "choose another --name")
            if found.st_size == 0:
                os.unlink(self.path)
                return say("an empty segment was in the way: replaced")
        try:
            old = Found(self.name[1:])
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            raise Failure(REFUSED, f"refused: something else has this name ({error}); "
                                   "choose another --name")
        try:
            head = bytes(old.buf[:HEADER_SIZE])
            begun = head[:16] == struct.pack("=8xII", VERSION, HEADER_SIZE)  # by a host, and killed
            if len(head) < 2 * BLOCK or head[:8] != MAGIC and any(head) and not begun:
                raise Failure(REFUSED, "refused: the segment of this name was not made by host.py; "
                                       "choose another --name")
            pid = Header.from_buffer_copy(old.buf).host_pid
            beat = Status.from_buffer_copy(old.buf, BLOCK).heartbeat_ns
            begin = now = clock()
            # A heartbeat of the last second may be a live host's whose temp folder is not ours:
            # watch until it has moved, or is old.
            while abs(now - beat) < SILENCE_NS or now - begin < 300_000_000:
                time.sleep(0.01)
                now = clock()
                if Status.from_buffer_copy(old.buf, BLOCK).heartbeat_ns != beat:
                    raise Failure(NO_CLIENT, f"another host (pid {pid}) is running under this "
                                             "name; end it, or choose another --name")
        except Failure:
            self.forget()  # attaching put it on the tracker's list
            raise
        finally:
            old.close()
        shared_memory.SharedMemory.unlink(old)
        say(f"a stale segment was in the way (its host, pid {pid}, is silent): replaced")

    def forget(self) -> None:
        """Takes the name off the resource tracker's list without unlinking it."""
        resource_tracker.unregister(self.name, "shared_memory")

    def create(self) -> None:
        mask = os.umask(0o077)
        try:
            # What SharedMemory would fail at when it has made the segment already, and leave it.
            resource_tracker.ensure_running()
            mmap.mmap(-1, self.total, mmap.MAP_PRIVATE, mmap.PROT_READ).close()
            self.shm = shared_memory.SharedMemory(self.name[1:], create=True, size=self.total)
        except FileExistsError:
            raise Failure(NO_CLIENT, "another host of this name started at the same moment; end "
                                     "it, or choose another --name")
        except OSError as error:
            raise Failure(SYSTEM, f"cannot create {self.total} bytes: {error.strerror}"
                          + ("; is /dev/shm mounted?" if error.errno == errno.ENOENT else ""))
        finally:
            os.umask(mask)
        if not self.path:
            return
        try:
            # SharedMemory only sets the size; a full /dev/shm would be SIGBUS at some later store.
            with open(os.open(self.path, os.O_RDWR | os.O_NOFOLLOW), "r+b") as segment:
                self.inode = os.fstat(segment.fileno()).st_ino
                error_number = os.posix_fallocate(segment.fileno(), 0, self.total)
                if error_number:  # PyPy returns it, CPython raises
                    raise OSError(error_number, os.strerror(error_number))
        except OSError as error:
            self.shm.close()
            self.shm.unlink()
            if error.errno != errno.ENOSPC:
                raise Failure(SYSTEM, f"reserving {self.total} bytes: {error.strerror}")
            room = os.statvfs("/dev/shm")
            raise Failure(SYSTEM, f"/dev/shm is too small: {self.total} bytes needed, "
                                  f"{room.f_bavail * room.f_frsize} free; use fewer --slots or a "
                                  "smaller --size (in a container: --shm-size)")

    def go_live(self) -> None:
        self.words[BEAT_AT] = clock()
        release, acquire = self.lanes[DOWN].fence
        release(); acquire()  # the header before the state that says it is there
        self.ints[STATE_AT] = LIVE

    def still_named(self) -> bool:
        """Is our object still the one under our name? (Linux; elsewhere nobody can tell.)"""
        try:
            return not self.path or os.stat(self.path).st_ino == self.inode
        except OSError:
            return False

    def end(self) -> None:
        """CLOSED, unlink. Clients that are attached go on reading what is there."""
        release, acquire = self.lanes[DOWN].fence
        release(); acquire()  # every head before the state that says there will be no other
        self.ints[STATE_AT] = CLOSED
        self.lanes[DOWN].woken = 0  # not for a message this time
        self.lanes[DOWN].wake(clock())
        if self.still_named():
            self.shm.unlink()
        else:
            self.forget()
        self.drop_lock()

    def unmap(self) -> None:
        """Only when nobody holds a view any more: they all go first, or close() raises."""
        for view in (self.words, self.ints, self.memory):
            if isinstance(view, memoryview):
                view.release()
        self.shm.close()


# ---- the jobs ----------------------------------------------------------------------------------

class Ended(Exception):
    """Leaves a job from wherever it waits: a signal, or the end of COMMAND."""


def make_filler(segment: Segment) -> Callable[[int, int], int]:
    """fill(at, n) of Lane.writer: the generated payload of message n. The formulas are those of
    src/payload.c, in exact binary fractions."""
    memory, size, head = segment.memory, segment.capacity, ctypes.sizeof(Sample)
    pattern = memoryview(bytes(range(251)) * (size // 251 + 2))
    pack_sample = struct.Struct("=Qd48s").pack_into

    def swing(n: int) -> float:  # a sine made of two parabolas
        x = (n % 1024 - 512) / 512
        return 4 * x * (1 - abs(x))

    tails = [struct.pack("=7f20x", .5 * swing(n), .25 * swing(n + 256),
                         9.8125 + .0625 * swing(2 * n), .25 * swing(n + 256), -.125 * swing(n),
                         .03125 * swing(4 * n), 36.5 + .25 * swing(n + 512)) for n in range(1024)]

    def fill_sample(at: int, n: int) -> int:
        # A payload may be packed: while its seq is odd, nobody accepts what he sees of it.
        pack_sample(memory, at, n, n * 0.001, tails[n & 1023])
        if size > head:
            memory[at + head:at + size] = pattern[(n + head) % 251:][:size - head]
        return size

    def fill_pattern(at: int, n: int) -> int:
        memory[at:at + size] = pattern[n % 251:][:size]
        return size

    return with_crc(segment, fill_sample if size >= head else fill_pattern)


def with_crc(segment: Segment, fill: Callable[[int, int], int]) -> Callable[[int, int], int]:
    memory = segment.memory

    def fill_and_sum(at: int, n: int) -> int:
        length = fill(at, n)
        return pair(length, zlib.crc32(memory[at:at + length], n & 0xffffffff))

    return fill_and_sum if segment.crc else fill


class Host:
    """One run: a segment, perhaps a child, one of the jobs, a report."""

    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.name = options.name
        self.child: Optional[subprocess.Popen] = None
        self.stall_ns = int(options.stall_timeout * 1e9)
        self.out = sys.stderr if options.sink == "-" else sys.stdout
        self.live = (self.out is not None and self.out.isatty()
                     and os.environ.get("TERM", "dumb") != "dumb"
                     and not options.quiet and not options.json and not options.command)
        self.clear = "\r\033[K" if self.live else ""  # before all that is not the live line
        self.published = self.bytes = self.stalls = self.dropped = self.echo_errors = 0
        self.received = self.next_care = self.next_line = 0
        self.away = 0  # ns in which we should have run, and did not: no client is to blame for them
        self.client_died = self.name_is_gone = False
        self.publish_ns, self.round_trip = Latency(), Latency()

    # -- words

    def say(self, text: str) -> None:
        """Something went wrong, or nearly: one line on standard error."""
        if self.live:
            with suppress(OSError):
                put(self.clear, self.out)
        remark(f"{self.name}: {text}")

    def tell(self, text: str) -> None:
        """A part of the result; beside --sink - it is a remark, that has the standard output."""
        try:
            put(text + "\n", self.out)
        except OSError as error:
            if self.out is sys.stdout:
                raise Failure(SYSTEM, f"standard output: {error.strerror}")

    # -- looking after things, at least every 50 ms, wherever the host waits

    def care(self, now: int = 0) -> int:
        """Returns the time: now, or what the clock says."""
        now = now or clock()
        if now < self.next_care:
            return now
        if 0 < self.next_care < now - 2 * HEARTBEAT_NS:  # stopped, and perhaps the client with us
            self.away += now - self.next_care
        self.next_care = now + HEARTBEAT_NS
        self.segment.words[BEAT_AT] = now
        if Stop.signal or (self.child_ended() and not self.options.sink):  # that drains its ring
            raise Ended
        pid, flags = self.down.consumer()
        if pid and not alive(pid):
            self.drop(pid, flags, "is gone")
            self.client_died = True
            pid = 0
        if now >= self.next_line:
            self.next_line = now + 1_000_000_000
            if not self.name_is_gone and not self.segment.still_named():
                self.name_is_gone = True
                self.say("its name is gone: another process unlinked it (a Python that attached "
                         "with SharedMemory does so when it ends: there track=False, or before "
                         "3.13 resource_tracker.unregister); attached clients go on, new ones "
                         "find no host")
            if self.live:
                self.line(now, pid)
        return now

    def line(self, now: int, pid: int) -> None:
        head, cursor = self.segment.words[self.down.head], self.segment.words[self.down.cursor]
        count = self.received if self.options.sink else head
        seconds = max(now - self.begin, 1) * 1e-9
        client = f"client pid {pid}, lag {head - cursor}" if pid else "no client"
        with suppress(OSError):
            put(f"\r  {seconds:4.0f} s  {count} messages  {count / seconds:.0f} a second  "
                f"{client}\033[K", self.out)

    def drop(self, pid: int, flags: int, why: str, promised: bool = False) -> None:
        """Takes the lane from a consumer. There is no compare-and-swap here: if a successor took
        over between the look and the store, it finds its claim gone, and claims again; or ends, as
        any that is dropped, where it had been promised all messages."""
        if not pid or self.down.consumer() != (pid, flags):
            return
        self.segment.words[self.down.owner] = 0
        if flags & LOSSLESS or promised:
            self.dropped += 1
            self.say(f"client pid {pid} {why}: dropped")

    def make_room(self, n: int) -> int:
        """Slow path of the writer: waits until message n may overwrite message n - slots."""
        down, slots, words = self.down, self.down.slots, self.segment.words
        release, acquire = down.fence
        now = moved = looks = 0  # no look at the clock before there is something to wait for
        while True:
            release(); acquire()  # pairs with the fence in lane_claim (src/lane.c)
            pid, flags = down.consumer()
            if not flags & LOSSLESS or not pid:
                return n + slots - 1  # who claims from now on begins with message n, or behind it
            cursor = words[down.cursor]  # SYNC cursor load; no later store can overtake it
            if down.seen_cursor < cursor < n:  # anything else is a dropped client's late store
                down.seen_cursor = cursor
                moved = now
            if down.seen_cursor + slots >= n:
                return down.seen_cursor + slots
            if not looks:
                self.stalls += 1
            looks += 1
            if now - moved > self.stall_ns:
                self.drop(pid, flags, f"had not moved for {self.options.stall_timeout:g} s")
            if looks > 200:
                time.sleep(50e-6)
            now = self.care() - self.away  # before the next look: we may be stopped in between
            moved = moved or now

    def wait_for_client(self, timeout_s: float = float("inf")) -> None:
        begin = clock()
        while not self.down.consumer()[1] & ATTACHED:
            now = self.care()
            if self.child_ended():
                raise Ended
            if now - begin > timeout_s * 1e9:
                raise Failure(NO_CLIENT, f"no client came within {timeout_s:g} s; start cliente_c")
            time.sleep(0.001)

    # -- publish

    def schedule(self) -> Callable[[int], int]:
        """wait(n): sleeps until the message behind the n-th is due, n / rate after this moment,
        however late the others were; returns that time. With no rate: 0, at once."""
        start, rate = clock(), self.options.rate

        def wait(n: int) -> int:
            if not rate:
                return 0
            due = start + int(n * (1e9 / rate))
            while True:
                now = self.care()
                if now >= due:
                    return due
                if due - now > EARLY_NS:
                    time.sleep(min(due - now - EARLY_NS, HEARTBEAT_NS) * 1e-9)

        return wait

    def publish(self) -> None:
        """Generated messages, --count of them."""
        publish, fill = self.down.writer(self.make_room), make_filler(self.segment)
        wait, total = self.schedule(), self.options.count
        n, burst = 0, 1
        while n < total:
            due = wait(n)
            stalls, begin, last = self.stalls, clock(), min(n + burst, total)
            publish(fill, due, last)
            n, end = last, clock()
            # Waiting for a client is not the price of publishing.
            if burst == 1 and stalls == self.stalls:
                self.publish_ns.record(end - begin)
            self.care(end)
            if not due:  # flat out: time one, then a millisecond without a look at the clock
                burst = 1 if burst > 1 else max(1, min(255, 1_000_000 // (end - begin + 1)))

    def publish_input(self) -> None:
        """Each message is what one read returned, read straight into its slot."""
        options, memory, size = self.options, self.segment.memory, self.segment.capacity
        publish, source = self.down.writer(self.make_room), self.file
        wait, n = self.schedule(), 0

        def read(at: int, _n: int) -> int:
            try:
                length = source.readinto(memory[at:at + size])
            except OSError as error:
                raise Failure(SYSTEM, f"read {options.input}: {error.strerror}; give another file")
            if not length:  # None: somebody else was faster at a non-blocking source
                raise EOFError if length == 0 else BlockingIOError
            self.bytes += length
            return length

        fill = with_crc(self.segment, read)
        while n < options.count:
            due = wait(n)
            while not self.regular and not select.select([source], [], [], 0.05)[0]:
                self.care()  # a quiet source must not stop the heartbeat
            try:
                self.care(publish(fill, due))
                n += 1
            except EOFError:
                return
            except BlockingIOError:
                pass

    # -- receive

    def await_up(self, take: Callable, given_up: Callable[[int], bool]) -> Optional[memoryview]:
        """The next payload on the up lane; None where given_up(now) and nothing is left."""
        mode, up, step = self.options.wait, self.up, 50e-6
        looks = range(4096 if mode == "spin" else 1)  # of 0.1 us each
        while True:
            now = self.care()  # before the looks: we may be stopped behind them
            for _ in looks:
                payload = take()
                if payload is not None:
                    return payload
            if given_up(now):
                return take()
            if mode == "sleep":
                time.sleep(step)
                step = min(2 * step, 1e-3)
            elif mode == "block":
                up.sleep(up.words[up.cursor] + 1)
            else:  # "spin", too, now and then: or two that share a CPU never meet
                os.sched_yield()

    def echo(self) -> None:
        """Ping-pong: send one, wait for it to come back, check its bytes."""
        publish, generate = self.down.writer(self.make_room), make_filler(self.segment)
        take, confirm, done = self.up.reader()
        memory, size = self.segment.memory, self.segment.capacity
        release, acquire = self.down.fence
        words, owner = self.segment.words, self.down.owner
        wait, sent, asked, before, payload = self.schedule(), 0, 0, 0, 0

        def fill(at: int, n: int) -> int:
            nonlocal before, payload
            before, payload = words[owner], at
            return generate(at, n)

        def given_up(now: int) -> bool:
            """The client that was asked has left, or does not answer."""
            left = (words[owner] ^ asked) & ~pair(0, ATTACHED) != 0  # that is set while it claims
            if now - self.away - sent <= self.stall_ns:
                return left
            if not left and asked == before:  # else it may have come just after the message
                self.echo_errors += 1
                self.drop(*self.down.consumer(),
                          f"did not answer for {self.options.stall_timeout:g} s", True)
            return True

        for n in range(self.options.count):
            due = wait(n)
            begin = clock()
            sent = publish(fill, due) - self.away
            published = clock()
            # Pairs with the fence in lane_claim: who takes the lane after this look begins behind
            # the message, and will not answer it.
            release(); acquire()
            asked = words[owner]
            reply = self.await_up(take, given_up)
            end = clock()
            self.publish_ns.record(published - begin)
            if reply is None:
                self.say("the client is gone; waiting for the next")
                self.wait_for_client(5)  # as long as cliente_c waits by default
                continue
            self.round_trip.record(end - begin)
            same = reply == memory[payload:payload + size]
            self.echo_errors += not (confirm(reply) and same)
            self.received += 1
            done()
        if self.echo_errors:
            raise Failure(DATA, f"{self.echo_errors} messages did not come back as they were sent; "
                                "is it cliente_c --echo that reads?")

    def receive(self) -> None:
        """--sink: the payloads of the up lane, straight from the slot to the file."""
        take, confirm, done = self.up.reader()

        def gone(_now: int) -> bool:
            """Nobody is here, and who was has sent something, or died; or COMMAND has ended."""
            return not self.down.consumer()[0] and (
                self.received > 0 or self.client_died or self.child_ended())

        while self.received < self.options.count:
            payload = self.await_up(take, gone)
            if payload is None:
                self.next_care = 0
                self.care()
                if gone(0):  # else it came just now, or is about to die
                    how = "died" if self.client_died else "left"
                    raise Failure(DATA, f"the client {how} before the end of its stream: "
                                        f"{self.options.sink} is incomplete")
                continue
            if not payload:  # an empty message ends the stream
                done()
                return
            self.write(payload)
            if not confirm(payload):
                raise Failure(DATA, "a message changed while it was read, or failed its CRC: "
                                    f"{self.options.sink} is damaged")
            self.received += 1
            self.bytes += len(payload)
            done()

    def write(self, payload: memoryview) -> None:
        at, step = 0, len(payload) if self.regular else select.PIPE_BUF
        try:
            while at < len(payload):
                while not self.regular and not select.select([], [self.file], [], 0.05)[1]:
                    self.care()  # a reader that pauses must not stop the heartbeat
                at += os.write(self.file.fileno(), payload[at:at + step])
        except OSError as error:
            raise Failure(SYSTEM, f"write {self.options.sink}: {error.strerror}; give another "
                                  "file")

    # -- from begin to end

    def run(self) -> int:
        options = self.options
        if options.input:
            self.file, self.regular = open_file(options.input, os.O_RDONLY, 0)
        if options.sink:
            self.file, self.regular = open_file(options.sink, os.O_WRONLY | os.O_CREAT, 1)
        if sys.stdout is None and (options.json or not options.quiet) and options.sink != "-":
            raise Failure(SYSTEM, "standard output is closed; give --quiet, or open it")
        kind = SAMPLE if not options.input and options.size >= ctypes.sizeof(Sample) else RAW
        self.segment = Segment(self.name, options.size, options.slots, kind, options.crc, self.say)
        self.down, self.up = self.segment.lanes
        flags = BLOCKS if options.wait == "block" else 0
        if options.echo or options.sink:
            flags |= ATTACHED | LOSSLESS
        self.segment.words[self.up.owner] = pair(os.getpid(), flags)
        self.begin = clock()
        code = first = DONE
        try:
            if options.sink and options.sink != "-" and self.regular:
                self.file.truncate(0)  # only now: it could be that of a host which is running
            self.segment.go_live()
            if not options.quiet and not options.json:
                self.tell(f"host.py  created {self.name}  {self.segment.total} bytes  "
                          f"{options.slots} slots of {options.size} B a lane  "
                          f"session {self.segment.session:016x}  pid {os.getpid()}")
            if options.command:
                self.start_child()
            if options.input or options.echo or options.wait_client:
                self.wait_for_client()
                self.begin = clock()
            job = (self.publish_input if options.input else self.echo if options.echo else
                   self.receive if options.sink else self.publish)
            job()
        except Ended:
            pass
        except Failure as failure:
            self.say(str(failure))
            code = failure.code
            first = DONE if self.child_ended() else code
        finally:  # whatever happened: no segment without a host
            self.end = clock()
            self.published = self.segment.words[self.down.head]
            if not options.input and not options.sink:
                self.bytes = self.published * options.size
            self.segment.end()
            status = self.end_child()
        self.segment.unmap()
        code = first or status or code  # who failed first, COMMAND or we: the rest came of it
        if not options.quiet or options.json:
            try:
                self.report()
            except Failure as failure:  # the first reason to fail is the one that counts, is said
                if code == DONE:
                    self.say(str(failure))
                    code = failure.code
        return code

    def start_child(self) -> None:
        taken, pinned = self.options.json or self.options.sink == "-", self.options.cpu is not None
        try:
            self.child = subprocess.Popen(
                self.options.command,
                stdin=subprocess.DEVNULL if self.options.input == "-" else None,
                stdout=2 if taken else None,  # ours is taken: nothing else may go there
                preexec_fn=(lambda: os.sched_setaffinity(0, self.options.cpus)) if pinned else None)
        except OSError as error:
            raise Failure(SYSTEM, f"cannot start {self.options.command[0]}: {error.strerror}; "
                                  "give another COMMAND")

    def child_ended(self) -> bool:
        return self.child is not None and self.child.poll() is not None

    def end_child(self) -> int:
        """COMMAND ends by itself when the segment is closed; after a signal it is asked twice."""
        if not self.child:
            return DONE
        asked, since = [self.child.terminate, self.child.kill], clock()
        while self.child.poll() is None:
            time.sleep(0.002)
            if not Stop.signal:
                since = clock()
            elif asked and clock() - since > 2_000_000_000:
                asked.pop(0)()
                since = clock()
        code = self.child.returncode
        return code if code >= 0 else 128 - code

    def report(self) -> None:
        elapsed = max(self.end - self.begin, 1) * 1e-9
        count = self.received if self.options.sink else self.published
        rate = count / elapsed
        publish, trip = self.publish_ns.summary(), self.round_trip.summary()
        publish = publish and {key: publish[key] for key in ("mean", "p50", "p99")}
        if self.options.json:
            record = {"published": self.published, "received": self.received, "bytes": self.bytes,
                      "elapsed_s": round(elapsed, 6), "rate_hz": round(rate, 3),
                      "stalls": self.stalls, "dropped_clients": self.dropped,
                      "publish_ns": publish, "session": self.segment.session,
                      "clock": CLOCK_NAME, "missed_wakeups": self.up.missed_wakeups}
            if self.options.echo:
                record.update(round_trip_ns=trip, echo_errors=self.echo_errors)
            return self.tell(json.dumps(record))
        verb = "received" if self.options.sink else "published"
        self.tell(f"{self.clear}host.py  {verb} {count} messages, "
                  f"{self.bytes} bytes in {elapsed:.3f} s: {rate:.1f} a second"
                  + (f"; waited for room {self.stalls} times" if self.stalls else "")
                  + (f"; dropped {self.dropped} clients" if self.dropped else ""))
        for title, figures in (("publish", publish), ("round trip", trip)):
            if figures:
                self.tell(f"  {title:12} " + "   ".join(
                    f"{key.replace('_', '.')} {ns / 1000:.2f} us" for key, ns in figures.items()))
        if trip:
            self.tell("\n" + "\n".join(self.round_trip.bars()))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    try:  # a zombie takes signals, but will never read again
        with open(f"/proc/{pid}/stat", "rb") as status:
            return status.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except OSError:
        return True


def open_file(path: str, flags: int, standard: int) -> Tuple[BinaryIO, bool]:
    """(unbuffered file, is it a regular one?): only those never make us wait."""
    while True:
        try:
            fd = standard
            if path == "-" and (sys.stdin, sys.stdout)[standard] is None:  # /dev/null stands in
                raise OSError(errno.EBADF, os.strerror(errno.EBADF))
            if path != "-":  # a blocking open of a FIFO without its other end sits out every signal
                fd = os.open(path, flags | (os.O_NONBLOCK if LINUX else 0), 0o666)
                os.set_blocking(fd, True)
            return (open(fd, "rb" if standard == 0 else "wb", buffering=0, closefd=False),
                    stat.S_ISREG(os.fstat(fd).st_mode))
        except OSError as error:
            if Stop.signal:
                raise Ended
            if error.errno != errno.ENXIO or not Path(path).is_fifo():
                raise Failure(SYSTEM, f"open {path}: {error.strerror}; give another file")
        time.sleep(0.01)  # nobody reads it yet


# ---- command line ------------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # one line, not the usage over several
        remark(f"{message}; see host.py --help")
        self.exit(USAGE)

    def print_help(self, file=None):
        try:
            put(self.format_help(), sys.stdout)
        except OSError as error:
            remark(f"standard output: {error.strerror}")
            self.exit(SYSTEM)


def whole(low: int, high: int) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not text.isascii() or not text.isdigit() or not low <= int(text) <= high:
            raise argparse.ArgumentTypeError(f"{text}: not a whole number from {low} to {high}")
        return int(text)
    return parse


def real(low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        try:
            value = float(text) if text.strip() == text and "_" not in text else low - 1
        except ValueError:
            value = low - 1
        if not low <= value <= high:
            raise argparse.ArgumentTypeError(f"{text}: not a number from {low:g} to {high:g}")
        return value
    return parse


def file_name(text: str) -> str:
    if not text:
        raise argparse.ArgumentTypeError("is empty")
    return text


def parse_options(arguments: List[str]) -> argparse.Namespace:
    parser = Parser(prog="host.py", usage="host.py [options] [-- COMMAND ARG...]",
                    description="Creates a shared memory segment and publishes into it; "
                                "cliente_c reads it.", allow_abbrev=False)
    add = parser.add_argument
    add("--name", default="/shmprueba", help="segment name, with or without the leading slash "
                                             "(/shmprueba)")
    add("--rate", type=real(0, 1e9), metavar="HZ", help="messages a second, absolute schedule; "
                                                        "0: no pause (1000)")
    add("--size", type=whole(1, 1 << 30), default=64, metavar="BYTES", help="payload bytes (64)")
    add("--slots", type=whole(2, 65536), default=1024, metavar="N",
        help="messages a lane holds, power of two (1024)")
    add("--count", type=whole(0, 1 << 62), default=0, metavar="N",
        help="stop after N messages; 0: until Ctrl-C (0)")
    add("--input", type=file_name, metavar="FILE",
        help="publish FILE ('-': standard input) in messages of --size bytes; waits for a client; "
             "implies --rate 0")
    add("--wait-client", action="store_true", help="publish nothing until a client is attached")
    add("--echo", action="store_true", help="ping-pong: wait for the client's echo of each "
                                            "message, check its bytes, print round-trip timing")
    add("--crc", action="store_true", help="put a CRC-32 on every message")
    add("--sink", type=file_name, metavar="FILE",
        help="receive on the up lane, lossless, and write the payloads to FILE ('-': standard "
             "output); publishes nothing")
    add("--wait", choices=["spin", "yield", "sleep", "block"],
        help="how --echo (spin) and --sink (block, else sleep) wait")
    add("--stall-timeout", type=real(0.001, 1e6), default=1.0, metavar="S",
        help="drop a lossless client that has not moved for so long (1.0)")
    add("--cpu", type=whole(0, 1023), metavar="N", help="pin to a CPU (Linux)")
    add("--json", action="store_true", help="one JSON object on standard output at the end, "
                                            "nothing else there")
    add("--quiet", action="store_true")
    add("-- COMMAND", dest="command", nargs="?", help="start COMMAND once the segment is live, end "
                                                      "with it, exit with its status")
    dashes = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:dashes])
    options.command = arguments[dashes + 1:]
    if dashes < len(arguments) and not options.command:
        parser.error("--: COMMAND is missing")
    if options.slots & options.slots - 1:
        parser.error(f"argument --slots: {options.slots}: not a power of two")
    if bool(options.input) + options.echo + bool(options.sink) > 1:
        parser.error("--input, --echo, --sink: only one of them")
    if options.json and options.sink == "-":
        parser.error("--json: standard output is taken by --sink -")
    options.count = options.count or 1 << 62  # 0: until Ctrl-C
    if options.rate and options.rate < 1e-6:
        parser.error(f"argument --rate: {options.rate:g}: one message in 11 days is the slowest")
    if options.rate is None:
        options.rate = 0.0 if options.input else 1000.0
    if options.wait == "block" and FUTEX_CALL is None:
        parser.error("--wait block: no futex on this system; use spin, yield or sleep")
    if options.wait is None:
        options.wait = "spin" if not options.sink else "block" if FUTEX_CALL else "sleep"
    try:
        options.name = normalise_name(options.name)
        options.name.encode()
    except UnicodeEncodeError:
        parser.error(f"segment name {options.name!r} is not UTF-8: SharedMemory takes no other")
    except ValueError as error:
        parser.error(f"segment name {options.name!r} {error}")
    if options.cpu is not None:
        try:
            options.cpus = os.sched_getaffinity(0)  # COMMAND keeps them
            os.sched_setaffinity(0, [options.cpu])
        except AttributeError:
            parser.error("--cpu: this system cannot pin a process to a CPU")
        except OSError as error:
            parser.error(f"--cpu {options.cpu}: {error.strerror}; `nproc` tells how many there are")
    return options


def main(arguments: List[str]) -> int:
    if sys.stdout:  # a name that its encoding does not have is no reason to fail; stderr does so
        sys.stdout.reconfigure(errors="backslashreplace")
    options = parse_options(arguments)
    host = Host(options)
    if len(os.fsencode(options.name)) > 31 and sys.platform != "darwin" and not options.quiet:
        host.say("this name is too long for macOS (31 bytes with the slash)")
    if platform.machine().lower() not in ("x86_64", "amd64", "aarch64", "arm64"):
        host.say("the memory order of this program is not proved on this machine "
                 f"({platform.machine()}): --crc is on")
        options.crc = True
    if LINUX:
        libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # or every sleep lasts 50 us longer
    try:
        return host.run()
    except Ended:
        return DONE
    except Failure as failure:
        host.say(str(failure))
        return failure.code


if __name__ == "__main__":
    for _number in (1, 2):  # a closed one must not become the segment's, or a file's
        try:
            os.fstat(_number)
        except OSError:
            os.dup2(os.open(os.devnull, os.O_RDWR), _number)
    try:
        _status = main(sys.argv[1:])
    except SystemExit as _exit:  # argparse
        _status = _exit.code
    # Not sys.exit: the interpreter's end would give the signals back their default, and flush what
    # a broken stream has not taken: then its exit code is 120, whatever ours was.
    os._exit(_status)
