"""The Python end of every transport: one message out, one message back, nothing left behind.

A message is SIZE bytes: u64 stamp (the clock before the send; 0: stop), u64 n, anything, u64 n.
Each transport has send(stamp, n) and receive() as closures, built alike, and hands the reader its
end as descriptors, so that there is no name that could stay behind. What the kernel offers gets its
best: the fastest of the calls that Python has for it, and the largest buffers that a user may have.
"""
import contextlib
import ctypes
import fcntl
import io
import os
import random
import socket
import struct
import sys
import threading
import time
from math import ceil
from typing import Callable, Dict, List, Optional, Tuple, Type

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, os.path.join(ROOT, "src"))
import shmprueba  # noqa: E402  the product itself, not a copy of it

try:
    import zmq  # python3-zmq; never required
except ImportError:
    zmq = None

now = shmprueba.clock
AHEAD_NS = 150_000  # a sleep that must end in time begins to end so much earlier
F_SETPIPE_SZ = 1031  # fcntl has the name from Python 3.10 on
LONGEST_S = 30  # a wait; the driver's watchdog is as patient
INT, SIZE, SSIZE, ADDRESS = ctypes.c_int, ctypes.c_size_t, ctypes.c_ssize_t, ctypes.c_void_p


class Broken(Exception):
    """A transport did not do what it must: the run ends."""


def foreign(name: str, result: Type, *arguments: Type) -> Callable:
    """A libc function of one's own. mq_* stand in librt before glibc 2.34."""
    for library in (None, "librt.so.1"):
        try:
            function = getattr(ctypes.CDLL(library, use_errno=True), name)
        except (AttributeError, OSError):
            continue
        function.restype, function.argtypes = result, arguments
        return function
    raise OSError(f"no {name} on this system")


def spread(values: List[int]) -> Dict[str, int]:
    ordered = sorted(values)
    ranks = {"min": 0, "p50": .5, "p90": .9, "p99": .99, "p99_9": .999, "max": 1}
    figures = {name: ordered[max(ceil(f * len(ordered)) - 1, 0)] for name, f in ranks.items()}
    return {"count": len(ordered), **figures}


def short(value: Optional[float], scale: float = 1, enough: bool = True) -> str:
    if value is None or not enough:
        return "-"
    value *= scale
    return f"{value:,.{0 if value >= 99.95 else 1 if value >= 9.995 else 2}f}"


class Transport:
    name = kind = ""

    def __init__(self, size: int, read: str) -> None:
        """read: how both sides wait: spin or block; adaptive: shared memory alone."""
        self.size, self.read, self.warm_up = size, read, 256 if size < 65536 else 32
        self.spin = read == "spin"
        self.outbox, self.inbox = bytearray(size), bytearray(size)
        self.mine: List = []          # closed at the end
        self.readers: List[int] = []  # the reader's descriptors: in, out; closed once it has them
        try:
            self.open()
        except BaseException:
            self.close()
            raise

    def open(self) -> None:
        raise NotImplementedError

    def place(self) -> List[str]:
        return [str(fd) for fd in self.readers]

    def started(self) -> None:
        while self.readers:
            os.close(self.readers.pop())

    def close(self) -> None:
        self.started()
        while self.mine:
            end = self.mine.pop()
            os.close(end) if isinstance(end, int) else end.close()

    def build(self, put: Callable, to: Tuple, sent: int, get: Callable, *more: int) -> None:
        """send: put(*to) must return `sent`. receive: get(buffer, *more) returns bytes; None or
        BlockingIOError: nothing yet."""
        size, words, last = self.size, memoryview(self.outbox).cast("Q"), self.size // 8 - 1
        inbox = memoryview(self.inbox)

        def send(stamp: int, n: int) -> None:
            words[0] = stamp
            words[1] = words[last] = n
            if put(*to) != sent:
                raise Broken("a message was not sent whole")

        def receive() -> None:
            have = 0
            while have < size:
                try:
                    got = get(inbox[have:] if have else inbox, *more)
                except BlockingIOError:
                    continue
                if got == 0:
                    raise Broken("the reader is gone")
                have += got or 0

        self.send, self.receive = send, receive


class Pipe(Transport):
    name, kind = "pipe", "file"

    def open(self) -> None:
        down, up = os.pipe(), os.pipe()
        self.mine, self.readers = [down[1], up[0]], [down[0], up[1]]
        if self.spin:
            os.set_blocking(up[0], False)
        if self.size >= 65536 and sys.platform.startswith("linux"):
            for fd in self.mine:
                fcntl.fcntl(fd, F_SETPIPE_SZ, 1 << 20)  # fs.pipe-max-size, as it comes
        self.build(os.write, (down[1], self.outbox), self.size,
                   io.FileIO(up[0], closefd=False).readinto)


class Socket(Transport):
    kind = "socket"
    family, type = socket.AF_UNIX, socket.SOCK_STREAM

    def pair(self) -> Tuple[socket.socket, socket.socket]:
        return socket.socketpair(self.family, self.type)

    def open(self) -> None:
        mine, readers = self.pair()
        self.mine = [mine]
        self.readers = [readers.detach()]
        self.readers.append(os.dup(self.readers[0]))
        mine.setblocking(True)
        self.build(mine.send, (self.outbox,), self.size, mine.recv_into, 0,
                   socket.MSG_DONTWAIT if self.spin else 0)


class Stream(Socket):
    name = "unix stream"

    def pair(self) -> Tuple[socket.socket, socket.socket]:
        ends = super().pair()
        if self.size >= 65536:
            for end in ends:  # Linux gives as much of it as a user may have, macOS all or nothing
                with contextlib.suppress(OSError):
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2 * self.size)
        return ends


class SeqPacket(Stream):
    name, type = "unix seqpacket", socket.SOCK_SEQPACKET

    def pair(self) -> Tuple[socket.socket, socket.socket]:
        ends = super().pair()
        if ends[0].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF) < self.size + 4096:
            for end in ends:
                end.close()
            raise OSError("larger than a packet may be (net.core.wmem_max)")
        return ends


class Tcp(Socket):
    name, family = "tcp loopback", socket.AF_INET

    def pair(self) -> Tuple[socket.socket, socket.socket]:
        with socket.socket(self.family, self.type) as listener:
            listener.bind(("127.0.0.1", 0))
            listener.listen(1)
            mine = socket.create_connection(listener.getsockname())
            theirs = listener.accept()[0]
        for end in (mine, theirs):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return mine, theirs


class QueueAttributes(ctypes.Structure):
    _fields_ = [("flags", ctypes.c_long), ("maxmsg", ctypes.c_long), ("msgsize", ctypes.c_long),
                ("curmsgs", ctypes.c_long), ("reserved", ctypes.c_long * 4)]


class Queue(Transport):
    """mq_open(3) on Linux, where a queue is a descriptor: its name is gone before it is used."""
    name, kind = "posix mq", "queue"

    def queue(self, nonblocking: int) -> Tuple[int, int]:
        """(writing end, reading end) of a queue as deep as an unprivileged user may have it."""
        mq_open, mq_unlink = foreign("mq_open", INT), foreign("mq_unlink", INT, ctypes.c_char_p)
        mq_open.argtypes = None  # variadic
        name = b"/shmbench-%d" % os.getpid()
        attributes = QueueAttributes(maxmsg=10, msgsize=self.size)
        ends = []
        try:
            for flags in (os.O_WRONLY | os.O_CREAT | os.O_EXCL, os.O_RDONLY | nonblocking):
                ends.append(mq_open(name, flags, 0o600, ctypes.byref(attributes)))
                if ends[-1] < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno())
                                  + " (fs.mqueue.msgsize_max, ulimit -q)")
        finally:
            if ends[0] >= 0:
                mq_unlink(name)
        return ends[0], ends[1]

    def open(self) -> None:
        if not sys.platform.startswith("linux"):
            raise OSError("no message queue that is a descriptor")
        with open("/proc/sys/fs/mqueue/msgsize_max") as most:  # root could; a user cannot
            if self.size > int(most.read()):
                raise OSError("larger than a message may be (fs.mqueue.msgsize_max)")
        flags = os.O_NONBLOCK if self.spin else 0
        down = self.queue(flags)
        self.mine, self.readers = [down[0]], [down[1]]
        up = self.queue(flags)
        self.mine.append(up[1])
        self.readers.append(up[0])
        here = [ctypes.addressof(ctypes.c_char.from_buffer(box))
                for box in (self.outbox, self.inbox)]
        receive = foreign("mq_receive", SSIZE, INT, ADDRESS, SIZE, ADDRESS)

        def get(_inbox: memoryview) -> Optional[int]:
            got = receive(up[1], here[1], self.size, None)
            return got if got >= 0 else None  # -1: nothing yet, or a signal

        self.build(foreign("mq_send", INT, INT, ADDRESS, SIZE, ctypes.c_uint),
                   (down[0], here[0], self.size, 0), 0, get)


class ZeroMq(Transport):
    """The message library that many would take: ipc://, which is a Unix socket, and a thread of
    its own on either side, which may run on both CPUs. The name is abstract: no file stays."""
    name, kind = "zeromq", "zmq"

    def open(self) -> None:
        if not zmq or not sys.platform.startswith("linux"):
            raise OSError("python3-zmq is not installed" if not zmq else "no abstract names")
        self.address = f"ipc://@shmbench-{os.getpid()}"
        before = os.sched_getaffinity(0)  # the library's thread inherits what holds when it starts
        os.sched_setaffinity(0, range(os.cpu_count() or 1))
        try:
            context = zmq.Context()
            self.mine = [context, context.socket(zmq.PAIR)]
        finally:
            os.sched_setaffinity(0, before)
        end = self.mine[1]
        end.linger = 0
        end.sndhwm = 1000 if self.size < 65536 else 16  # its default; 16 MiB of large messages
        end.bind(self.address)
        put, get, again, size = end.send, end.recv, zmq.Again, self.size
        outbox, flags = self.outbox, zmq.DONTWAIT if self.spin else 0
        words, last = memoryview(outbox).cast("Q"), size // 8 - 1

        def send(stamp: int, n: int) -> None:
            words[0] = stamp
            words[1] = words[last] = n
            put(outbox)

        def receive() -> None:
            while True:
                try:
                    if len(get(flags)) != size:
                        raise Broken("a message came back cut")
                    return
                except again:
                    continue

        self.send, self.receive = send, receive

    def place(self) -> List[str]:
        return [self.address]

    def close(self) -> None:
        while self.mine:
            end = self.mine.pop()
            end.close() if self.mine else end.term()


class Shm(Transport):
    """The project's own library, as a program of one's own would use it."""
    name = kind = "shm"
    slots: Optional[int] = None  # as many as a user gets who does not say

    def open(self) -> None:
        # Of adaptive round trips the Python side spins, as that of host.py --echo does.
        # On a busy machine a reader may stand still for long: it is not to be dropped.
        self.segment = shmprueba.Segment(
            f"shmbench-{os.getpid()}", self.size, self.slots, receive=True, stall_timeout=LONGEST_S,
            wait="block" if self.read == "block" else "spin")
        self.mine = [self.segment]
        self.warm_up = max(self.segment.slot_count, 32)  # once round: every page was touched
        self.build_lanes()

    def build_lanes(self) -> None:
        segment, size, outbox = self.segment, self.size, self.outbox
        words, last = memoryview(outbox).cast("Q"), size // 8 - 1
        inbox = memoryview(self.inbox)  # a bytearray would copy the reply first
        reserve, commit, take, release = (segment.reserve, segment.commit, segment.receive,
                                          segment.release)

        def send(stamp: int, n: int) -> None:
            words[0] = stamp
            words[1] = words[last] = n
            reserve()[:] = outbox
            commit(size)

        def receive() -> None:
            reply = take(LONGEST_S)
            if reply is None:
                raise Broken("the reader is gone")
            inbox[:] = reply.payload
            if not release(reply):
                raise Broken("an echo was overwritten")

        self.send, self.receive = send, receive

    def place(self) -> List[str]:
        return [self.segment.name]


class ShmRead(Shm):
    """Flat out, where the reader looks at every cache line of every message."""
    name = "shm, all read"


# The same with other rings of 1 MiB messages than the default's of 8 slots.
RINGS: List[Type[ShmRead]] = [
    type(f"Shm{n}", (ShmRead,), {"name": f"shm, {n} slots", "slots": n}) for n in (2, 4, 16)]


class Copy(Shm):
    """The ceiling: Python's slice copy into the same slots, and nothing else."""
    name = "slice copy"

    def build_lanes(self) -> None:
        views = []
        for _ in range(self.segment.slot_count):
            views.append(self.segment.reserve())
            self.segment.commit(self.size)
        mask, message = len(views) - 1, b"c" * self.size

        def send(_stamp: int, n: int) -> None:
            views[n & mask][:] = message

        self.send = self.receive = send


TRANSPORTS: List[Type[Transport]] = [Shm, Pipe, Stream, SeqPacket, Tcp, Queue, ZeroMq]


# ---- the jobs: each sends its warm-up first, and returns what the Python side measured -----------

def warm(link: Transport) -> int:
    for n in range(1, link.warm_up + 1):
        link.send(now(), n)
    return link.warm_up


def paced(link: Transport, count: int, period_ns: int) -> List[int]:
    """What each send cost. Both sides stay warm: the pauses are spun."""
    send, costs = link.send, []
    begin, n = warm(link), 0
    due = now() + 5_000_000  # the reader has caught up by then
    for n in range(begin + 1, begin + count + 1):
        stamp = now()
        while stamp < due:
            stamp = now()
        send(stamp, n)
        costs.append(now() - stamp)
        due = stamp + period_ns  # late is late: no burst to catch up
    send(0, n + 1)
    return costs


def awaited(send: Callable[[int, int], None], count: int, known: bool, begin: int = 0) -> int:
    """As a script that sleeps until there is something to send, about 1,000 times a second, at
    moments that jitter by 200 us. known: when is known, so that it is awake by then."""
    jitter, due, n = random.Random(1), now() + 5_000_000, begin
    for n in range(begin + 1, begin + count + 1):
        due += 1_000_000 + jitter.randrange(-100_000, 100_000)
        time.sleep(max(due - now() - (AHEAD_NS if known else 0), 0) * 1e-9)
        stamp = now()
        while stamp < due:
            stamp = now()
        send(stamp, n)
    return n


def flat_out(link: Transport, seconds: float) -> Tuple[int, int, int]:
    """(messages after the warm-up, nanoseconds, nanoseconds of CPU)"""
    send, burst = link.send, 64 if link.size < 65536 else 4
    first = n = warm(link)
    cpu, begin = time.process_time_ns(), now()
    end = begin + int(seconds * 1e9)
    while now() < end:
        for n in range(n + 1, n + 1 + burst):
            send(now(), n)
    elapsed, cpu = now() - begin, time.process_time_ns() - cpu
    send(0, n + 1)
    return n - first, elapsed, cpu


def trips(link: Transport, seconds: float) -> List[int]:
    """Round trips, one at a time."""
    send, receive, times = link.send, link.receive, []
    end = 0
    for n in range(1, 1 << 40):
        begin = now()
        send(begin, n)
        receive()
        seen = now()
        times.append(seen - begin)
        if n == link.warm_up:
            end = seen + int(seconds * 1e9)
        elif end and seen >= end:
            send(0, n + 1)
            break
    return times[link.warm_up:]


# ---- what publishing costs, without anybody reading ----------------------------------------------

def publish_inlined(link: Shm, count: int) -> float:
    """Nanoseconds a message of the same stores in one loop: no call, no check, no heartbeat."""
    lane = link.segment._down
    words, head, wish, slots, lock = lane.words, lane.head, lane.wish, lane.slots, threading.Lock()
    half, other_half = lock.release, lock.acquire  # as the library does it on x86-64
    views = [(lane.slot(n), lane.memory[8 * lane.slot(n) + 32:][:link.size]) for n in range(slots)]
    mask, size, payload, start = slots - 1, link.size, link.outbox, words[head]
    begin = now()
    for n in range(start + 1, start + 1 + count):
        slot, view = views[n & mask]
        words[slot] = 2 * n - 1
        view[:] = payload
        words[slot + 3] = size
        words[slot + 2] = words[slot + 1] = now()
        words[slot] = 2 * n
        words[head] = n
        half, other_half = other_half, half
        half()
        if words[wish]:
            raise Broken("nobody should sleep here")
    return (now() - begin) / count


def publish_called(link: Shm, count: int) -> float:
    """The same by calls of the library."""
    segment, size, payload = link.segment, link.size, link.outbox
    reserve, commit = segment.reserve, segment.commit
    begin = now()
    for _ in range(count):
        reserve()[:] = payload
        commit(size)
    return (now() - begin) / count


def publish_costs(rounds: int, count: int, tick: Callable[[], None]) -> List[dict]:
    """Interleaved rounds of {variant: nanoseconds a message}."""
    results = []
    for _ in range(rounds):
        row = {}
        for name, publish in (("calls", publish_called), ("inlined", publish_inlined)):
            link = Shm(64, "spin")
            try:
                publish(link, link.warm_up)  # touches every page
                row[name] = publish(link, count)
            finally:
                link.close()
            tick()
        results.append(row)
    return results
