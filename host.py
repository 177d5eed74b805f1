#!/usr/bin/env python3
"""host.py - creates the shared memory segment and publishes into it (standard library only).

Reads top to bottom: layout, your own data, name, clock, kernel, lane, segment, keeping, jobs,
command line. Importable: a script of yours may be the host, with a Segment and its lanes.
"""
import sys

if sys.version_info < (3, 8):
    sys.exit("host.py: needs Python 3.8 or newer (multiprocessing.shared_memory), this is %d.%d"
             % sys.version_info[:2])
if sys.implementation.name != "cpython":  # what a store or a fence is compiled to, is known of it
    sys.exit("host.py: needs CPython, this is " + sys.implementation.name)

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
from functools import partial
from multiprocessing import resource_tracker, shared_memory
from typing import BinaryIO, Callable, List, Optional, Tuple

DONE, SYSTEM, USAGE, NO_CLIENT, REFUSED, DATA = 0, 1, 2, 3, 5, 6  # exit codes
LINUX, MACHINE = sys.platform.startswith("linux"), os.uname().machine


class Failure(Exception):
    """Ends the program: one line on standard error, one exit code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code


class Ended(Exception):
    """Leaves a job from wherever it waits: a signal, or the end of COMMAND."""


def put(text: str, stream) -> None:
    """Writes all of it, now."""
    if stream is None:  # print would take the standard output for it
        raise Failure(SYSTEM, "standard output is closed; give --quiet, or open it")
    try:
        print(text, file=stream, end="", flush=True)
    except OSError as error:
        raise Failure(SYSTEM, f"standard output: {error.strerror}; give --quiet, or another one")


def remark(text: str) -> None:
    """One line on standard error; that nobody hears it is no reason to end."""
    with suppress(Failure):
        put(f"host.py: {text}\n", sys.stderr)


# ---- layout: the mirror of include/shm_layout.h ------------------------------------------------

MAGIC, VERSION, HEADER_SIZE, SLOT_HEAD, BLOCK = b"SHMPRUEB", 1, 1024, 32, 128
STARTING, LIVE, CLOSED = 0, 1, 2
RAW, SAMPLE, FLAG_CRC, FLAG_BARRIER = 0, 1, 1, 2
DOWN, UP = 0, 1
POSITION = (1 << 48) - 1  # in a place; above it: the generation
CLAIMING = 0xffff << 32  # a position from here on is the pid of a client that is just claiming
U32, U64 = ctypes.c_uint32, ctypes.c_uint64


class Header(ctypes.Structure):
    _fields_ = [("magic", ctypes.c_char * 8), ("version", U32), ("header_size", U32),
                ("total_size", U64), ("slot_count", U32), ("slot_stride", U32),
                ("payload_capacity", U32), ("flags", U32), ("session", U64), ("host_pid", U64),
                ("payload_kind", U32), ("zero", U32 * 17)]


class Status(ctypes.Structure):
    _fields_ = [("state", U32), ("zero", U32), ("heartbeat_ns", U64), ("zeros", U64 * 14)]


class LaneBlock(ctypes.Structure):
    _fields_ = [("head", U64), ("dropped", U64), ("zero", U64 * 14),
                ("place", U64), ("holder", U64), ("zeros", U64 * 14),
                ("wish", U64), ("attached", U32), ("zero1", U32), ("zeros1", U64 * 14)]


class Slot(ctypes.Structure):
    _fields_ = [("seq", U64), ("timestamp_ns", U64), ("due_ns", U64), ("length", U32),
                ("crc32", U32)]


STATE_AT, BEAT_AT = BLOCK // 4, (BLOCK + Status.heartbeat_ns.offset) // 8
HEARTBEAT_NS, SILENCE_NS = 50_000_000, 1_000_000_000  # twice as often as promised


# ---- your own data: what a payload is, and where it comes from (C: include/shm_sample.h) -------

class Sample(ctypes.Structure):
    """Payload kind 1, as generated: a pure function of n, so that a receiver can check it."""
    _fields_ = [("index", U64), ("time_s", ctypes.c_double), ("accel", ctypes.c_float * 3),
                ("gyro", ctypes.c_float * 3), ("temperature", ctypes.c_float),
                ("zero", ctypes.c_uint8 * 20)]


def swing(n: int) -> float:
    """A sine made of two parabolas, period 1024, in exact binary fractions."""
    x = (n % 1024 - 512) / 512
    return 4 * x * (1 - abs(x))


def sample_filler(memory: memoryview, length: int) -> Callable[[int, int], None]:
    """fill(at, n) writes message n of this length: length, CRC 0 and the sample, at memory[at:].
    All in one pack_into: it may be packed, since nobody accepts what he sees while seq is odd."""
    rest = [struct.pack("=7f20x", .5 * swing(n), .25 * swing(n + 256),
                        9.8125 + .0625 * swing(2 * n), .25 * swing(n + 256), -.125 * swing(n),
                        .03125 * swing(4 * n), 36.5 + .25 * swing(n + 512)) for n in range(1024)]
    pack = struct.Struct("=IIQd48s").pack_into  # length and CRC; then the fields of Sample

    return lambda at, n: pack(memory, at, length, 0, n, n * 0.001, rest[n & 1023])


def make_filler(segment: "Segment") -> Callable[[int, int], None]:
    """fill(at, n) of Lane.writer for generated messages: the sample, if the segment's messages are
    those; then byte i is (n + i) % 251."""
    memory, size = segment.memory, segment.capacity
    pattern = memoryview(bytes(range(251)) * (size // 251 + 2))
    head = ctypes.sizeof(Sample) if segment.kind == SAMPLE else 0
    begin = sample_filler(memory, size) if head else struct.Struct("=II").pack_into

    def fill(at: int, n: int) -> None:
        begin(at, n) if head else begin(memory, at, size, 0)
        memory[at + 8 + head:at + 8 + size] = pattern[(n + head) % 251:][:size - head]

    return with_crc(segment, begin if size == head else fill)


def with_crc(segment: "Segment", fill: Callable[[int, int], None]) -> Callable[[int, int], None]:
    memory, ints = segment.memory, segment.ints

    def fill_and_sum(at: int, n: int) -> None:
        fill(at, n)
        length = ints[at >> 2]
        ints[(at >> 2) + 1] = zlib.crc32(memory[at + 8:at + 8 + length], n & 0xffffffff)

    return fill_and_sum if segment.crc else fill


# ---- name: the same rule as src/shm_name.c -----------------------------------------------------

def normalise_name(name: str, system: str = sys.platform) -> str:
    """The name with exactly one leading slash; ValueError says what is wrong with it."""
    bare = os.fsencode(name[1:] if name.startswith("/") else name)
    odd = [byte for byte in bare if byte < 0x20 or byte in b"/\x7f"]  # the first is the one to name
    for wrong, why in (
            (not name, "is empty"), (not bare, "is only a slash"),
            (bare in (b".", b".."), "is a folder, not a name"),
            (odd[:1] == [0x2f], "has a slash inside"), (odd, "has a NUL or control character"),
            (len(bare) > (30 if system == "darwin" else 255),  # PSHMNAMLEN less the slash; NAME_MAX
             "is too long (Linux: 255 bytes after the slash, macOS: 31 with it)")):
        if wrong:
            raise ValueError(why)
    return "/" + os.fsdecode(bare)


# ---- clock and histogram -----------------------------------------------------------------------

def choose_clock(module=time) -> Callable[[], int]:
    """The clock of include/latency.h, by symbol: only macOS has CLOCK_UPTIME_RAW."""
    if hasattr(module, "CLOCK_UPTIME_RAW"):
        return partial(module.clock_gettime_ns, module.CLOCK_UPTIME_RAW)
    return module.monotonic_ns  # CLOCK_MONOTONIC there, and a cheaper call


clock = choose_clock()


class Latency:
    """Durations in constant memory: 128 steps an octave, as src/latency.c."""

    def __init__(self) -> None:
        self.counts: Counter = Counter()
        self.sum, self.min, self.max = 0, 1 << 63, 0

    def record(self, ns: int) -> None:
        shift = max(ns.bit_length() - 8, 0)
        self.counts[(ns >> shift) + 1 << shift] += 1  # key: the end of the step
        self.sum += ns
        self.min, self.max = min(self.min, ns), max(self.max, ns)

    def percentile(self, fraction: float) -> int:
        left = fraction * sum(self.counts.values()) - 1e-6
        for end in sorted(self.counts):
            left -= self.counts[end]
            if left <= 0:
                return min(end - 1, self.max)
        return 0

    def summary(self) -> Optional[dict]:
        points = {"p50": .5, "p90": .9, "p99": .99, "p99_9": .999}
        return {"min": self.min, **{name: self.percentile(at) for name, at in points.items()},
                "max": self.max, "mean": round(self.sum / sum(self.counts.values()), 1)
                } if self.counts else None


# ---- kernel: what Python has no word for (Linux) -------------------------------------------------

FUTEX, MEMBARRIER = {"x86_64": (202, 324), "aarch64": (98, 283), "riscv64": (98, 283)}.get(
    MACHINE if LINUX else "", (0, 0))  # numbers of the system calls; 0: there is none
FUTEX_WAIT, FUTEX_WAKE = ctypes.c_int(0), ctypes.c_int(1)  # made once: a call is cheaper then
REGISTER_GLOBAL_EXPEDITED, PR_SET_TIMERSLACK = 4, 29
LONGEST_SLEEP = (ctypes.c_long * 2)(0, HEARTBEAT_NS)  # a struct timespec
libc = ctypes.CDLL(None, use_errno=True)


def futex(address: ctypes.c_void_p, operation: ctypes.c_int, value: int) -> int:
    """0, or errno. The address is that of the low half of a head."""
    if not FUTEX:
        return errno.ENOSYS
    result = libc.syscall(ctypes.c_long(FUTEX), address, operation, ctypes.c_uint32(value),
                          LONGEST_SLEEP, None, 0)
    return 0 if result >= 0 else ctypes.get_errno()


def register_barrier() -> bool:
    """May a sleeper make us pass a full barrier (membarrier, Linux 4.16)? Then none of our own is
    needed between head and the look for a sleeper."""
    return bool(MEMBARRIER) and libc.syscall(
        ctypes.c_long(MEMBARRIER), REGISTER_GLOBAL_EXPEDITED, 0, 0) == 0


# ---- lane: both verbs --------------------------------------------------------------------------

# x86-64 keeps all stores in their order, and all loads; only a load may overtake an earlier store.
# So the fences that merely order stores, or loads, need no instruction there: left out, a message
# is seen a quarter sooner. CPython makes each access by a call of its own. The exception: glibc
# copies much at once (never below 16 KiB) with non-temporal stores, which keep no order at all.
WEAK, LARGE_COPY = MACHINE != "x86_64", 1 << 14


def make_fence() -> Tuple[Callable[[], None], Callable[[], bool]]:
    """The two halves of a full memory barrier, to be called one after the other. Python has no
    fence; to release and take a private lock that is always held is one on x86-64 (two locked
    instructions) and on ARMv8 (store-release, then load-acquire). That is the machines' promise,
    not the language's, and RISC-V's libc breaks it: tests/model/README.md."""
    lock = threading.Lock()
    lock.acquire()
    return lock.release, lock.acquire


class Lane:
    """One direction of a segment. The steps are named as in src/lane.c and in tests/model.
    Live fields are written as aligned 8-byte stores only (words[...] = ...): struct.pack_into
    would clear the field first, and the other side would see the zeros (CPython issue 156866)."""

    def __init__(self, segment: "Segment", index: int) -> None:
        block = 2 * BLOCK + index * ctypes.sizeof(LaneBlock)
        self.segment, self.words = segment, segment.words
        self.head, self.dropped, self.place, self.holder, self.wish = (
            (block + getattr(LaneBlock, name).offset) // 8
            for name in ("head", "dropped", "place", "holder", "wish"))
        self.attached = (block + LaneBlock.attached.offset) // 4
        self.slots, self.stride = segment.slot_count, segment.slot_stride
        self.first = HEADER_SIZE + index * self.slots * self.stride
        self.futex_at = ctypes.c_void_p(segment.address + block)  # head's low half
        self.fence = make_fence()
        self.missed_wakeups = 0

    def slot_at(self, n: int) -> int:
        return self.first + n % self.slots * self.stride

    def wake(self) -> None:
        """A real system call even if nobody sleeps: where membarrier stands for the fence behind
        head, FUTEX_WAKE's own barrier is needed (tests/model/README.md)."""
        futex(self.futex_at, FUTEX_WAKE, 0x7fffffff)

    def writer(self, make_room: Callable[[int], int], n: int = 0) -> Callable[..., int]:
        """publish(fill, due=0, last=0): publishes the next message, and more until message `last`.
        due: when it should be, 0: at once. Returns a time: what publishing has cost, up to now.
        fill(at, n) writes length, CRC and payload of message n at memory[at:]; if it raises,
        nothing is published. Called before it is due, publish *rehearses* until then: it goes
        through the motions, all but the last two stores, as long as twice the last time still fits:
        a warm code takes half as long. make_room(n) waits until message n may overwrite its slot
        and returns the last one that needs no further question. n: published so far.
        A closure with a loop: cells cost half of what attributes do, and calls even more."""
        words, head, wish, wake = self.words, self.head, self.wish, self.wake
        release, acquire = self.fence
        mask = self.slots - 1
        places = [(at // 8, at // 8 + 1, at // 8 + 2, at + 24)  # looked up faster than reckoned
                  for at in map(self.slot_at, range(self.slots))]
        now, limit, woken = clock, 0, 0
        weak = WEAK or self.segment.capacity >= LARGE_COPY
        fenced = FUTEX and not self.segment.barrier

        def publish(fill: Callable[[int, int], None], due: int = 0, last: int = 0) -> int:
            nonlocal n, limit, woken
            m, begin = n, now()
            while True:
                m += 1
                if m > limit:
                    limit = make_room(m)
                    begin = now()                # waiting for a client is no cost
                slot, stamp_at, due_at, fill_at = places[m & mask]
                seq = 2 * m
                words[slot] = seq - 1            # SYNC seq = 2n-1
                if weak:
                    release(); acquire()         # SYNC F1: pairs with R4
                fill(fill_at, m)
                if due:                          # little stands between the time stamp and head
                    words[due_at] = due
                    words[stamp_at] = timestamp = now()
                    if timestamp < due:
                        cost = timestamp - begin
                        if 2 * cost < due - timestamp:
                            begin, m = timestamp, m - 1
                            continue             # that was a rehearsal
                        begin = due - cost       # waiting is none
                        while timestamp < due:
                            words[stamp_at] = timestamp = now()
                else:
                    words[due_at] = words[stamp_at] = now()
                if weak:
                    release(); acquire()         # SYNC F2: pairs with "seq load"
                words[slot] = seq                # SYNC seq = 2n
                words[head] = n = m              # SYNC head = n: pairs with "head load"
                if fenced:
                    release(); acquire()         # SYNC wake: pairs with "sleep" (src/waiter.c);
                if words[wish] > woken:          # else the sleeper's membarrier is for both
                    woken = n                    # not the wish: he may not be in the queue yet
                    wake()
                if m >= last:
                    return begin

        return publish

    def reader(self) -> Tuple[Callable[[], Optional[memoryview]], Callable[[memoryview], bool]]:
        """(take, done), for the one consumer of this lane, from before LIVE to the end. take() is
        the next message's payload, a memoryview of its slot, or None; done(payload) tells whether
        it was whole until now, and frees the slot."""
        words, ints, memory = self.words, self.segment.ints, self.segment.memory
        capacity, crc_on, weak = self.segment.capacity, self.segment.crc, WEAK
        head, place, (release, acquire) = self.head, self.place, self.fence
        n, slot, crc_wanted = 1, self.slot_at(1) // 8, 0  # nobody read before us
        # Generation 1. Plain stores do: the host has no compare-and-swap, and no rival.
        words[self.holder] = 1 << 32 | os.getpid()
        words[place] = 1 << 48

        def take() -> Optional[memoryview]:
            nonlocal crc_wanted
            if words[head] < n:              # SYNC head load
                return None
            if weak:
                release(); acquire()         # SYNC A: pairs with F2; seq and payload come after it
            if words[slot] != 2 * n:         # SYNC seq load
                return None
            length, crc_wanted = ints[2 * slot + 6], ints[2 * slot + 7]
            if length > capacity:
                raise Failure(REFUSED, f"the client wrote an impossible length, {length} bytes")
            at = (slot << 3) + SLOT_HEAD
            return memory[at:at + length]

        def done(payload: memoryview) -> bool:
            nonlocal n, slot
            good = not crc_on or zlib.crc32(payload, n & 0xffffffff) == crc_wanted
            if weak:
                release(); acquire()         # SYNC R4: pairs with F1; and releases "place swap"
            good = good and words[slot] == 2 * n  # SYNC seq again
            words[place] = 1 << 48 | n       # SYNC place swap
            n += 1
            slot = self.slot_at(n) // 8
            return good

        return take, done

    def sleep(self, n: int) -> None:
        """Sleeps until message n is published, 50 ms at most; naps where there is no futex."""
        words, head, (release, acquire) = self.words, self.head, self.fence
        words[self.wish] = n
        release(); acquire()                 # SYNC sleep: pairs with "wake" (src/lane.c)
        value = words[head]
        if value >= n:
            return
        result = futex(self.futex_at, FUTEX_WAIT, value)
        if result == errno.ENOSYS:
            time.sleep(1e-3)
        elif result == errno.ETIMEDOUT and words[head] >= n:
            stamp = words[self.slot_at(n) // 8 + 1]
            self.missed_wakeups += clock() - stamp > 10_000_000


# ---- segment -----------------------------------------------------------------------------------

NOT_OURS = "refused: {}; remove it, or choose another --name"
IN_USE = "another host of this name is running ({}); end it, or choose another --name"


class Found(shared_memory.SharedMemory):
    """Somebody else's: where it cannot be mapped, __init__ would unlink it."""

    def unlink(self) -> None:
        pass


class Segment:
    """The shared memory object: one host a name, memory reserved, gone at the end.

    name: normalised; size: bytes of a payload, at most; slots: a power of two. Failure says what is
    wrong. Then go_live(), and beat() every 100 ms at least; end(), and unmap()."""

    def __init__(self, name: str, size: int, slots: int = 1024, kind: int = RAW,
                 crc: bool = False) -> None:
        self.name, self.capacity, self.slot_count, self.crc = name, size, slots, crc
        self.kind, self.slot_stride = kind, -(-(SLOT_HEAD + size) // BLOCK) * BLOCK
        self.total = HEADER_SIZE + 2 * slots * self.slot_stride
        self.path = "/dev/shm" + name if LINUX else ""
        if not name.isascii() or ":" in name:  # the tracker chokes on them; they do without it
            resource_tracker.register = resource_tracker.unregister = lambda *_name_and_type: None
        mask = os.umask(0o077)  # whatever it was: we open the lock and the segment again
        # The resource tracker is started in here and inherits the mask: a hang-up of the terminal
        # must not end it before us, or it would complain. It ignores SIGINT and SIGTERM by itself.
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        try:
            self.lock_path, self.lock = self.take_lock()
            try:
                self.clear_stale()
                self.create()
            except BaseException:
                self.drop_lock()
                raise
        finally:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
            os.umask(mask)
        self.memory = memoryview(self.shm.buf)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(self.memory))  # until unmap()
        self.ints, self.words = self.memory.cast("I"), self.memory.cast("Q")
        self.barrier = register_barrier()
        self.words[0] = int.from_bytes(MAGIC, sys.byteorder)  # whole or not there: one store
        self.memory[8:BLOCK] = bytes(Header(
            version=VERSION, header_size=HEADER_SIZE, total_size=self.total, slot_count=slots,
            slot_stride=self.slot_stride, payload_capacity=size, payload_kind=kind,
            flags=(FLAG_CRC if crc else 0) | (FLAG_BARRIER if self.barrier else 0),
            session=int.from_bytes(os.urandom(8), "little") or 1, host_pid=os.getpid()))[8:]
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
            raise Failure(NO_CLIENT, IN_USE.format(f"it holds {path}"))
        except OSError as error:
            raise Failure(SYSTEM, f"lock file: {error}; set TMPDIR to a folder you can write to")

    def drop_lock(self) -> None:
        with suppress(OSError):  # somebody has swept the temp folder, and perhaps another is there
            if os.path.samestat(os.fstat(self.lock), os.stat(self.lock_path)):
                os.unlink(self.lock_path)
        os.close(self.lock)

    def clear_stale(self) -> None:
        """Replaces what a dead host left; refuses what is alive, or not ours."""
        try:
            if self.path and os.lstat(self.path).st_uid != os.getuid():
                raise Failure(REFUSED, NOT_OURS.format("it belongs to another user"))
            old = Found(self.name[1:])
        except FileNotFoundError:
            return
        except (OSError, ValueError) as error:
            if not self.path or isinstance(error, OSError):
                raise Failure(REFUSED, NOT_OURS.format(error))
            os.unlink(self.path)  # mmap takes no empty one: its host was killed in its first steps
            return remark(f"{self.name}: replaced an empty segment, which was in the way")
        try:
            head = bytes(old.buf[:HEADER_SIZE])
            if len(head) < 2 * BLOCK or head[:8] != MAGIC and any(head):
                raise Failure(REFUSED, NOT_OURS.format("not made by host.py"))
            pid = Header.from_buffer_copy(old.buf).host_pid
            beat = Status.from_buffer_copy(old.buf, BLOCK).heartbeat_ns
            begin = now = clock()
            # A heartbeat of the last second may be a live host's whose temp folder is not ours:
            # watch until it has moved, or is old.
            while abs(now - beat) < SILENCE_NS or now - begin < 300_000_000:
                time.sleep(0.01)
                now = clock()
                if Status.from_buffer_copy(old.buf, BLOCK).heartbeat_ns != beat:
                    raise Failure(NO_CLIENT, IN_USE.format(f"pid {pid}"))
        except Failure:
            resource_tracker.unregister(self.name, "shared_memory")  # attaching has registered it
            raise
        finally:
            old.close()
        shared_memory.SharedMemory.unlink(old)
        remark(f"{self.name}: replaced a stale segment (its host, pid {pid}, is silent)")

    def create(self) -> None:
        made = None
        try:
            # What SharedMemory would fail at when it has made the segment already, and leave it.
            resource_tracker.ensure_running()
            mmap.mmap(-1, self.total, mmap.MAP_PRIVATE, mmap.PROT_READ).close()
            self.shm = made = shared_memory.SharedMemory(self.name[1:], True, self.total)
            if self.path:  # it only sets the size: a full /dev/shm would be SIGBUS at some store
                with open(self.path, "r+b") as segment:
                    self.inode = os.fstat(segment.fileno()).st_ino
                    os.posix_fallocate(segment.fileno(), 0, self.total)
        except FileExistsError:
            raise Failure(NO_CLIENT, IN_USE.format("it began at the same moment"))
        except OSError as error:
            if made:
                made.close()
                made.unlink()
            why = f"cannot create {self.total} bytes: {error.strerror}"
            if error.errno == errno.ENOENT:
                why += "; is /dev/shm mounted?"
            if error.errno == errno.ENOSPC:
                room = os.statvfs("/dev/shm")
                why += (f": /dev/shm is too small, {room.f_bavail * room.f_frsize} bytes free; use "
                        "fewer --slots or a smaller --size (in a container: --shm-size)")
            raise Failure(SYSTEM, why)

    def beat(self, now: int) -> None:
        self.words[BEAT_AT] = now

    def go_live(self) -> None:
        self.beat(clock())
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
        self.lanes[DOWN].wake()  # whoever sleeps, whatever for
        if self.still_named():
            self.shm.unlink()
        else:
            resource_tracker.unregister(self.name, "shared_memory")
        self.drop_lock()

    def unmap(self) -> None:
        """Only when nobody holds a view any more: they all go first, or close() raises."""
        for view in (self.words, self.ints, self.memory):
            view.release()
        self.shm.close()


# ---- keeping: what a host looks after, whatever its job ----------------------------------------

def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        with open(f"/proc/{pid}/stat", "rb") as status:  # a zombie takes signals, but never reads
            return status.read().rpartition(b")")[2].split()[0] not in (b"Z", b"X")
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # another user's; or there is no /proc
        return True


class Keeper:
    """Heartbeat, signals, COMMAND, the name, the consumer; the words for them; the counts."""

    def __init__(self, options: argparse.Namespace, segment: Segment) -> None:
        self.options, self.segment, self.words = options, segment, segment.words
        self.down, self.up = segment.lanes
        self.out = sys.stderr if options.sink == "-" else sys.stdout  # the payloads have that
        self.chatty = not (options.quiet or options.json)
        self.live = (self.chatty and not options.command  # a live line, then
                     and self.out is not None and self.out.isatty()
                     and os.environ.get("TERM", "dumb") != "dumb")
        self.clear = "\r\033[K" if self.live else ""  # before all that is not the live line
        self.child: Optional[subprocess.Popen] = None
        self.why_dropped, self.name_is_gone = "its client was dropped, but not by this host", False
        self.next_care = self.next_line = 0
        self.seen, self.spent, self.last_look = None, 0, 0  # of ran_out()
        self.bytes = self.received = self.stalls = self.dropped = 0
        self.publish_ns, self.round_trip, self.begin = Latency(), Latency(), clock()

    def say(self, text: str) -> None:
        with suppress(Failure):
            put(self.clear, self.out)
        remark(f"{self.segment.name}: {text}")

    def tell(self, text: str) -> None:
        """A part of the result; beside --sink - it is a remark."""
        try:
            put(self.clear + text + "\n", self.out)
        except Failure:
            if self.options.sink != "-":
                raise

    def care(self) -> int:
        """Wherever the host waits, at least every 50 ms. Returns the time."""
        now = clock()
        if now < self.next_care:
            return now
        self.next_care = now + HEARTBEAT_NS
        self.segment.beat(now)
        if Stop.signal or self.child_ended() and not self.options.sink:  # that drains its ring
            raise Ended
        generation, pid, _ = self.consumer()
        if pid and not alive(pid) and self.words[self.down.place] >> 48 == generation:
            self.drop(generation, pid, "is gone")
        if now >= self.next_line:
            self.next_line = now + 1_000_000_000
            if not self.name_is_gone and not self.segment.still_named():
                self.name_is_gone = True
                self.say("its name is gone, new clients find no host: did a Python attach, and end "
                         "(SharedMemory needs track=False there, or resource_tracker.unregister)?")
            if self.live:
                self.line((now - self.begin) * 1e-9 or 1)
        return now

    def line(self, seconds: float) -> None:
        head, (_, pid, at) = self.words[self.down.head], self.consumer()
        count = self.received if self.options.sink else head
        text = (f"  {seconds:4.0f} s  {count} messages  {count / seconds:.0f} a second  "
                f"{self.clients()} clients")
        if pid:
            text += f"  pid {pid}, lag {max(head - at, 0)}"
        with suppress(Failure):
            put(f"\r{text:.79}\033[K", self.out)  # one that wraps cannot be overwritten

    def child_ended(self) -> bool:
        return self.child is not None and self.child.poll() is not None

    # -- the clients of the down lane, and its one consumer

    def clients(self) -> int:
        return self.segment.ints[self.down.attached]

    def consumer(self) -> Tuple[int, int, int]:
        """(generation, pid, position) of who holds the place, claiming or settled; or zeros."""
        place, holder = self.words[self.down.place], self.words[self.down.holder]
        generation, at = place >> 48, place & POSITION
        if not generation & 1 or generation == self.words[self.down.dropped]:
            return 0, 0, 0
        if at >= CLAIMING:
            return generation, at & 0xffffffff, at
        return generation, holder & 0xffffffff if holder >> 32 == generation else 0, at

    def settled(self) -> int:
        """The generation of a consumer that has begun; 0: nobody has."""
        generation, _, at = self.consumer()
        return generation if at < CLAIMING else 0

    def drop(self, generation: int, pid: int, why: str) -> None:
        """Waits for it no longer. It learns that before it counts another message (lane.c)."""
        release, acquire = self.down.fence
        self.words[self.down.dropped] = generation
        release(); acquire()  # SYNC dropped: pairs with R4; before anything of it is overwritten
        self.dropped += 1
        self.why_dropped = f"client pid {pid} {why}: dropped"
        if not self.options.echo and not self.options.sink:  # they end with it, and say why
            self.say(self.why_dropped)

    def check_dropped(self, generation: int) -> None:
        if self.words[self.down.dropped] == generation:
            lost = self.options.sink and f"; {self.options.sink} is incomplete"
            raise Failure(DATA, self.why_dropped + (lost or ""))

    def ran_out(self, now: int, state: object) -> bool:
        """Has state not changed for --stall-timeout? In our own waking time: each look adds 50 ms
        at most, since who was stopped himself blames nobody."""
        self.spent += min(now - self.last_look, HEARTBEAT_NS)
        if state != self.seen:
            self.seen, self.spent = state, 0
        self.last_look = now
        return self.spent > self.options.stall_timeout * 1e9

    def make_room(self, n: int) -> int:
        """Slow path of Lane.writer: waits until message n may overwrite message n - slots."""
        slots, (release, acquire) = self.down.slots, self.down.fence
        moved = looks = 0
        while True:
            release(); acquire()                            # SYNC room: pairs with "claim"
            generation, pid, at = self.consumer()           # SYNC place load
            if not generation:
                return n + slots - 1  # who claims from now on begins with message n, or behind it
            if moved < at < n:  # else he is claiming (or lies): what was seen counts
                moved = at
            if moved + slots >= n:
                return moved + slots
            self.stalls += not looks
            looks += 1
            if self.ran_out(self.care(), (generation, moved)):
                self.drop(generation, pid, f"had not moved for {self.options.stall_timeout:g} s")
            if looks > 100:
                time.sleep(50e-6)

    # -- waiting for a client, for its messages, for the time

    def wait_for(self, arrived: Callable[[], int], who: str) -> int:
        """Returns what arrived() does as soon as that is not 0."""
        came = arrived()
        if not came and self.chatty and not self.child:
            self.tell(f"host.py  waiting for {who}")
        while not came:
            self.care()
            if self.child_ended():
                raise Ended
            time.sleep(0.001)
            came = arrived()
        self.begin = clock()
        return came

    def await_up(self, take: Callable[[], Optional[memoryview]],
                 over: Callable[[int], bool]) -> Optional[memoryview]:
        """The next payload on the up lane; None: over(now), and nothing was left."""
        spin, (release, acquire) = self.options.wait == "spin", self.up.fence
        looks = range(1024 if spin else 32)  # of 0.1 us and more
        while True:
            begin = self.care()  # before the looks: we may be stopped behind them
            for _ in looks:
                payload = take()
                if payload is not None:
                    return payload
            if over(begin):
                release(); acquire()  # a sender stores head before it frees its place
                return take()
            if not spin:
                self.up.sleep((self.words[self.up.place] & POSITION) + 1)
            elif clock() - begin > 2_000_000:  # displaced: others share this CPU
                time.sleep(50e-6)

    def schedule(self, early: bool) -> Callable[[int], int]:
        """wait(n): sleeps until n / rate after this moment, however late the others were; returns
        that time. early: wakes before it, by as much as sleeps here are late; Lane.writer does the
        rest. With no rate: 0, at once."""
        start, rate, lateness = clock(), self.options.rate, 60_000

        def wait(n: int) -> int:
            nonlocal lateness
            due = start + int(n * (1e9 / rate)) if rate else 0
            while True:
                now = self.care()
                ahead = min(due - lateness - now, HEARTBEAT_NS)
                if ahead <= 0:
                    break
                time.sleep(ahead * 1e-9)
                late = min((clock() - now - ahead) * 9 // 8, 2 * lateness, 400_000)  # src/waiter.c
                lateness = max(late, lateness - (lateness - late) // 16, 20_000)
            while not early and clock() < due:
                pass
            return due

        return wait


# ---- the jobs ----------------------------------------------------------------------------------

def make_reader(keeper: Keeper, source: BinaryIO) -> Callable[[int, int], None]:
    """fill(at, n) of Lane.writer: what one read of the source returns, straight into the slot."""
    options, memory, ints = keeper.options, keeper.segment.memory, keeper.segment.ints

    def read(at: int, _n: int) -> None:
        try:
            length = source.readinto(memory[at + 8:at + 8 + options.size])
        except OSError as error:
            raise Failure(SYSTEM, f"read {options.input}: {error.strerror}; give another file")
        if not length:  # None: somebody else was faster at a non-blocking source
            raise EOFError if length == 0 else BlockingIOError
        ints[at >> 2], ints[(at >> 2) + 1] = length, 0
        keeper.bytes += length

    return with_crc(keeper.segment, read)


def publish(keeper: Keeper, source: Optional[BinaryIO] = None, regular: bool = True) -> None:
    """Generated messages, or those of a source: --count of them, or until it ends."""
    options, n, burst = keeper.options, 0, 1
    fill = make_reader(keeper, source) if source else make_filler(keeper.segment)
    if source and not options.rate:
        keeper.wait_for(keeper.settled, "cliente_c --lossless")
    elif source or options.wait_client:
        keeper.wait_for(keeper.clients, "any cliente_c")
    send = keeper.down.writer(keeper.make_room)
    wait = keeper.schedule(not source and options.size <= 4096 and (os.cpu_count() or 1) > 1)
    with suppress(EOFError):
        while n < options.count:
            due, last = wait(n), min(n + burst, options.count)
            while not regular and not select.select([source], [], [], 0.05)[0]:
                keeper.care()  # a quiet source must not stop the heartbeat
            try:
                begin, n = send(fill, due, last), last
            except BlockingIOError:
                continue
            now = clock()
            if burst == 1:
                keeper.publish_ns.record(now - begin)
            if regular and not due:  # flat out: time one, then a millisecond without the clock
                burst = 1 if burst > 1 else max(1, min(255, 1_000_000 // (now - begin + 1)))


def echo(keeper: Keeper, take: Callable, done: Callable) -> None:
    """Ping-pong with one client: send one, wait for it to come back, check its bytes."""
    down, memory, size = keeper.down, keeper.segment.memory, keeper.options.size
    send, fill, n = down.writer(keeper.make_room), make_filler(keeper.segment), 0
    asked, wait = keeper.wait_for(keeper.settled, "cliente_c --echo"), keeper.schedule(True)

    def over(now: int) -> bool:
        """It has left; or it is done with the message, and so has answered by now."""
        generation, pid, at = keeper.consumer()
        if keeper.ran_out(now, n) and generation == asked:
            keeper.drop(asked, pid, f"did not answer for {keeper.options.stall_timeout:g} s")
        return generation != asked or n <= at < CLAIMING

    while n < keeper.options.count:
        due = wait(n)
        if keeper.consumer()[0] != asked:
            break
        n += 1
        begin = send(fill, due)
        published = clock()
        reply = keeper.await_up(take, over)
        end = clock()
        if reply is None:
            break
        keeper.publish_ns.record(published - begin)
        keeper.round_trip.record(end - begin)
        at = down.slot_at(n) + SLOT_HEAD
        same = reply == memory[at:at + size]
        if not done(reply) or not same:
            raise Failure(DATA, f"message {n} did not come back as it was sent")
        keeper.received += 1
    keeper.check_dropped(asked)
    if keeper.received < n and keeper.consumer()[0] == asked:
        raise Failure(DATA, f"message {n} did not come back: its client reads, but does not echo; "
                            "start cliente_c --echo")


def sink(keeper: Keeper, take: Callable, done: Callable, file: BinaryIO, regular: bool) -> None:
    """The payloads of the up lane, straight from the slot to the file, of the first client."""
    options, first = keeper.options, 1  # its generation
    if regular and options.sink != "-":
        file.truncate(0)  # only now: it could have been that of a host which is running

    def write(payload: memoryview) -> None:
        at, step = 0, len(payload) if regular else select.PIPE_BUF
        while at < len(payload):
            while not regular and not select.select([], [file], [], 0.05)[1]:
                keeper.care()  # a reader that pauses must not stop the heartbeat
            try:
                at += os.write(file.fileno(), payload[at:at + step])
            except OSError as error:
                raise Failure(SYSTEM, f"write {options.sink}: {error.strerror}; give another file")

    keeper.wait_for(lambda: keeper.words[keeper.down.place], "cliente_c --source")
    while keeper.received < options.count:
        payload = keeper.await_up(take, lambda _now: keeper.consumer()[0] != first)
        if payload is None:
            keeper.check_dropped(first)
            return keeper.say("the client left before the end of its stream: "
                              f"{options.sink} has what it sent")
        write(payload)
        keeper.bytes += len(payload)
        keeper.received += len(payload) > 0
        if not done(payload):
            raise Failure(DATA, f"a message was damaged on its way: {options.sink} is, too")
        if not payload:  # an empty message ends the stream
            return


# ---- from begin to end -------------------------------------------------------------------------

def open_file(path: str, flags: int, standard) -> Tuple[BinaryIO, bool]:
    """(unbuffered file, is it a regular one?): only those never make us wait."""
    fd = standard.fileno() if standard else -1  # closed: /dev/null may stand in for it
    while not Stop.signal:
        try:
            if path != "-":  # a blocking open of a FIFO without its other end sits out every signal
                fd = os.open(path, flags | (os.O_NONBLOCK if LINUX else 0), 0o666)
                os.set_blocking(fd, True)
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            return open(fd, "wb" if flags else "rb", buffering=0, closefd=False), regular
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
                raise Failure(SYSTEM, f"open {path}: {error.strerror}; give another file")
        time.sleep(0.01)  # nobody reads it yet
    raise Ended


def start_command(options: argparse.Namespace) -> subprocess.Popen:
    taken = options.json or options.sink == "-"  # nothing else may go to our standard output
    try:
        return subprocess.Popen(options.command, stdout=2 if taken else None,
                                stdin=subprocess.DEVNULL if options.input == "-" else None)
    except OSError as error:
        raise Failure(SYSTEM, f"cannot start {options.command[0]}: {error.strerror}; give another")


def end_command(child: subprocess.Popen) -> int:
    """It ends by itself when the segment is closed; after a signal it is asked twice."""
    asks = [child.kill, child.terminate]
    while child.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(2)
        if Stop.signal and asks:
            asks.pop()()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def report(keeper: Keeper, elapsed: float, failed: int) -> None:
    options, spent = keeper.options, keeper.publish_ns.summary()
    published = keeper.words[keeper.down.head]
    count = keeper.received if options.sink else published
    record = {
        "published": published, "received": keeper.received, "clients": keeper.clients(),
        "bytes": keeper.bytes if options.input or options.sink else published * options.size,
        "elapsed_s": round(elapsed, 6), "rate_hz": round(count / elapsed, 3),
        "stalls": keeper.stalls, "dropped_clients": keeper.dropped,
        "missed_wakeups": keeper.up.missed_wakeups,
        "publish_ns": spent and {key: spent[key] for key in ("mean", "p50", "p99")}}
    if options.echo:  # one message is under way at most: where the run failed, it is that one
        record.update(round_trip_ns=keeper.round_trip.summary(),
                      echo_errors=published - keeper.received if failed == DATA else 0)
    if options.json:
        return keeper.tell(json.dumps(record))
    text = ("host.py  {0} {1} messages, {bytes} bytes\n"
            "  time         {elapsed_s:.3f} s   {rate_hz:.1f} a second\n"
            "  clients      {clients}   dropped {dropped_clients}   waited for room {stalls} times"
            ).format("received" if options.sink else "published", count, **record)
    for title, figures in (("publish", "publish_ns"), ("round trip", "round_trip_ns")):
        cells = [f"{name.replace('_', '.')} {ns / 1000:.2f}"
                 for name, ns in (record.get(figures) or {}).items()]
        for at in range(0, len(cells), 4):  # more would not fit into 80 columns
            text += f"\n  {'' if at else title:12} {'  '.join(cells[at:at + 4])} us"
    keeper.tell(text)


def run(options: argparse.Namespace) -> int:
    file = (open_file(options.input, os.O_RDONLY, sys.stdin) if options.input else
            open_file(options.sink, os.O_WRONLY | os.O_CREAT, sys.stdout) if options.sink else ())
    if options.json or not options.quiet and options.sink != "-":
        put("", sys.stdout)  # if it is closed, better now than at the end
    kind = SAMPLE if not options.input and options.size >= ctypes.sizeof(Sample) else RAW
    segment = Segment(options.name, options.size, options.slots, kind, options.crc)
    keeper = Keeper(options, segment)
    up = keeper.up.reader() if options.echo or options.sink else ()
    failed = status = DONE
    command_first = False
    try:
        segment.go_live()
        if keeper.chatty:
            keeper.tell(f"host.py  created {options.name}  {segment.total / 1024:.1f} KiB  "
                        f"{options.slots} slots of {options.size} B")
        if options.command:
            keeper.child = start_command(options)
        (echo if options.echo else sink if options.sink else publish)(keeper, *up, *file)
    except Ended:
        pass
    except Failure as failure:
        keeper.say(str(failure))
        failed, command_first = failure.code, keeper.child_ended()
    finally:  # whatever happened: no segment without a host
        elapsed = max(clock() - keeper.begin, 1) * 1e-9
        segment.end()
        if keeper.child:
            status = end_command(keeper.child)
    try:
        if options.json or not options.quiet:
            report(keeper, elapsed, failed)
    except Failure as failure:
        if not failed and not status:
            keeper.say(str(failure))
            failed = failure.code
    # Who failed first, COMMAND or we: the rest came of it.
    return status if status and command_first else failed or status


# ---- command line ------------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # one line, not the usage over several
        raise Failure(USAGE, f"{message}; see host.py --help")

    def print_help(self, file=None):
        put(self.format_help(), sys.stdout)
        raise Ended


def number(kind: type, low: float, high: float) -> Callable[[str], float]:
    def parse(text: str) -> float:
        with suppress(ValueError):  # float would take "nan", "1_0" and " 5"
            if not text.strip("0123456789.e+-") and low <= kind(text) <= high:
                return kind(text)
        raise argparse.ArgumentTypeError(
            f"{text}: not a {'whole ' if kind is int else ''}number from {low} to {high}")
    return parse


def parse_options(arguments: List[str]) -> argparse.Namespace:
    parser = Parser(prog="host.py", usage="host.py [options] [-- COMMAND ARG...]",
                    description="Publishes into a shared memory segment, for cliente_c. With a "
                                "COMMAND, which is started once the segment is live, it ends, "
                                "and exits with its status.", allow_abbrev=False)
    for flag, metavar, kind, default, text in (
            ("--name", "NAME", str, "/shmprueba", "of the segment, slash or not (/shmprueba)"),
            ("--rate", "HZ", number(float, 0, 1e9), None, "messages a second; 0: no pause (1000)"),
            ("--size", "BYTES", number(int, 1, 1 << 30), 64, "of payload in a message (64)"),
            ("--slots", "N", number(int, 2, 65536), 1024, "a lane, power of two (1024)"),
            ("--count", "N", number(int, 0, 1 << 40), 0, "stop after N messages; 0: Ctrl-C (0)"),
            ("--input", "FILE", str, None, "publish FILE ('-': standard input), --size bytes a "
             "message; implies --rate 0, and then waits for cliente_c --lossless"),
            ("--sink", "FILE", str, None, "write what cliente_c --source sends to FILE ('-': "
             "standard output), and publish nothing"),
            ("--stall-timeout", "S", number(float, .001, 1e6), 1.0,
             "to wait for a client that stands still (1.0)")):
        parser.add_argument(flag, metavar=metavar, type=kind, default=default, help=text)
    for flag, text in (
            ("--echo", "ping-pong with one client, and end with it: check each echo, and time it"),
            ("--wait-client", "publish nothing until a client is attached"),
            ("--crc", "put a CRC-32 on every message"),
            ("--json", "one JSON object on standard output at the end, nothing else there"),
            ("--quiet", "say nothing but what went wrong")):
        parser.add_argument(flag, action="store_true", help=text)
    parser.add_argument("--wait", choices=["spin", "block"],
                        help="how --echo (spin) and --sink (block) wait")
    dashes = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:dashes])
    options.command = arguments[dashes + 1:]
    options.wait = options.wait or ("block" if options.sink else "spin")
    options.count = options.count or 1 << 62  # 0: until Ctrl-C
    if options.rate is None:
        options.rate = 0.0 if options.input else 1000.0
    for wrong, text in (
            (dashes < len(arguments) and not options.command, "--: COMMAND is missing"),
            (options.slots & options.slots - 1, f"--slots {options.slots}: not a power of two"),
            ("" in (options.input, options.sink), "--input, --sink: the name of FILE is empty"),
            (bool(options.input) + options.echo + bool(options.sink) > 1,
             "--input, --echo, --sink: only one of them"),
            (options.json and options.sink == "-", "--json: standard output is taken by --sink -"),
            (0 < options.rate < 1e-6, "--rate: one message in 11 days is the slowest"),
            (any("\ud800" <= letter <= "\udfff" for letter in options.name),
             f"segment name {options.name!r} is not UTF-8: SharedMemory takes no other")):
        if wrong:
            parser.error(text)
    try:
        options.name = normalise_name(options.name)
    except ValueError as error:
        parser.error(f"segment name {options.name!r} {error}")
    return options


def main(arguments: List[str]) -> int:
    if sys.stdout:  # a name that its encoding does not have is no reason to fail; stderr does so
        sys.stdout.reconfigure(errors="backslashreplace")
    options = None
    try:
        options = parse_options(arguments)
        if len(os.fsencode(options.name)) > 31 and sys.platform != "darwin" and not options.quiet:
            remark(f"{options.name}: this name is too long for macOS (31 bytes with the slash)")
        if MACHINE not in ("x86_64", "aarch64", "arm64"):
            remark(f"{options.name}: on {MACHINE} the memory order of this program is not proved: "
                   "--crc is on")
            options.crc = True
        if LINUX:
            libc.prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # or every sleep lasts 50 us longer
        return run(options)
    except Ended:
        return DONE
    except Failure as failure:
        remark(f"{options.name}: {failure}" if options else str(failure))
        return failure.code


if __name__ == "__main__":
    for _number, _stream in enumerate((sys.stdout, sys.stderr), 1):
        if not _stream:  # a closed one must not become the segment's, or a file's
            os.dup2(os.open(os.devnull, os.O_RDWR), _number)
    # Not sys.exit: the interpreter's end would give the signals back their default, and flush what
    # a broken stream has not taken: then its exit code is 120, whatever ours was.
    os._exit(main(sys.argv[1:]))
