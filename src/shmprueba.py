"""shmprueba.py - a shared memory segment between processes: one publishes, others read along.

One file, standard library only: copy it. The C half is include/ and src/*.c beside it.

    with Segment("/mine", size=64) as segment:        # the host: creates the segment, publishes
        segment.send(b"...")
    with Reader("/mine") as reader:                   # any process, any number of them
        for message in reader:
            data = bytes(message.payload)
            if reader.confirm(message): use(data)

Reads top to bottom: layout, schema, name, clock, kernel, roles, lane, Segment, Reader. Nothing here
prints, ends the process or changes it. Errors are of one class, Error; a value of the wrong type
or range may be Python's TypeError or ValueError. A Segment or Reader may be used by one thread at a
time.
"""
import atexit
import ctypes
import errno
import fcntl
import mmap
import operator
import os
import platform
import random
import re
import signal
import stat
import struct
import sys
import threading
import time
import zlib
from contextlib import AbstractContextManager, suppress
from functools import partial
from multiprocessing import resource_tracker, shared_memory
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Set, Tuple, Union

import _posixshmem  # what SharedMemory itself opens with; it has no public twin

if sys.maxsize < 1 << 32:
    raise ImportError("shmprueba needs a 64-bit Python: its 8-byte fields must be single stores")

LINUX, MACHINE = sys.platform.startswith("linux"), platform.machine()
MACHINE = {"i686": "x86_64", "armv8l": "aarch64"}.get(MACHINE, MACHINE)  # setarch(8) renames them
PROVED = MACHINE in ("x86_64", "aarch64", "arm64")  # for these make_fence is a fence: tests/model


class Error(Exception):
    """str() is one sentence: what was found, and what to do. kind is one of: usage, system, in_use,
    absent, silent, refused, gone, died, damaged; of the programs, dropped."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(kind, text)  # both: pickle makes the exception anew from them
        self.kind = kind

    def __str__(self) -> str:
        return self.args[1]


# ---- layout: the mirror of include/shm_layout.h ------------------------------------------------

MAGIC, VERSION, HEADER_SIZE, SLOT_HEAD, BLOCK = b"SHMPRUEB", 2, 4096, 32, 128
STATUS_AT, LANES_AT, FLAG_CRC = 4 * BLOCK, 5 * BLOCK, 1  # byte offsets
STARTING, LIVE, CLOSED = 0, 1, 2
SLOT_COUNTS = [1 << bit for bit in range(1, 17)]  # those that a lane may have
DOWN, UP = 0, 1
POSITION = (1 << 48) - 1  # mask of a place's position; the epoch is above it
CLAIMING = POSITION       # the position of a consumer that is just claiming
U32, U64 = ctypes.c_uint32, ctypes.c_uint64


class Header(ctypes.Structure):
    _fields_ = [("magic", ctypes.c_char * 8), ("version", U32), ("header_size", U32),
                ("total_size", U64), ("slot_count", U32), ("slot_stride", U32),
                ("payload_capacity", U32), ("flags", U32), ("session", U64), ("host_pid", U64),
                ("zero", U64), ("schema", ctypes.c_char * 448)]


class Status(ctypes.Structure):
    _fields_ = [("state", U32), ("cpu", U32), ("heartbeat_ns", U64), ("zeros", U64 * 14)]


class LaneBlock(ctypes.Structure):
    _fields_ = [("head", U64), ("dropped", U64), ("zeros", U64 * 14),
                ("place", U64), ("pid", U32), ("zero1", U32), ("zeros1", U64 * 14),
                ("wish", U64), ("attached", U32), ("zero2", U32), ("zeros2", U64 * 14)]


class Slot(ctypes.Structure):
    _fields_ = [("seq", U64), ("timestamp_ns", U64), ("due_ns", U64), ("length", U32),
                ("crc32", U32)]


# Indices into a view of the segment as 4-byte or 8-byte words.
STATE_INT, CPU_INT = STATUS_AT // 4, STATUS_AT // 4 + 1
BEAT_WORD = (STATUS_AT + Status.heartbeat_ns.offset) // 8
HEARTBEAT_NS, CHECK_MOST_NS = 50_000_000, 200_000_000  # between two beats; see Patience
STALLED_NS = 1_000_000_000


# ---- schema: what a payload is, in one canonical text ------------------------------------------

SCHEMA_MAX = Header.schema.size - 1  # bytes
FIELD = re.compile(r"(?:([A-Za-z_][A-Za-z0-9_]*):([2-9]|[1-9][0-9]+)?([bBhHiIqQfds?])"
                   r"|:([2-9]|[1-9][0-9]+)?x)")
LETTERS = dict(zip((ctypes.c_int8, ctypes.c_uint8, ctypes.c_int16, ctypes.c_uint16, ctypes.c_int32,
                    ctypes.c_uint32, ctypes.c_int64, ctypes.c_uint64, ctypes.c_float,
                    ctypes.c_double, ctypes.c_bool, ctypes.c_char), "bBhHiIqQfd?s"))


def schema_size(text: str) -> int:
    """Size of the fields in bytes. Error("usage"): the text is not a schema in canonical form."""
    size, names = 0, set()
    if len(text) > SCHEMA_MAX:
        raise Error("usage", f"schema of {len(text)} bytes: {SCHEMA_MAX} are the most")
    for field in text.split(" ") if text else ():
        match = FIELD.fullmatch(field)
        if not match:
            raise Error("usage", f"schema {text!r}: {field!r} is not name:type, type one of "
                        "b B h H i I q Q f d ? s with a count in front, or :Nx")
        name, count, kind, gap = match.groups()
        if name in names:
            raise Error("usage", f"schema {text!r}: {name} is there twice")
        names |= {name} - {None}
        size += int(count or gap or 1) * struct.calcsize("=" + (kind or "x"))
    return size


def schema_text(schema: Union[str, type]) -> str:
    """Checks a text and returns it; or makes one from a ctypes.Structure class, gaps as :Nx."""
    if isinstance(schema, str):
        schema_size(schema)
        return schema
    if not (isinstance(schema, type) and issubclass(schema, ctypes.Structure)):
        raise Error("usage", f"schema {schema!r}: give a text or a ctypes.Structure class")
    words, end = [], 0
    fields = [field for base in reversed(schema.__mro__)
              for field in vars(base).get("_fields_", ())]
    for name, kind, *bits in fields:
        item, count = getattr(kind, "_type_", ""), getattr(kind, "_length_", 0)
        letter = LETTERS.get(item if count else kind)
        if bits or not letter:
            raise Error("usage", f"schema {schema.__name__}: {name} is a bit field, nested, of the "
                        "other byte order, or of a type that struct does not have")
        at = getattr(schema, name).offset
        words += gap(at - end) + [f"{name}:{count if count > 1 else ''}{letter}"]
        end = at + ctypes.sizeof(kind)
    return schema_text(" ".join(words + gap(ctypes.sizeof(schema) - end)))


def gap(size: int) -> List[str]:
    return [f":{size if size > 1 else ''}x"] if size else []


# ---- name: the same rule as src/shm_name.c -----------------------------------------------------

def normalise_name(name: str, system: str = sys.platform) -> str:
    """The name with exactly one leading slash; Error("usage") says what is wrong with it."""
    if not isinstance(name, str):
        raise Error("usage", f"segment name {name!r} is not a string")
    bare = name[1:] if name.startswith("/") else name
    odd = re.search("[^ -~]|[/:]", bare)  # the error names the first one
    for wrong, why in (
            (not name, "is empty"), (not bare, "is only a slash"),
            (bare in (".", ".."), "is a folder, not a name"),
            (odd and odd.group() == "/", "has a slash inside"),
            (odd and odd.group() == ":", "has a colon"),
            (odd, "has a character other than printable ASCII"),
            (len(bare) > (30 if system == "darwin" else 255),  # PSHMNAMLEN less the slash; NAME_MAX
             "is too long (Linux: 255 bytes after the slash, macOS: 31 with it)")):
        if wrong:
            raise Error("usage", f"segment name {name!r} {why}")
    return "/" + bare


# ---- clock -------------------------------------------------------------------------------------

# clock() -> nanoseconds. The clock of include/shm_clock.h; only macOS has CLOCK_UPTIME_RAW.
clock = (partial(time.clock_gettime_ns, time.CLOCK_UPTIME_RAW)
         if hasattr(time, "CLOCK_UPTIME_RAW") else time.monotonic_ns)


class Patience:
    """How long this process has waited: the sum of the times between checks, each counted as at
    most most_ns. So time during which it was stopped does not count against the other side."""

    def __init__(self, most_ns: int = HEARTBEAT_NS) -> None:
        self.most, self.ns, self.checked = most_ns, 0, clock()

    def spent(self, now: int) -> int:
        self.ns += min(now - self.checked, self.most)
        self.checked = now
        return self.ns


# ---- kernel: calls that Python does not have ---------------------------------------------------

libc = ctypes.CDLL(None, use_errno=True)
FUTEX = {"x86_64": 202, "aarch64": 98, "riscv64": 98, "loongarch64": 98, "ppc64le": 221,
         "s390x": 238}.get(MACHINE if LINUX else "", 0)  # the call's number; 0: none
FUTEX_CALL, FUTEX_WAIT, FUTEX_WAKE = ctypes.c_long(FUTEX), ctypes.c_int(0), ctypes.c_int(1)
current_cpu = getattr(libc, "sched_getcpu", lambda: -1)


def futex(address: ctypes.c_void_p, operation: ctypes.c_int, value: int, ns: int = 0) -> int:
    """Returns 0, or errno. address: the low half of a head. ns: the longest sleep, below 1 s."""
    if not FUTEX:
        return errno.ENOSYS
    if operation is FUTEX_WAIT:  # with a struct timespec
        result = libc.syscall(FUTEX_CALL, address, operation, ctypes.c_uint32(value),
                              (ctypes.c_long * 2)(0, ns), None, 0)
    else:  # each argument takes time: with seven, a wake call takes 1.5 us longer
        result = libc.syscall(FUTEX_CALL, address, operation, value)
    return 0 if result >= 0 else ctypes.get_errno()


def make_fence() -> Callable[[], None]:
    """Returns a function that is a full fence, for one thread. Python has no fence, but to release
    and then acquire a private lock is one on x86-64 (two locked instructions) and on ARMv8
    (store-release, then load-acquire). The machines promise that, the language does not. With
    some libc of RISC-V it is no fence: tests/model/README.md."""
    lock = threading.Lock()
    release, acquire = lock.release, lock.acquire

    def fence() -> None:
        acquire(False)  # it is free the first time, and after an exception between the calls below
        release(); acquire(False)  # False: a signal handler may have called fence in between

    return fence


# x86-64 keeps all stores in order, and all loads; only a load may overtake an earlier store. So a
# fence that orders only stores, or only loads, needs no instruction there. CPython makes each
# access in a call of its own, so no compiler reorders them. The exception: glibc makes large copies
# (never below 16 KiB) with non-temporal stores, which keep no order at all.
WEAK, LARGE_COPY = MACHINE != "x86_64", 1 << 14


# ---- roles: the kernel says which process lives (include/shm_segment.h) -------------------------

HOST, CONSUMER, SENDER, RECEIVER = range(4)  # the byte that the holder of the role has locked
LOCK_FILE = not LINUX or "SHMPRUEBA_LOCK_FILE" in os.environ  # the form for macOS, tested on Linux
SET_LOCK, GET_LOCK = (fcntl.F_SETLK, fcntl.F_GETLK) if LOCK_FILE else (37, 36)  # F_OFD_...


def flock(kind: int, byte: int) -> bytes:
    """A struct flock."""
    if LINUX:
        return struct.pack("hh4xqqi4x", kind, os.SEEK_SET, byte, 1, 0)
    return struct.pack("qqihh", byte, 1, 0, kind, os.SEEK_SET)


def leads_to(path: str, fd: int) -> bool:
    """Does the path lead to the file that fd has open?"""
    with suppress(OSError):
        return os.path.samestat(os.fstat(fd), os.stat(path))
    return False


class Roles:
    """The roles that one Segment holds, or a Reader asks about: locks on an open file. That is the
    shared memory object; a Segment opens it once more, and never maps that, because a mapping in a
    forked child would keep a lock alive. Or it is the lock file, opened once per process: closing
    any descriptor frees all locks."""
    files: Dict[str, List] = {}  # by path: [descriptor, users, roles that this process holds]

    def __init__(self, fd: int, path: str = "", file: Optional[List] = None) -> None:
        self.fd, self.path, self.file, self.mine = fd, path, file, set()
        self.ours = file[2] if file else self.mine

    @classmethod
    def of_file(cls, name: str, uid: int, create: bool) -> "Roles":
        """The lock file form. FileNotFoundError: there is no host."""
        path, new = f"/tmp/shmprueba-{uid}-{name[1:]}.lock", False
        found = os.lstat(path) if os.path.lexists(path) else None
        if found and (not stat.S_ISREG(found.st_mode) or found.st_uid not in (uid, os.geteuid())):
            raise Error("refused", f"refused: {path} is another user's, or not a regular file; "
                        "remove it")
        if path not in cls.files or not leads_to(path, cls.files[path][0]):  # or a dead host's
            new = create and not os.path.lexists(path)
            flags = os.O_RDWR | os.O_NOFOLLOW | (os.O_CREAT | os.O_EXCL if new else 0)
            cls.files[path] = [os.open(path, flags, 0o600), 0, set()]
            if new:
                os.fchmod(cls.files[path][0], 0o600)  # whatever the umask
        file = cls.files[path]
        file[1] += 1
        roles = cls(file[0], path, file)
        roles.new = new
        return roles

    def take(self, role: int) -> bool:
        if role in self.ours:
            return False
        try:
            fcntl.fcntl(self.fd, SET_LOCK, flock(fcntl.F_WRLCK, role))
        except OSError as error:
            if error.errno in (errno.EAGAIN, errno.EACCES):
                return False
            raise Error("system", f"lock of a role: {error.strerror}")
        self.mine.add(role)
        self.ours.add(role)
        return True

    def held(self, role: int) -> bool:
        """Does any process hold it? The kernel reports our own lock as free, so check ours, too."""
        found = fcntl.fcntl(self.fd, GET_LOCK, flock(fcntl.F_WRLCK, role))
        kind, = struct.unpack_from("h", found, 0 if LINUX else 20)
        return role in self.ours or kind != fcntl.F_UNLCK

    def close(self) -> None:
        for role in self.mine:
            if role == HOST and leads_to(self.path, self.fd):
                os.unlink(self.path)
            fcntl.fcntl(self.fd, SET_LOCK, flock(fcntl.F_UNLCK, role))
        self.ours -= self.mine
        if self.file:
            self.file[1] -= 1
        if not self.file or not self.file[1]:
            os.close(self.fd)
            if self.files.get(self.path) is self.file:
                self.files.pop(self.path, None)


# ---- lane --------------------------------------------------------------------------------------

class Consumer(NamedTuple):
    """The holder of the down lane's place. position: how many messages it is done with; None: it is
    just claiming. pid: for error texts only."""
    epoch: int
    pid: int
    position: Optional[int]


class Message:
    """payload: a memoryview of the slot. Trust it only once release or confirm returned True."""
    __slots__ = ("n", "timestamp_ns", "due_ns", "length", "payload")  # __init__ would take long


class Lane:
    """Where a lane's fields are: head, dropped, place, wish are indices of 8-byte words; pid and
    attached are indices of 4-byte words. Store shared fields only through words and ints, which
    makes aligned stores: struct.pack_into clears the field first, and the other side would see the
    zeros (CPython issue 156866). The steps have the names of src/lane.c and tests/model."""

    def __init__(self, memory: memoryview, header: Header, index: int) -> None:
        at = LANES_AT + index * ctypes.sizeof(LaneBlock)  # bytes
        self.futex_at = at + 4 * (sys.byteorder == "big")  # bytes; a futex is the low half of head
        self.head, self.dropped, self.place, self.wish = (
            (at + getattr(LaneBlock, name).offset) // 8
            for name in ("head", "dropped", "place", "wish"))
        self.pid, self.attached = ((at + getattr(LaneBlock, name).offset) // 4
                                   for name in ("pid", "attached"))
        self.slots, self.stride = header.slot_count, header.slot_stride
        self.capacity, self.crc = header.payload_capacity, bool(header.flags & FLAG_CRC)
        self.first = HEADER_SIZE + index * self.slots * self.stride  # bytes
        # "L" has 8 bytes, too, but CPython converts "Q" twice as slowly.
        self.memory, self.words, self.ints = memory, memory.cast("L"), memory.cast("I")
        self.fence = make_fence()

    def slot(self, n: int) -> int:
        """The index of message n's seq, in 8-byte words."""
        return (self.first + n % self.slots * self.stride) // 8

    def message(self, n: int, slot: int) -> Optional[Message]:
        """Message n, after its seq was 2n; None: it is just being overwritten."""
        words, ints = self.words, self.ints
        length = ints[2 * slot + 6]
        if length > self.capacity:
            self.fence()
            if words[slot] == 2 * n:
                raise Error("damaged", f"message {n} has an impossible length, {length} bytes")
            return None
        message, at = Message(), 8 * slot + SLOT_HEAD
        message.n, message.timestamp_ns, message.due_ns = n, words[slot + 1], words[slot + 2]
        message.length, message.payload = length, self.memory[at:at + length]
        return message

    def is_whole(self, message: Message, slot: int) -> bool:
        """Was the payload whole until now? Call it after the payload was used."""
        good, at = True, 8 * slot + SLOT_HEAD
        if self.crc:  # message.payload may be released
            payload = self.memory[at:at + message.length]
            good = zlib.crc32(payload, message.n & 0xffffffff) == self.ints[2 * slot + 7]
        if WEAK:
            self.fence()                          # SYNC R4: pairs with F1; also for the place store
        return good and self.words[slot] == 2 * message.n  # SYNC seq again


def make_producer(segment: "Segment", lane: Lane) -> Tuple[Callable, Callable, Callable, Callable]:
    """(send, reserve, commit, warm) of Segment, as closures: a cell is loaded in half the time of
    an attribute. send and warm call the same functions, so warm runs the code of a send."""
    words, ints, memory, head, wish = lane.words, lane.ints, lane.memory, lane.head, lane.wish
    capacity, crc_on, crc32, now = lane.capacity, lane.crc, zlib.crc32, clock
    fence, lock, strong = lane.fence, threading.Lock(), not WEAK
    release, acquire = lock.release, lock.acquire  # each is a locked instruction: x86-64's fence
    weak = WEAK or capacity >= LARGE_COPY
    slots = [(at, at + 1, at + 2, 2 * at + 6, memory[8 * at + SLOT_HEAD:][:capacity])
             for at in map(lane.slot, range(lane.slots))]  # a table: faster than computing it
    futex_at = ctypes.c_void_p(segment.address + lane.futex_at)
    m = 1                 # the message to publish next
    room, view = -1, memory  # room: bytes that commit accepts; -1: nothing is reserved
    limit = woken = slot = stamp_at = due_at = length_at = 0
    mask, held = lane.slots - 1, False

    def reserve() -> memoryview:
        nonlocal limit, room, slot, stamp_at, due_at, length_at, view
        if room < 0:
            if m > limit:
                limit = segment._make_room(m)
            slot, stamp_at, due_at, length_at, view = slots[m & mask]
            words[slot] = 2 * m - 1               # SYNC seq = 2n-1
            if weak:
                fence()                           # SYNC F1: pairs with R4
            room = capacity
        try:
            len(view)
        except ValueError:                        # it was released, perhaps by `with reserve()`
            view = memory[8 * slot + SLOT_HEAD:][:capacity]
        return view

    def commit(length: int, due_ns: int = 0, publish: bool = True) -> None:
        nonlocal m, room, woken, held
        if not 0 <= length <= room:
            raise Error("usage", f"commit of {length} bytes: reserve() first, {capacity} at most")
        ints[length_at] = length
        if crc_on:
            at = 8 * slot + SLOT_HEAD             # not of view: it may be released
            ints[length_at + 1] = crc32(memory[at:at + length], m & 0xffffffff)
        n, even, following = m, 2 * m, m + 1      # first: few steps between the time stamp and head
        stamp = now()
        words[due_at] = due_ns or stamp
        if stamp < due_ns and publish:
            if due_ns - stamp > 20_000:           # else the call would take too long
                segment.wait_until(due_ns)
            while stamp < due_ns:
                stamp = now()
        words[stamp_at] = stamp
        if weak:
            fence()                               # SYNC F2: pairs with "seq load"
        if publish:                               # an exception may come between any two of these
            room = -1
            words[slot] = even                    # SYNC seq = 2n
            m = following
            words[head] = n                       # SYNC head = n: pairs with "head load"
        if not strong:                            # SYNC wake: pairs with "sleep" (src/lane.c)
            fence()
        elif held:                                # release and acquire take turns
            held = False; release()
        else:                                     # or locked, if an exception came between
            held = acquire(False) or release()
        if words[wish] > woken and publish:
            woken = n                             # not wish: that sleeper may not be queued yet
            futex(futex_at, FUTEX_WAKE, 0x7fffffff)
        if stamp > segment.next_care:
            segment.care()

    def send(data, due_ns: int = 0) -> None:
        if type(data) is not bytes:
            try:
                data = memoryview(data)
                data = data.cast("B") if data.nbytes else b""  # cast refuses a shape with zeros
            except (TypeError, ValueError) as error:
                raise Error("usage", f"send takes contiguous bytes-like data: {error}")
        length = len(data)
        if length > capacity:
            raise Error("usage", f"{length} bytes: this segment's messages have {capacity} at most")
        reserve()[:length] = data
        commit(length, due_ns)

    def warm() -> None:
        reserve()
        commit(0, 0, False)

    return send, reserve, commit, warm


def make_receiver(segment: "Segment", lane: Lane) -> Tuple[Callable, Callable]:
    """(receive, release) of Segment, for the one consumer of the up lane."""
    words, head, place, fence = lane.words, lane.head, lane.place, lane.fence
    polls = range(1024 if segment.wait == "spin" else 32)  # each takes 0.1 us or more
    slots, mask = [lane.slot(n) for n in range(lane.slots)], lane.slots - 1
    n, slot = 1, slots[1]
    current: Optional[Message] = None

    def receive(timeout: float = 1.0) -> Optional[Message]:
        nonlocal current
        patience, over = None, False
        while current is None:
            for _ in polls:
                if words[head] >= n:              # SYNC head load: pairs with "head = n"
                    if WEAK:
                        fence()                   # load seq and the payload after head
                    if words[slot] == 2 * n:      # SYNC seq load: pairs with F2
                        current = lane.message(n, slot)
                        return current  # not None: nobody overwrites a consumer's message
            if over:
                return None
            patience = patience or Patience()
            now = segment.care()
            away, left = now - patience.checked, timeout * 1e9 - patience.spent(now)
            over = not left > 0
            fence()                               # see each message sent before `over`
            if not over and segment.wait == "block":
                segment.missed_wakeups += lane_sleep(segment, lane, n, int(min(left, HEARTBEAT_NS)))
            elif not over and away > 2_000_000:
                time.sleep(50e-6)                 # displaced: others share this CPU
        return current

    def done(message: Message) -> bool:
        nonlocal n, slot, current
        if message is None or message is not current:
            raise Error("usage", "release takes the message that receive returned last")
        good = lane.is_whole(message, slot)
        words[place] = 1 << 48 | n                # SYNC place store: pairs with "place load"
        n, current = n + 1, None
        slot = slots[n & mask]
        if clock() > segment.next_care:           # receive calls it only while it waits
            segment.care()
        return good

    return receive, done


def lane_sleep(segment: "Segment", lane: Lane, n: int, ns: int) -> bool:
    """Sleeps until message n is published, ns at most; naps where there is no futex. True if it
    missed a wake-up."""
    words, end = lane.words, clock() + ns
    words[lane.wish] = n                          # one sleeper on this lane: a plain store will do
    lane.fence()                                  # SYNC sleep: pairs with "wake" (src/lane.c)
    value = words[lane.head]
    if value >= n:
        return False
    result = futex(ctypes.c_void_p(segment.address + lane.futex_at), FUTEX_WAIT, value, ns)
    if result == errno.ENOSYS:
        time.sleep(min(1e-3, ns * 1e-9))
    return (result == errno.ETIMEDOUT and words[lane.head] >= n
            and end - words[lane.slot(n) + 1] > 10_000_000)


# ---- Segment: the host -------------------------------------------------------------------------

IN_USE = "another host of this name is running ({}); end it, or choose another name"
UNTRACKED = {"track": False} if sys.version_info >= (3, 13) else {}


class Memory(shared_memory.SharedMemory):
    """unlink does nothing: a constructor that fails half-way would call it, and could remove an
    object of another host. close only drops our references: a view that a user still holds keeps
    the memory mapped, and raises no BufferError."""

    def unlink(self) -> None:
        pass

    def close(self) -> None:
        self._buf = self._mmap = None
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1


def open_object(name: str, flags: int) -> int:
    """Opens a shared memory object of this user or root. FileNotFoundError: there is none."""
    try:
        fd = _posixshmem.shm_open(name, flags | (os.O_NONBLOCK if LINUX else 0), mode=0o600)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            raise Error("refused", "refused: it belongs to another user; run both as one user")
        if error.errno in (errno.EISDIR, errno.EINVAL, errno.ELOOP, errno.ENXIO):
            raise Error("refused", "refused: a link, folder or socket has this name")
        raise
    found = os.fstat(fd)
    if stat.S_IFMT(found.st_mode) in (0, stat.S_IFREG) and found.st_uid in (os.geteuid(), 0):
        return fd  # macOS reports no type
    os.close(fd)
    raise Error("refused", "refused: another user's, or not a shared memory object; choose another "
                "name, or run both as one user")


def read_object(fd: int, at: int, size: int) -> bytes:
    """Bytes of a shared memory object. pread is better than a map: a load from a mapped page that a
    full /dev/shm could not provide raises SIGBUS."""
    if not LOCK_FILE:
        return os.pread(fd, size, at)
    end = min(os.fstat(fd).st_size, at + size)
    if not end:
        return b""
    with mmap.mmap(fd, end, mmap.MAP_SHARED, mmap.PROT_READ) as view:  # macOS cannot read it
        return view[at:end]


def read_header(fd: int) -> Tuple[int, bytes]:
    """(state, header), with zeros after the object's end."""
    # The state first: a host may go LIVE in between.
    state = int.from_bytes(read_object(fd, STATUS_AT, 4), sys.byteorder)
    return state, read_object(fd, 0, STATUS_AT).ljust(STATUS_AT, b"\0")


def is_blank(fd: int) -> bool:
    """Does it hold only zeros? A host that dies before it writes the header leaves it so. Where a
    system cannot skip holes (macOS), only the first bytes count: to read a hole would fill it."""
    at, piece = 0, read_object(fd, 0, HEADER_SIZE)
    while piece == bytes(len(piece)):
        at += len(piece)
        try:
            at = os.lseek(fd, at, os.SEEK_DATA)
        except OSError:  # ENXIO: no data from here on
            return True
        piece = read_object(fd, at, 1 << 20)
    return False


def is_named(name: str, fd: int) -> bool:
    """Does the name still lead to the object that fd has open?"""
    if not LOCK_FILE:
        return leads_to("/dev/shm" + name, fd)
    try:
        other = open_object(name, os.O_RDONLY)
        try:  # macOS reports no device and no inode: compare the sessions
            return read_header(fd)[1][40:48] == read_header(other)[1][40:48]
        finally:
            os.close(other)
    except (OSError, Error):
        return False


class Segment(AbstractContextManager):
    """Creates a segment, and publishes into it. A context manager.

    name: with or without the leading slash. size: bytes of a payload, at most. slots: messages a
    lane holds, a power of two; None: the largest with slots x size <= 8 MiB, 4 to 1024. schema: a
    text or a ctypes.Structure class. crc: put a CRC-32 on every message. receive: also receive on
    the up lane. stall_timeout: seconds to wait for a consumer that does not move. wait: how
    receive waits, "spin" or "block". idle: called at each check of every wait; its exceptions end
    the wait. Errors: usage, in_use, refused, system; later gone, damaged.

    send(data, due_ns=0): copies any bytes-like data into the next slot, sleeps until due_ns, a time
    of clock(), and publishes it. reserve(): the next slot's payload, a
    memoryview; the same one until commit. commit(length, due_ns=0): publishes it like send; do not
    send in between. warm(): runs the code of a send without its effect, for a loop that polls for
    data. receive(timeout=1.0): the next Message of the up lane, the same one until release; None
    after timeout. release(message): frees it; True if it was whole."""

    def __init__(self, name: str = "/shmprueba", size: int = 64, slots: Optional[int] = None,
                 schema: Union[str, type] = "", crc: bool = False, receive: bool = False,
                 stall_timeout: float = 1.0, wait: str = "block",
                 idle: Optional[Callable[[], object]] = None) -> None:
        try:
            size, slots = operator.index(size), None if slots is None else operator.index(slots)
            timeout_ns = stall_timeout * 1e9
        except TypeError:
            raise Error("usage", f"size {size!r}, slots {slots!r}, stall_timeout {stall_timeout!r}:"
                        " give two whole numbers, and seconds")
        text = schema_text(schema)
        if slots is None:
            slots = max(4, min(1024, 1 << ((8 << 20) // max(size, 1) | 1).bit_length() - 1))
        for wrong, why in (
                (not 1 <= size <= 1 << 30, f"size {size}: 1 to {1 << 30} bytes"),
                (slots not in SLOT_COUNTS, f"slots {slots}: a power of two from 2 to 65536"),
                (schema_size(text) > size,
                 f"size {size}: the schema has {schema_size(text)} bytes"),
                (not timeout_ns > 0, f"stall_timeout {stall_timeout}: more than 0 seconds"),
                (wait not in ("spin", "block"), f"wait {wait!r}: spin or block"),
                (idle is not None and not callable(idle), f"idle {idle!r}: a function")):
            if wrong:
                raise Error("usage", why)
        self.name, self.capacity, self.slot_count = normalise_name(name), size, slots
        self.crc = crc or not PROVED  # the CRC then finds stores that came out of order
        self.wait, self.idle, self._stall_ns = wait, idle, timeout_ns
        stride = -(-(SLOT_HEAD + size) // BLOCK) * BLOCK
        self.total, self.session = HEADER_SIZE + 2 * slots * stride, 1 + random.getrandbits(63)
        self.replaced = self.why_dropped = ""
        self.stalls = self.dropped = self.missed_wakeups = 0
        self.next_care = self._next_name = 0  # times
        self._lateness = 60_000
        self._create(Header(
            version=VERSION, header_size=HEADER_SIZE, total_size=self.total, slot_count=slots,
            slot_stride=stride, payload_capacity=size, flags=FLAG_CRC if self.crc else 0,
            session=self.session, host_pid=os.getpid(), schema=text.encode()), receive)

    def receive(self, timeout: float = 1.0) -> Optional[Message]:
        raise Error("usage", "make it Segment(..., receive=True) to receive")

    def release(self, message: Message) -> bool:
        raise Error("usage", "make it Segment(..., receive=True) to receive")

    # -- begin and end

    def _create(self, header: Header, receive: bool) -> None:
        # The resource tracker starts here, and changes our mask. It must inherit SIGHUP blocked: a
        # terminal that hangs up would end it before us, and our next write to it would fail.
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGHUP])
        self._roles: Optional[Roles] = None  # later None: closed, or in a forked child
        self._shm = Memory.__new__(Memory)
        try:
            for _ in range(10):
                if self._try_to_create():
                    break
                self._give_up()
                time.sleep(random.uniform(.001, .02))
            else:
                raise Error("in_use", IN_USE.format("it begins at the same moment"))
            if LINUX:  # SharedMemory only sets the size: a full /dev/shm would raise SIGBUS later
                os.posix_fallocate(self._shm._fd, 0, self.total)
            self._go_live(header, receive)
        except BaseException as error:
            self._remove()
            if not isinstance(error, OSError):
                raise
            where = "/dev/shm" if LINUX else "shared memory"
            why = f"cannot create {self.total} bytes in {where}: {error.strerror}"
            if error.errno == errno.ENOSPC:
                room = os.statvfs("/dev/shm")
                why += (f": /dev/shm is too small, {room.f_bavail * room.f_frsize} bytes free; use "
                        "fewer slots or a smaller size (in a container: --shm-size)")
            raise Error("system", why)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def _try_to_create(self) -> bool:
        """Returns False to start over: another host has begun, or is just checking our object."""
        shm = self._shm
        if LOCK_FILE:
            try:
                self._roles = Roles.of_file(self.name, os.geteuid(), True)
            except (FileExistsError, FileNotFoundError):
                return False  # another host has just made, or removed it
            if not self._roles.take(HOST):
                raise Error("in_use", IN_USE.format("it holds " + self._roles.path))
            if not leads_to(self._roles.path, self._roles.fd):
                return False  # another host removed it before we locked it
        self._replace_stale()
        if LOCK_FILE and not self._roles.new:
            return False  # a dead host's: its clients must not take us for it
        with suppress(FileExistsError):
            shm.__init__(self.name[1:], True, self.total, **UNTRACKED)
            if not UNTRACKED:  # at its end the tracker would unlink a successor's name
                resource_tracker.unregister(shm._name, "shared_memory")
            with suppress(OSError):  # we open it again, whatever the umask; macOS cannot do this
                os.fchmod(shm._fd, 0o600)
            if LOCK_FILE:
                return True
            with suppress(FileNotFoundError):  # opened once more, never mapped
                self._roles = Roles(open_object(self.name, os.O_RDWR))
                return (os.path.samestat(os.fstat(self._roles.fd), os.fstat(shm._fd))
                        and self._roles.take(HOST) and is_named(self.name, shm._fd))
        return False

    def _replace_stale(self) -> None:
        """Removes the segment of a dead host. Error: its host lives, or it is no host's segment."""
        try:
            roles = Roles(open_object(self.name, os.O_RDWR))
        except FileNotFoundError:
            return
        try:
            alone = LOCK_FILE or roles.take(HOST)  # else its host may be writing the header
            header = Header.from_buffer_copy(read_header(roles.fd)[1])
            pid, ours = header.host_pid, header.magic == MAGIC and header.version in (0, VERSION)
            if not alone:
                raise Error("in_use", IN_USE.format(f"pid {pid or 'unknown yet'}"))
            if not ours and not is_blank(roles.fd):
                raise Error("refused", "refused: not made by a host of this version; remove it, or "
                            "choose another name")
            if is_named(self.name, roles.fd):
                who = f", pid {pid}, died" if pid else " died while it started"
                self.replaced = f"replaced a stale segment (its host{who})"
                with suppress(FileNotFoundError):
                    _posixshmem.shm_unlink(self.name)
        finally:
            roles.close()

    def _go_live(self, header: Header, receive: bool) -> None:
        memory = memoryview(self._shm.buf)
        self.address = ctypes.addressof(ctypes.c_char.from_buffer(memory))
        self._down, self._up = (Lane(memory, header, index) for index in (DOWN, UP))
        self._words, self._ints = self._down.words, self._down.ints
        self._words[0] = int.from_bytes(MAGIC, sys.byteorder)  # one store: whole, or not there
        memory[8:STATUS_AT] = bytes(header)[8:]
        self.send, self.reserve, self.commit, self.warm = make_producer(self, self._down)
        if receive:
            self.receive, self.release = make_receiver(self, self._up)
            self._roles.take(RECEIVER)
            self._ints[self._up.pid] = os.getpid()
            self._words[self._up.place] = 1 << 48  # epoch 1
        segments.add(self)
        self._beat(clock())
        self._down.fence()  # make the header visible before LIVE
        self._ints[STATE_INT] = LIVE

    def _remove(self) -> None:
        """Unlinks the object if it is ours and still has the name; unlocks only after that."""
        fd = self._shm._fd
        roles = self._roles or Roles(fd)  # no new descriptor: there may be none left
        if fd >= 0 and (HOST in roles.mine or roles.take(HOST)) and is_named(self.name, fd):
            with suppress(FileNotFoundError):
                _posixshmem.shm_unlink(self.name)
        self._give_up()

    def _give_up(self) -> None:
        self._shm.close()
        if self._roles:
            self._roles.close()
        self._roles = None

    def close(self) -> None:
        """Stores CLOSED, unlinks, unlocks. Attached readers can read the rest, and views that are
        still held stay valid. In a forked child it leaves alone all that is the parent's."""
        if self._roles:
            self._down.fence()  # make the last head visible before CLOSED
            self._ints[STATE_INT] = CLOSED
            futex(ctypes.c_void_p(self.address + self._down.futex_at), FUTEX_WAKE, 0x7fffffff)
            self._remove()
        self._end_verbs()
        self._shm.close()
        segments.discard(self)
        # Keep what a summary shows, and no longer the map.
        header = memoryview(bytearray(self._down.memory[:HEADER_SIZE]))
        layout = Header.from_buffer(header)
        self._down, self._up = (Lane(header, layout, index) for index in (DOWN, UP))
        self._words, self._ints = self._down.words, self._down.ints

    def __exit__(self, *_exception) -> None:
        self.close()

    # -- what a live line shows

    @property
    def published(self) -> int:
        return self._words[self._down.head]

    @property
    def attached(self) -> int:
        """How many C clients have ever attached to the down lane; a Reader is not counted."""
        return self._ints[self._down.attached]

    @property
    def consumer(self) -> Optional[Consumer]:
        """The consumer of the down lane; None: nobody holds the place, or it was dropped."""
        place = self._words[self._down.place]     # SYNC place load: pairs with "place store"
        epoch, at = place >> 48, place & POSITION
        if not epoch & 1 or epoch == self._words[self._down.dropped]:
            return None
        return Consumer(epoch, self._ints[self._down.pid], None if at == CLAIMING else at)

    @property
    def taken(self) -> int:
        """The last message that the latest consumer is done with, even if it left or died."""
        at = self._words[self._down.place] & POSITION
        return 0 if at == CLAIMING else at

    @property
    def sending(self) -> bool:
        """Is there a living sender on the up lane?"""
        return bool(self._roles) and self._roles.held(SENDER)

    # -- care for the segment

    def _beat(self, now: int) -> None:
        self._words[BEAT_WORD] = now
        self._ints[CPU_INT] = current_cpu() + 1

    def care(self) -> int:
        """Beats, drops a dead consumer, checks the name. Call it at least every 100 ms while
        nothing is sent or received. Returns the time. Error("gone"): no client finds this host."""
        now = clock()
        if now >= self.next_care:
            self.next_care = now + HEARTBEAT_NS
            self._beat(now)
            consumer = self.consumer
            if consumer and not self._roles.held(CONSUMER):
                self.drop("died", consumer)
            if now >= self._next_name:
                self._next_name = now + 1_000_000_000
                if not is_named(self.name, self._shm._fd) or (
                        LOCK_FILE and not leads_to(self._roles.path, self._roles.fd)):
                    raise Error("gone", "its name is gone, new clients find no host: rm, a logout "
                                "with systemd's RemoveIPC, or a Python before 3.13 that attached "
                                "with SharedMemory and ended; start it again")
        if self.idle:
            self.idle()
        return now

    def drop(self, why: str, consumer: Consumer) -> None:
        """Drops this consumer, if it still is the down lane's: the host waits for it no longer. The
        consumer sees that before it counts another message (src/lane.c)."""
        now = self.consumer  # it may have left, or been dropped, meanwhile
        if not self._roles or not now or now.epoch != consumer.epoch:
            return
        self._words[self._down.dropped] = consumer.epoch
        self._down.fence()  # SYNC dropped: pairs with R4; before its messages are overwritten
        self.dropped += 1
        self.why_dropped = f"client pid {consumer.pid} {why}: dropped"

    def drain(self) -> None:
        """Waits until the consumer, if there is one, has taken all that is published."""
        stalls = self.stalls
        self._make_room(self.published + self.slot_count)
        self.stalls = stalls

    def _make_room(self, n: int) -> int:
        """Waits until message n may overwrite message n - slots. Returns the last message that
        needs no new check."""
        seen, checks, patience = None, 0, Patience()
        while True:
            self._down.fence()  # SYNC room: pairs with "claim"
            consumer = self.consumer
            if not consumer:
                return n + self.slot_count - 1  # a later claim begins with message n or later
            at = consumer.position  # n or more is impossible: treat it as claiming
            if at is not None and n - self.slot_count <= at < n:
                return at + self.slot_count
            patience.spent(self.care())
            if (consumer.epoch, at) != seen:
                seen, patience.ns = (consumer.epoch, at), 0
            elif patience.ns > self._stall_ns:
                self.drop(f"had not moved for {self._stall_ns / 1e9:g} s", consumer)
            self.stalls += not checks
            checks += 1
            if checks > 100:
                time.sleep(50e-6)

    def wait_until(self, moment_ns: int) -> None:
        """Sleeps until shortly before this moment, and calls care meanwhile. It learns how late
        sleeps end here, and leaves so much time that only 3 sleeps in 100 end later (as in
        src/waiter.c)."""
        now = self.care()
        while moment_ns - self._lateness > now:
            ahead = min(moment_ns - self._lateness - now, HEARTBEAT_NS)
            time.sleep(ahead * 1e-9)
            late = clock() - now - ahead > self._lateness
            self._lateness += self._lateness // 8 if late else -self._lateness // 256
            self._lateness = max(20_000, min(400_000, self._lateness))
            now = self.care()

    def _forget(self) -> None:
        """In a forked child: the roles are the parent's. Closing leaves its locks alone."""
        if self._roles and not LOCK_FILE:
            os.close(self._roles.fd)
        self._roles = None
        self._end_verbs()

    def _end_verbs(self) -> None:
        self.send = self.reserve = self.commit = self.warm = closed
        self.receive = self.release = self.care = closed


def closed(*_arguments, **_named) -> None:
    raise Error("usage", "this segment is closed, or it is the parent process's")


segments: Set[Segment] = set()  # all that are open


@atexit.register
def close_all() -> None:
    """Leaves no segment behind, where a script ends without close."""
    for segment in list(segments):
        with suppress(Error, OSError):
            segment.close()


def forget_all() -> None:
    for segment in segments:
        segment._forget()
    for _, _, ours in Roles.files.values():
        ours.clear()


os.register_at_fork(after_in_child=forget_all)


# ---- Reader: any process, any number of them ---------------------------------------------------

class Reader(AbstractContextManager):
    """Reads a lane of a running segment; nobody waits for it, and it writes nothing. A context
    manager, and an iterable of messages that ends when the host closes.

    timeout: seconds to wait for a host, and for each message when iterating; float("inf"): for
    ever. schema: refuse a segment with another one. newest: pass over all but the newest message.
    lost: how many messages were overwritten before they were read; skipped: how many were passed
    over; closed: the host has closed, and receive returns None once all is read. Errors: usage,
    absent, refused, system; died, damaged; silent when iterating."""
    _roles: Optional[Roles] = None  # None: closed

    def __init__(self, name: str = "/shmprueba", timeout: float = 5.0,
                 schema: Union[str, type, None] = None, newest: bool = False,
                 lane: int = DOWN) -> None:
        self.name, self.timeout, self.newest = normalise_name(name), timeout, newest
        self._wanted = None if schema is None else schema_text(schema)
        self.lost, self.skipped, self.closed = 0, 0, False
        if lane not in (DOWN, UP):
            raise Error("usage", f"lane {lane!r}: DOWN or UP")
        patience = Patience(CHECK_MOST_NS)
        while True:
            try:
                why = self._attach(lane)
            except FileNotFoundError:
                why = Error("absent", "no host: there is no such segment; start it first (in a "
                            "container: --ipc=host)")
            except BaseException as error:
                self.close()
                if isinstance(error, OSError):
                    raise Error("system", f"cannot attach: {error.strerror}")
                raise
            if not why:
                break
            self.close()
            if not patience.spent(clock()) < timeout * 1e9:
                raise why
            time.sleep(.004)
        self._n = self._lane.words[self._lane.head] + 1  # the message to read next

    def _attach(self, index: int) -> Optional[Error]:
        """Makes one try. Returns None, or why there is no host yet."""
        fd = open_object(self.name, os.O_RDONLY)
        self._roles = Roles(fd)
        if LOCK_FILE:  # open the object after its lock file, or a successor could come in between
            uid = os.fstat(fd).st_uid
            self.close()
            self._roles = Roles.of_file(self.name, uid, False)
            fd = open_object(self.name, os.O_RDONLY)
        try:
            return self._map(fd, index)
        finally:
            if LOCK_FILE:
                os.close(fd)  # the map has its own

    def _map(self, fd: int, index: int) -> Optional[Error]:
        state, head = read_header(fd)
        h, size, starting = Header.from_buffer_copy(head), os.fstat(fd).st_size, state == STARTING
        schema, sound = h.schema.decode("latin-1"), starting
        with suppress(Error):
            sound |= (state <= CLOSED and h.header_size == HEADER_SIZE
                      and h.slot_count in SLOT_COUNTS and not h.slot_stride % BLOCK
                      and 1 <= h.payload_capacity <= h.slot_stride - SLOT_HEAD
                      and schema_size(schema) <= h.payload_capacity
                      and h.total_size == HEADER_SIZE + 2 * h.slot_count * h.slot_stride <= size
                      and not h.flags & ~FLAG_CRC and h.session > 0 and not h.zero
                      and 0 < h.host_pid < 1 << 31)
        for good, why in (
                (head[:8] == MAGIC or starting and not any(head[:8]),
                 "not made by shmprueba; choose another name"),
                (h.version == VERSION or starting and not h.version,
                 f"version {h.version}, this reads {VERSION}"),
                (sound and not 0 < size < HEADER_SIZE, "impossible values; restart its host"),
                (starting or self._wanted in (None, schema), f"its schema is {schema!r}, this was "
                 f"written for {self._wanted!r}")):
            if not good:
                raise Error("refused", "refused: " + why)
        if starting:
            return Error("absent", "its host has not finished starting")
        memory = memoryview(mmap.mmap(fd, h.total_size, mmap.MAP_SHARED, mmap.PROT_READ))
        self._lane = Lane(memory, h, index)
        self.schema, self.session = schema, h.session
        held = self._roles.held(HOST)  # first: the host may close, and leave, after it
        if self._lane.ints[STATE_INT] == CLOSED:
            return Error("absent", "its host has ended; start it again")
        return None if held else Error("died", "its host died and left it; start it again")

    def receive(self, timeout: float = 1.0) -> Optional[Message]:
        """The next message, in its slot; None after timeout, or once the host has closed and all
        was read (self.closed). Naps: to raise wish it would need an atomic maximum."""
        self._check_open()
        lane, words, fence = self._lane, self._lane.words, self._lane.fence
        patience, ended, over = None, False, False
        while True:
            for _ in range(32):
                head = words[lane.head]           # SYNC head load: pairs with "head = n"
                if head < self._n:
                    continue
                if WEAK:
                    fence()                       # load seq and the payload after head
                if self.newest:
                    self.skipped += head - self._n
                    self._n = head
                slot = lane.slot(self._n)
                seq = words[slot]                 # SYNC seq load: pairs with F2
                message = lane.message(self._n, slot) if seq == 2 * self._n else None
                if message:
                    self._n += 1
                    return message
                if seq > 2 * self._n and head < CLAIMING:  # lapped: on to half a ring before head
                    begin = max(self._n + 1, head - lane.slots // 2 + 1)
                    self.lost += begin - self._n
                    self._n = begin
            if not self._n - 1 <= head < CLAIMING:
                raise Error("damaged", f"no host moves head to {head} after message {self._n - 1}")
            if ended and not self.closed:
                raise Error("died", "its host died; start it again")
            if over:
                return None
            patience = patience or Patience(CHECK_MOST_NS)
            held = self._roles.held(HOST)         # first: the host may close, and leave, after it
            self.closed = lane.ints[STATE_INT] == CLOSED
            ended = self.closed or not held
            over = ended or not patience.spent(clock()) < timeout * 1e9
            fence()                               # see each message published before `over`
            if not over:
                time.sleep(min(max(50e-6, patience.ns * .0625e-9), 1e-3))

    def confirm(self, message: Message) -> bool:
        """Was it whole until now? If not, it counts as lost: call it once for each message."""
        self._check_open()
        good = self._lane.is_whole(message, self._lane.slot(message.n))
        self.lost += not good
        return good

    def __iter__(self) -> Iterator[Message]:
        while True:
            message = self.receive(self.timeout)
            if message:
                yield message
            elif self.closed:
                return
            elif clock() - self._lane.words[BEAT_WORD] >= STALLED_NS:
                raise Error("silent", "its host is stalled; continue or restart it")
            else:
                raise Error("silent", f"its host lives, but sent nothing for {self.timeout:g} s")

    def _check_open(self) -> None:
        if not self._roles:
            raise Error("usage", "this reader is closed")

    def close(self) -> None:
        if self._roles:
            self._roles.close()
        self._roles = self._lane = None

    def __exit__(self, *_exception) -> None:
        self.close()

    def __del__(self) -> None:
        if not LOCK_FILE:  # else it could change the table of files in the middle of of_file
            self.close()
