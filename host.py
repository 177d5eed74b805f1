#!/usr/bin/env python3
"""host.py - creates a shared memory segment and publishes into it, for cliente_c and for readers
of your own. The library is src/shmprueba.py; this is the program: jobs, report, command line."""
import os
import signal
import sys

# Python 3.6 must be able to parse this file, so that it can say which version is needed.
if sys.version_info < (3, 8):
    sys.exit("host.py: needs Python 3.8 or newer (multiprocessing.shared_memory), this is %d.%d"
             % sys.version_info[:2])
if sys.implementation.name != "cpython":  # we know how CPython compiles a store and a fence
    sys.exit("host.py: needs CPython, this is " + sys.implementation.name)
if sys.maxsize < 1 << 32:
    sys.exit("host.py: needs a 64-bit Python, this is a 32-bit one")

STOP_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
stopped_by = []  # the signals that came; every loop checks it


def stop(number, _frame) -> None:
    stopped_by.append(number)  # a signal handler may do no more than this


if __name__ == "__main__":  # before the slow imports: Ctrl-C must not end in a traceback
    for _number in STOP_SIGNALS:
        if _number != signal.SIGHUP or signal.getsignal(_number) != signal.SIG_IGN:  # nohup
            signal.signal(_number, stop)

import argparse
import ctypes
import errno
import json
import select
import stat
import struct
import subprocess
import time
from bisect import bisect_left
from collections import Counter
from contextlib import suppress
from itertools import accumulate
from typing import BinaryIO, Callable, List, Optional, Tuple

sys.path.insert(0, os.path.join(os.path.dirname(os.path.realpath(__file__)), "src"))
try:
    from shmprueba import PROVED, Consumer, Error, Patience, Segment, clock, normalise_name
except ImportError as _error:
    sys.exit(f"host.py: {_error}; it needs src/shmprueba.py beside it")

LINUX, PR_SET_TIMERSLACK = sys.platform.startswith("linux"), 29
PAUSE_NS = 50_000_000  # between two checks of what changes slowly
EXIT_CODES = {"system": 1, "gone": 1, "usage": 2, "in_use": 3, "absent": 3, "silent": 3, "died": 4,
              "refused": 5, "dropped": 6, "damaged": 6}
SAMPLE, SAMPLE_SIZE = "index:Q time_s:d accel:3f gyro:3f temperature:f :20x", 64
Fill = Callable[[memoryview, int], int]  # writes message n into the view, returns its length


class Ended(Exception):
    """Ends a job: a signal came, COMMAND or the source has ended, or the client has left."""


def put(text: str, stream, must: bool = True) -> None:
    """Writes the text at once. Without must, errors are ignored."""
    why = "closed"  # stream is None: print would write to standard output
    try:
        if stream is not None:
            return print(text, file=stream, end="", flush=True)
    except OSError as error:
        why = error.strerror
    if must:
        raise Error("system", f"standard output: {why}; give --quiet, or another one")


def one_line(text: str) -> str:
    """Replaces control characters: what a user typed may have some."""
    return "".join(char if char.isprintable() else "?" for char in text)


def fail(error: Exception, options: Optional[argparse.Namespace] = None) -> int:
    """Prints the error in one line, and returns the exit code."""
    if isinstance(error, OSError):
        named = isinstance(error.filename, str)  # else a descriptor, or None
        what = error.filename if named else options.input or options.sink or "COMMAND"
        error = Error("system", f"cannot use {what}: {error.strerror}; give another one")
    name = f"{options.name}: " if options else ""
    hint = "; see host.py --help" if error.kind == "usage" else ""
    put(one_line(f"host.py: {name}{error}{hint}") + "\n", sys.stderr, must=False)
    return EXIT_CODES[error.kind]


def make_generator(size: int) -> Fill:
    """Message n depends on n alone, so that a receiver can check it. It begins with the sample, if
    that fits; each byte i after it is (n + i) % 251."""
    # A sine made of two parabolas, period 1024, in exact binary fractions.
    swing = [4 * x * (1 - abs(x)) for x in ((n % 1024 - 512) / 512 for n in range(4096))]
    rest = [struct.pack("=7f20x", .5 * swing[n], .25 * swing[n + 256],
                        9.8125 + .0625 * swing[2 * n], .25 * swing[n + 256], -.125 * swing[n],
                        .03125 * swing[4 * n], 36.5 + .25 * swing[n + 512]) for n in range(1024)]
    pack = struct.Struct("=Qd48s").pack_into  # safe: readers ignore a slot whose seq is odd
    head = SAMPLE_SIZE if size >= SAMPLE_SIZE else 0
    pattern = memoryview(bytes(range(251)) * (size // 251 + 2))
    tails = [pattern[(n + head) % 251:][:size - head] for n in range(251)]

    def fill(view: memoryview, n: int) -> int:
        if head:
            pack(view, 0, n, n * 0.001, rest[n & 1023])
        if size > head:
            view[head:] = tails[n % 251]
        return size

    return fill


class Latency(Counter):
    """A histogram of durations in constant memory. A key is the longest duration of a step, in ns;
    an octave has 128 steps, as in src/cliente/histogram.c."""

    def record(self, ns: int) -> None:
        shift = max(ns.bit_length() - 8, 0)
        self[((ns >> shift) + 1 << shift) - 1] += 1

    def summary(self) -> Optional[dict]:
        if not self:
            return None
        points = {"min": 0, "p50": .5, "p90": .9, "p99": .99, "p99_9": .999, "max": 1}
        steps, total = sorted(self), sum(self.values())
        seen = list(accumulate(self[step] for step in steps))
        figures = {name: steps[bisect_left(seen, at * total - 1e-6)] for name, at in points.items()}
        return {**figures, "mean": round(sum(step * self[step] for step in steps) / total, 1)}


def duration(ns: float) -> str:
    """Three digits and a unit, as in src/cliente/report.c."""
    value, units = ns, ["s", "ms", "us", "ns"]
    while value >= 999.5 and len(units) > 1:
        value /= 1000
        units.pop()
    decimals = 0 if units[-1] == "ns" or value >= 99.95 else 1 if value >= 9.995 else 2
    return f"{value:.{decimals}f} {units[-1]}"


class Host:
    def __init__(self, options: argparse.Namespace) -> None:
        self.options = options
        self.segment: Optional[Segment] = None
        # A host that serves one client ends with that client, not with COMMAND, and reports why.
        self.serves = bool(options.echo or options.sink or options.input and not options.rate)
        self.out = sys.stderr if options.sink == "-" else sys.stdout  # "-": payloads on stdout
        self.chatty = not (options.quiet or options.json)
        self.live = (self.chatty and not options.command  # COMMAND would write between our lines
                     and self.out is not None and self.out.isatty()
                     and os.environ.get("TERM", "dumb") != "dumb")
        self.clear = "\r\033[K" if self.live else ""  # goes before any other line
        self.child: Optional[subprocess.Popen] = None
        self.next_check = self.next_line = self.drops = self.bytes = self.received = 0
        self.publish_ns, self.round_trip, self.begin = Latency(), Latency(), clock()

    def say(self, text: str) -> None:
        """Prints a remark on standard error."""
        put(self.clear, self.out, must=False)
        put(f"host.py: {self.options.name}: {text}\n", sys.stderr, must=False)

    def tell(self, text: str) -> None:
        """Prints a part of the result; with --sink - errors are ignored."""
        put(self.clear + text + "\n", self.out, must=self.options.sink != "-")

    def idle(self) -> None:
        """The segment calls this in every wait."""
        if stopped_by:
            raise Ended
        now = clock()
        if now < self.next_check or not self.segment:
            return
        self.next_check = now + PAUSE_NS
        self.say_drops()
        if self.child_ended() and not self.serves:
            raise Ended
        if self.live and now >= self.next_line:
            self.next_line = now + 1_000_000_000
            self.line((now - self.begin) * 1e-9 or 1)

    def say_drops(self) -> None:
        if self.segment.dropped > self.drops and not self.serves:
            self.drops = self.segment.dropped
            self.say(self.segment.why_dropped)

    def line(self, seconds: float) -> None:
        segment, consumer = self.segment, self.segment.consumer
        count = self.received if self.options.sink else segment.published
        text = (f"  {seconds:4.0f} s  {count} messages  {count / seconds:.0f} a second  "
                f"{segment.attached} attached so far")
        if consumer:
            lag = segment.published - (consumer.position or 0)
            text += f"  consumer {consumer.pid} lags {max(lag, 0)}"
        with suppress(OSError):  # hung up
            width = os.get_terminal_size(self.out.fileno()).columns or 80
            put(f"\r{text[:width - 1]}\033[K", self.out, must=False)  # a wrapped line would stay

    def child_ended(self) -> bool:
        return self.child is not None and self.child.poll() is not None

    def wait_for(self, arrived: Callable[[], object], who: str, loss: str = "") -> object:
        """Calls arrived() until its result is true, and returns that result. loss: the consequence,
        for the error text, if COMMAND ends with 0 before that."""
        came = arrived()
        if not came and self.chatty and not self.child:
            self.tell(f"host.py  waiting for {who}")
        while not came:
            time.sleep(0.001)
            self.segment.care()
            ended = self.child_ended()  # before arrived(): its client may have come and gone
            came = arrived()
            if ended and not came:
                raise Ended if self.child.returncode else Error(
                    "dropped", f"COMMAND ended before any {who} came: {loss}")
        self.drops, self.begin = self.segment.dropped, clock()
        return came

    def settled(self) -> Optional[Consumer]:
        """The consumer, once its claim is complete."""
        consumer = self.segment.consumer
        return consumer if consumer and consumer.position is not None else None

    def is_gone(self, consumer: Consumer) -> bool:
        now = self.segment.consumer
        return not now or now.epoch != consumer.epoch

    def publisher(self, fill: Fill, rehearses: bool) -> Callable[[int], Tuple[int, int]]:
        """Returns publish(n). It publishes message n when --rate says (0: at once), and returns
        (begin, end), with no wait for --rate between them. While it waits it may rehearse, that is
        run the same code without the last stores: code that has just run takes half as long. It
        wakes up early enough to rehearse a few times."""
        segment, now, rate, start, due = self.segment, clock, self.options.rate, clock(), 0
        reserve, commit, warm = segment.reserve, segment.commit, segment.warm
        # Do not ask the affinity: if the host is pinned to one CPU, its client has another one.
        rehearses = rehearses and self.options.size <= 4096 and (os.cpu_count() or 1) > 1
        cold = 0  # ns that the first of the last rehearsals took

        def publish(n: int) -> Tuple[int, int]:
            nonlocal due, cold
            if rate:
                due = start + int((n - 1) * (1e9 / rate))
                segment.wait_until(due - 4 * cold)  # until shortly before
            view = reserve()  # may wait for the consumer: not counted
            begin = now()
            length = fill(view, n)
            if rate:
                ready = now()
                cold = min(ready - begin, 50_000) if rehearses else 0
                while rehearses and due - ready >= 4 * (ready - begin):
                    warm()
                    begin = now()
                    length = fill(reserve(), n)
                    ready = now()
                begin += max(due - ready, 0)
            commit(length, due)
            return begin, now()

        return publish


# ---- the jobs ----------------------------------------------------------------------------------

def publish(host: Host, source: Optional[BinaryIO] = None, regular: bool = True) -> None:
    """Publishes --count messages: generated ones, or those of a source, until it ends. A source
    without --rate is for one consumer, which must take all of it. With --size each message but the
    last has that size; without it, each read of a pipe is published at once."""
    options, segment, n, taken, burst = host.options, host.segment, 0, 0, 1
    waited, ended = 0, False  # ns that the last message waited for its bytes; the source has ended
    consumer: Optional[Consumer] = None
    if host.serves:
        consumer = host.wait_for(host.settled, "cliente_c --lossless", "nothing was taken")
    elif source or options.wait_client:
        host.wait_for(lambda: segment.attached, "any cliente_c")

    def check() -> None:
        """Raises Error if the consumer will never take all that is published so far."""
        nonlocal taken
        segment.care()
        if consumer:
            ended, gone = host.child_ended(), host.is_gone(consumer)
            if not gone or not segment.consumer:  # else taken is its successor's
                taken = segment.taken
            if taken < segment.published and (gone or ended):
                why = (segment.why_dropped if segment.dropped > host.drops else
                       f"client pid {consumer.pid} left" if gone else "COMMAND ended")
                raise Error("dropped", f"{why}; it took {taken} of the {segment.published} messages"
                                       f" that were published of {options.input}")

    def wait_for_data() -> None:
        check()
        while not regular and not select.select([source], [], [], 0.05)[0]:
            check()  # a quiet source must not stop the heartbeat

    def read(view: memoryview, _n: int) -> int:
        nonlocal waited, ended
        waited = 0
        more = source.readinto(view)
        length = more or 0  # None: not blocking, and another process read it first
        with suppress(Ended):  # then what has been read is the last message
            while more is None or (more and options.exact and length < options.size):
                begin = clock()
                wait_for_data()
                waited += clock() - begin
                more = source.readinto(view[length:])
                length += more or 0
        ended = more == 0
        if not length:
            raise Ended
        host.bytes += length
        return length

    fill = read if source else make_generator(options.size)
    publish_one = host.publisher(fill, not source)
    reserve, commit = segment.reserve, segment.commit
    with suppress(Ended):
        while n < options.count and not ended:
            wait_for_data()
            n += 1
            begin, end = publish_one(n)
            host.publish_ns.record(end - begin - waited)
            if regular and not options.rate:  # time one message, then publish for 1 ms untimed
                begin = clock()
                for n in range(n + 1, min(n + burst, options.count) + 1):
                    commit(fill(reserve(), n))
                burst = max(1, min(4096, burst * 1_000_000 // (clock() - begin + 1)))
    if consumer:
        segment.drain()
        check()


def echo(host: Host) -> None:
    """Ping-pong with one client: send a message, wait until it comes back, check its bytes."""
    options, segment = host.options, host.segment
    fill, expected = make_generator(options.size), memoryview(bytearray(options.size))
    asked = host.wait_for(host.settled, "cliente_c --echo", "no message was sent")
    while segment.receive(0):  # an earlier sender's: this client's answers come after them
        segment.release(segment.receive(0))

    def check() -> None:
        if host.is_gone(asked):
            raise Error("dropped", segment.why_dropped) if segment.dropped > host.drops else Ended
        if host.child_ended():
            raise Ended

    publish_one = host.publisher(fill, True)
    while host.received < options.count:
        check()
        n = host.received + 1
        begin, end = publish_one(n)
        reply = segment.receive(0.05)
        if not reply:
            patience = Patience()
        while not reply:
            if patience.spent(clock()) > options.stall_timeout * 1e9:
                segment.drop(f"did not answer for {options.stall_timeout:g} s", asked)
            consumer = segment.consumer
            if not segment.receive(0):  # a client stores its answer before its place
                if not consumer or consumer.epoch != asked.epoch:
                    check()
                elif (consumer.position or 0) >= n:
                    raise Error("dropped", f"message {n} did not come back: its client reads, but "
                                           "does not echo; start cliente_c --echo")
            reply = segment.receive(0.05)
        host.round_trip.record(clock() - begin)
        host.publish_ns.record(end - begin)
        fill(expected, n)
        if reply.payload != expected or not segment.release(reply):
            raise Error("damaged", f"message {n} did not come back as it was sent")
        host.received = n


def sink(host: Host, file: BinaryIO, regular: bool) -> None:
    """Writes the payloads of the first sender on the up lane, but only those that came whole."""
    options, segment = host.options, host.segment
    if regular and options.sink != "-":
        file.truncate(0)  # not earlier: another running host of this name may write it
    host.wait_for(lambda: segment.sending or segment.receive(0), "cliente_c --source",
                  f"{options.sink} is empty")
    while host.received < options.count:
        message = segment.receive(0.05)
        if not message and segment.sending:
            continue
        message = message or segment.receive(0)  # a sender publishes before it leaves its role
        if not message:
            raise Error("dropped", "its client left or died before the end of its stream: "
                                   f"{options.sink} is incomplete")
        payload = bytes(message.payload)
        if not segment.release(message):
            raise Error("damaged", f"message {message.n} was damaged on its way: "
                                   f"{options.sink} ends before it")
        if not payload:  # an empty message ends the stream
            return
        rest = memoryview(payload)
        while rest:
            while not regular and not select.select([], [file], [], 0.05)[1]:
                segment.care()  # a reader that pauses must not stop the heartbeat
            rest = rest[os.write(file.fileno(), rest if regular else rest[:select.PIPE_BUF]):]
        host.bytes += len(payload)
        host.received += 1


def open_file(path: str, flags: int, standard) -> Tuple[BinaryIO, bool]:
    """(unbuffered file, is it regular?). Only a regular file never makes us wait."""
    fd = standard.fileno() if standard else -1  # it is closed; /dev/null may have its number
    while not stopped_by:
        try:
            if path != "-":  # no signal ends a blocking open of a FIFO
                fd = os.open(path, flags | (os.O_NONBLOCK if LINUX else 0), 0o666)
                os.set_blocking(fd, True)
            regular = stat.S_ISREG(os.fstat(fd).st_mode)
            return open(fd, "wb" if flags else "rb", buffering=0, closefd=False), regular
        except OSError as error:
            if error.errno != errno.ENXIO or not stat.S_ISFIFO(os.stat(path).st_mode):
                raise
        time.sleep(0.01)  # nobody reads the FIFO yet
    raise Ended


def end_command(child: subprocess.Popen) -> int:
    """Waits until COMMAND has ended. After a signal to us: terminates it, then kills it."""
    asks = [child.kill, child.terminate]
    while child.poll() is None:
        with suppress(subprocess.TimeoutExpired):
            child.wait(2)
        if stopped_by and asks:
            asks.pop()()
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def report(host: Host, elapsed: float, failed: int) -> None:
    options, segment, spent = host.options, host.segment, host.publish_ns.summary()
    published, round_trip = segment.published, host.round_trip.summary()
    count = host.received if options.sink else published
    record = {
        "published": published, "received": host.received,
        "clients": segment.attached + bool(options.sink and host.received),
        "bytes": host.bytes if options.input or options.sink else published * options.size,
        "elapsed_s": round(elapsed, 6), "rate_hz": round(count / elapsed, 3),
        "stalls": segment.stalls, "dropped_clients": segment.dropped,
        "missed_wakeups": segment.missed_wakeups,
        "publish_ns": spent and {key: spent[key] for key in ("mean", "p50", "p99")}}
    if options.echo:  # at most one message is under way; if the run failed, that one did
        record.update(round_trip_ns=round_trip,
                      echo_errors=published - host.received if failed == 6 else 0)
    if options.json:
        return host.tell(json.dumps(record))
    text = (f"host.py  {'received' if options.sink else 'published'} {count} messages in "
            f"{elapsed:.3f} s, {count / elapsed:.1f} a second\n  clients     {record['clients']} "
            f"attached, {segment.dropped} dropped; {record['bytes']} bytes")
    if segment.stalls:
        text += f"\n  waited      for room {segment.stalls} times"
    for label, figures, names in (("publish   ", spent, "mean p50 p99"),
                                  ("round trip", round_trip, "p50 p90 p99 p99_9 max")):
        if figures:
            text += f"\n  {label}  " + "  ".join(
                f"{name} {duration(figures[name])}" for name in names.split())
    host.tell(text.replace("p99_9", "p99.9"))


def run(host: Host) -> int:
    options, failed, status, command_first = host.options, 0, 0, False
    file = (open_file(options.input, os.O_RDONLY, sys.stdin) if options.input else
            open_file(options.sink, os.O_WRONLY | os.O_CREAT, sys.stdout) if options.sink else ())
    if options.json or not options.quiet and options.sink != "-":
        put("", sys.stdout)  # if it is closed, fail now, not at the end
    segment = host.segment = Segment(
        options.name, options.size, options.slots,
        "" if options.input or options.size < SAMPLE_SIZE else SAMPLE, options.crc,
        bool(options.echo or options.sink), options.stall_timeout, options.wait, host.idle)
    try:
        if segment.replaced:
            host.say(segment.replaced)
        if host.chatty:
            host.tell(f"host.py  created {segment.name}: {segment.slot_count} slots of "
                      f"{segment.capacity} B a lane, {segment.total / 1024:.0f} KiB")
        if options.command:
            taken = options.json or options.sink == "-"  # COMMAND must not write to stdout
            host.child = subprocess.Popen(
                options.command, stdout=2 if taken else None,
                stdin=subprocess.DEVNULL if options.input == "-" else None)
        (echo if options.echo else sink if options.sink else publish)(host, *file)
    except Ended:
        pass
    except (Error, OSError) as error:
        put(host.clear, host.out, must=False)
        failed, command_first = fail(error, options), host.child_ended()
    finally:  # in any case leave no segment without a host
        elapsed = max(clock() - host.begin, 1) * 1e-9
        segment.close()
        if host.child:
            status = end_command(host.child)
    try:
        host.say_drops()
        if options.json or not options.quiet:
            report(host, elapsed, failed)
    except Error as error:
        failed = failed or status or fail(error, options)
    # Report whichever failed first, COMMAND or this program; later failures follow from it.
    return status if status and command_first else failed or status


# ---- command line ------------------------------------------------------------------------------

class Parser(argparse.ArgumentParser):
    def error(self, message: str):  # one line, not the usage over several
        raise Error("usage", message)

    def print_help(self, file=None):
        put(self.format_help(), sys.stdout)
        raise Ended


def number(metavar: str, kind: type, low: float, high: float) -> dict:
    def parse(text: str) -> float:
        with suppress(ValueError):  # float would take "nan", "1_0" and " 5"
            if not text.strip("0123456789.e+-") and low <= kind(text) <= high:
                return kind(text)
        raise argparse.ArgumentTypeError(
            f"{text}: not a {'whole ' if kind is int else ''}number from {low} to {high}")
    return {"metavar": metavar, "type": parse}


def parse_options(arguments: List[str]) -> argparse.Namespace:
    parser = Parser(
        prog="host.py", usage="host.py [options] [-- COMMAND ARG...]", allow_abbrev=False,
        description="Publishes into a shared memory segment. Starts COMMAND once that is live, "
                    "ends with COMMAND, and passes its exit status on.")
    add, flag = parser.add_argument, {"action": "store_true"}
    add("--name", metavar="NAME", default="/shmprueba", help="of the segment (/shmprueba)")
    add("--rate", help="messages a second; 0: no pause (1000)", **number("HZ", float, 0, 1e9))
    add("--size", help="payload of a message (64); if given, --input fills each",
        **number("BYTES", int, 1, 1 << 30))
    add("--slots", help="messages a lane holds, a power of two (by size)",
        **number("N", int, 2, 65536))
    add("--count", default=0, help="stop after N messages; 0: never (0)",
        **number("N", int, 0, 1 << 40))
    add("--input", metavar="FILE", help="publish FILE (-: standard input); without --rate flat "
        "out, to one cliente_c --lossless, all of it")
    add("--wait-client", help="publish nothing until a client is attached", **flag)
    add("--echo", help="ping-pong with one cliente_c --echo, and time it", **flag)
    add("--crc", help="put a CRC-32 on every message", **flag)
    add("--sink", metavar="FILE", help="write what one cliente_c --source sends to FILE (-: "
        "standard output); publish nothing")
    add("--wait", choices=["spin", "block"], help="how --echo (spin) and --sink (block) wait")
    add("--stall-timeout", default=1.0, help="drop a consumer that stands still so long (1.0)",
        **number("S", float, .001, 1e6))
    add("--json", help="print one JSON object at the end, and nothing else", **flag)
    add("--quiet", help="say nothing but what went wrong", **flag)
    dashes = arguments.index("--") if "--" in arguments else len(arguments)
    options = parser.parse_args(arguments[:dashes])
    options.command = arguments[dashes + 1:]
    options.exact, options.size = options.size is not None, options.size or 64
    options.wait = options.wait or ("block" if options.sink else "spin")
    options.count = options.count or 1 << 62  # 0: until Ctrl-C
    if options.rate is None:
        options.rate = 0.0 if options.input else 1000.0
    for wrong, text in (
            (dashes < len(arguments) and not options.command, "--: COMMAND is missing"),
            ("" in (options.input, options.sink), "--input, --sink: the name of FILE is empty"),
            (bool(options.input) + options.echo + bool(options.sink) > 1,
             "--input, --echo, --sink: only one of them"),
            (options.json and options.sink == "-", "--json: standard output is taken by --sink -"),
            (0 < options.rate < 1e-6, "--rate: one message in 11 days is the slowest")):
        if wrong:
            parser.error(text)
    options.name = normalise_name(options.name)
    return options


def main(arguments: List[str]) -> int:
    options = None
    try:
        options = parse_options(arguments)
        host = Host(options)
        if len(options.name) > 31 and sys.platform != "darwin" and not options.quiet:
            host.say("this name is too long for macOS (31 bytes with the slash)")
        if not PROVED:
            host.say("the memory order is not proved on this kind of machine: --crc is on")
        if LINUX:
            ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)  # or a sleep lasts 50 us longer
        return run(host)
    except Ended:
        return 0
    except (Error, OSError) as error:
        return fail(error, options)


if __name__ == "__main__":
    for _number, _stream in enumerate((sys.stdout, sys.stderr), 1):
        if not _stream:  # a segment or file must not get the number of a closed stream
            os.dup2(os.open(os.devnull, os.O_RDWR), _number)
    # Not sys.exit: at its end the interpreter would reset our signal handlers, and flush a stream
    # that may be broken; then its exit code is 120 instead of ours.
    os._exit(main(sys.argv[1:]))
