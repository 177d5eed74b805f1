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
import socket
import struct
import sys
from typing import Callable, List, Optional, Tuple, Type

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__)))))
import host  # noqa: E402  the product itself, not a copy of it

try:
    import zmq  # python3-zmq; never required
except ImportError:
    zmq = None

now = host.clock
F_SETPIPE_SZ = 1031  # fcntl has the name from Python 3.10 on
CACHE = 1 << 20  # the second level's, where the system does not tell
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


def second_level_cache() -> int:
    """Bytes of it that one CPU has."""
    with contextlib.suppress(OSError, ValueError):
        for index in range(8):
            folder = f"/sys/devices/system/cpu/cpu0/cache/index{index}"
            with open(folder + "/level") as level, open(folder + "/size") as size:
                if level.read().strip() == "2":
                    return int(size.read().strip().rstrip("K")) << 10
    return CACHE


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


def filler(link: "Shm") -> Callable[[int, int], None]:
    """fill(at, n) of Lane.writer: the outbox, as host.py does it: a small message and its length in
    one pack_into, which would clear a large one first."""
    memory, ints, size, outbox = link.segment.memory, link.segment.ints, link.size, link.outbox
    pack = struct.Struct(f"=II{size}s").pack_into

    def fill_small(at: int, _n: int) -> None:
        pack(memory, at, size, 0, outbox)

    def fill_large(at: int, _n: int) -> None:
        ints[at >> 2], ints[(at >> 2) + 1] = size, 0
        memory[at + 8:at + 8 + size] = outbox

    return fill_small if size <= 4096 else fill_large


class Shm(Transport):
    """host.py's own segment, writer and reader; only its command line is left out."""
    name = kind = "shm"
    unmapped_later: List = []

    def __init__(self, size: int, read: str, slots: int = 0) -> None:
        # Of large messages as many as stay in the cache, but 16: with 2 of 1 MiB each line comes
        # out of the writer's own cache, and it is half as fast.
        fit = second_level_cache() // (host.SLOT_HEAD + size)
        self.slots = slots or (1024 if size < 65536 else max(1 << fit.bit_length() >> 1, 16))
        super().__init__(size, read)
        self.warm_up = max(self.slots, 32)  # once round: every page was touched

    def open(self) -> None:
        # Of adaptive round trips the Python side spins, as that of host.py --echo does.
        options = host.parse_options([
            "--name", f"shmbench-{os.getpid()}", "--quiet", "--echo", "--size", str(self.size),
            "--slots", str(self.slots), "--wait", "block" if self.read == "block" else "spin"])
        self.segment = host.Segment(options.name, self.size, self.slots)
        self.keeper = host.Keeper(options, self.segment)
        self.build_lanes()
        self.segment.go_live()

    def build_lanes(self) -> None:
        size, outbox, inbox = self.size, self.outbox, self.inbox
        words, last = memoryview(outbox).cast("Q"), size // 8 - 1
        keeper = self.keeper
        publish, fill = keeper.down.writer(keeper.make_room), filler(self)
        take, done = keeper.up.reader()

        def send(stamp: int, n: int) -> None:
            words[0] = stamp
            words[1] = words[last] = n
            publish(fill, stamp)

        def receive() -> None:
            reply = keeper.await_up(take, lambda _now: not keeper.settled())
            if reply is None:
                raise Broken("the reader is gone")
            inbox[:] = reply
            if not done(reply):
                raise Broken("an echo was overwritten")

        self.send, self.receive = send, receive

    def place(self) -> List[str]:
        return [self.segment.name]

    def close(self) -> None:
        """A frame on its way out of an exception may still hold a view: unmapped then later."""
        segment = getattr(self, "segment", None)
        if segment:
            segment.end()
            self.unmapped_later.append(segment)
            del self.segment, self.keeper, self.send, self.receive
        self.unmap()

    @classmethod
    def unmap(cls) -> None:
        while cls.unmapped_later:
            try:
                cls.unmapped_later[-1].unmap()
            except BufferError:
                return
            cls.unmapped_later.pop()


class ShmRead(Shm):
    """Flat out, where the reader looks at every cache line of every message."""
    name = "shm, all read"


class Copy(Shm):
    """The ceiling: Python's slice copy into the same slots, and nothing else."""
    name = "slice copy"

    def build_lanes(self) -> None:
        size, memory, message = self.size, self.segment.memory, b"c" * self.size
        first, stride, mask = self.keeper.down.first, self.segment.slot_stride, self.slots - 1

        def send(_stamp: int, n: int) -> None:
            at = first + (n & mask) * stride + host.SLOT_HEAD
            memory[at:at + size] = message

        self.send = self.receive = send


TRANSPORTS: List[Type[Transport]] = [Shm, Pipe, Stream, SeqPacket, Tcp, Queue, ZeroMq]


# ---- the three jobs: each sends its warm-up first, and returns what the Python side measured -----

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


def flat_out(link: Transport, seconds: float) -> Tuple[int, int, int]:
    """(messages after the warm-up, nanoseconds, nanoseconds of CPU)"""
    send, burst = link.send, 64 if link.size < 65536 else 4
    first = n = warm(link)
    cpu, begin = host.time.process_time_ns(), now()
    end = begin + int(seconds * 1e9)
    while now() < end:
        for n in range(n + 1, n + 1 + burst):
            send(now(), n)
    elapsed, cpu = now() - begin, host.time.process_time_ns() - cpu
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

def publish_chunk(link: Shm, how: str, start: int, count: int) -> float:
    """Nanoseconds a message; how: "one call" of publish() for all, as the host does flat out, or
    "a call each", or "inlined", the same stores in a loop, or "fenced", that as on ARM."""
    lane, words = link.keeper.down, link.segment.words
    words[lane.head] = start
    publish, fill = lane.writer(link.keeper.make_room, start), filler(link)

    if how == "one call":
        begin = now()
        publish(fill, 0, start + count)
        return (now() - begin) / count
    if how == "a call each":
        begin = now()
        for _ in range(count):
            publish(fill)
        return (now() - begin) / count
    release, acquire = lane.fence
    first, stride, mask, head = lane.first // 8, lane.stride // 8, lane.slots - 1, lane.head
    weak = host.WEAK or how == "fenced"
    memory, size, payload = link.segment.memory, link.size, link.outbox
    pack = struct.Struct(f"=II{size}s").pack_into
    begin = now()
    for n in range(start + 1, start + count + 1):
        slot = first + (n & mask) * stride
        words[slot] = 2 * n - 1
        if weak:
            release(); acquire()
        pack(memory, (slot + 3) << 3, size, 0, payload)
        stamp = now()
        words[slot + 2] = stamp
        words[slot + 1] = stamp
        if weak:
            release(); acquire()
        words[slot] = 2 * n
        words[head] = n
    return (now() - begin) / count


def publish_costs(rounds: int, count: int, tick: Callable[[], None]) -> List[dict]:
    """Interleaved rounds of {variant: nanoseconds a message}."""
    variants = {"one call": (1024, "one call", 0), "a call each": (1024, "a call each", 0),
                "inlined": (1024, "inlined", 0), "fenced": (1024, "fenced", 0),
                "16 slots": (16, "one call", 0), "65,536 slots": (65536, "one call", 0),
                "message 1,000": (1024, "one call", 1000),
                "message 100,000,000": (1024, "one call", 100_000_000)}
    results = []
    for _ in range(rounds):
        row = {}
        for name, (slots, how, start) in variants.items():
            link = Shm(64, "spin", slots)
            try:
                publish_chunk(link, how, start, slots)  # touches every page
                row[name] = publish_chunk(link, how, start, count)
            finally:
                link.close()
            tick()
        results.append(row)
    return results
