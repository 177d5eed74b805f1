"""The verbs of src/shmprueba.py, step by step in this process: what is in the segment at each step.

An interleaving with another process is forced: the test does the other side's stores itself, from
inside a step (idle, a replaced function) or between two.
"""
import array
import ctypes
import errno
import gc
import os
import sys
import threading
import time
import types
import unittest
import zlib
from typing import Callable, List, Optional, Tuple
from unittest import mock

from support import CLAIMING, DOWN, DROPPED, HEAD, PLACE, SESSION, SLOTS, STATE, UP, PairTest
import shmprueba
from shmprueba import Error, Message, Patience, Reader, Roles, Segment, SLOT_HEAD, Slot

MS = 1_000_000  # nanoseconds


class Enough(Exception):
    """What a program's idle raises."""


class LibraryTest(PairTest):
    def segment(self, size: int = 64, slots: int = 4, **options) -> Segment:
        segment = Segment(self.name, size=size, slots=slots, **options)
        self.addCleanup(segment.close)
        return segment

    def reader(self, **options) -> Reader:
        reader = Reader(self.name, **options)
        self.addCleanup(reader.close)
        return reader

    def fails(self, kind: str, words: str, call: Callable, *arguments, **options) -> None:
        with self.assertRaisesRegex(Error, words) as error:
            call(*arguments, **options)
        self.assertEqual(error.exception.kind, kind)
        self.assertNotIn("\n", str(error.exception))

    @staticmethod
    def slot(segment: Segment, n: int) -> Slot:
        lane = segment._down
        return Slot.from_buffer_copy(lane.memory[8 * lane.slot(n):])

    @staticmethod
    def payload(segment: Segment, n: int) -> bytes:
        slot, at = LibraryTest.slot(segment, n), 8 * segment._down.slot(n) + shmprueba.SLOT_HEAD
        return bytes(segment._down.memory[at:at + slot.length])

    def role(self, role: int) -> Roles:
        """Another holder of it, as another process would be: the kernel tells them apart."""
        roles = Roles(shmprueba.open_object("/" + self.name, os.O_RDWR))
        self.assertTrue(roles.take(role))
        self.addCleanup(roles.close)
        return roles

    @staticmethod
    def sender(segment: Segment) -> Tuple[Callable, ...]:
        """send, reserve, commit, warm of the up lane, as a driver has them in C."""
        lane = segment._up
        return shmprueba.make_producer(types.SimpleNamespace(
            address=segment.address, _make_room=lambda n: n + lane.slots - 1, next_care=1 << 63,
            wait_until=lambda _due: None, care=lambda: None), lane)

    def made_up_clock(self, step_ns: int = 0) -> List[int]:
        """Replaces the library's clock; it moves on by a step at each look."""
        now = [10 ** 12]

        def tick() -> int:
            now[0] += step_ns
            return now[0]
        patch = mock.patch.object(shmprueba, "clock", tick)
        patch.start()
        self.addCleanup(patch.stop)
        return now

    @staticmethod
    def locks_that_call(interrupted: Callable[[], None]):
        """With it, each new lock calls interrupted() after each of its steps."""
        real = threading.Lock

        class Lock:
            def __init__(self) -> None:
                self.lock = real()

            def acquire(self, *arguments: object) -> None:
                self.lock.acquire(*arguments)
                interrupted()

            def release(self) -> None:
                self.lock.release()
                interrupted()

        return mock.patch.object(shmprueba.threading, "Lock", Lock)


class Steps(LibraryTest):
    """Which store comes after which, and the fences between them: tests/model has the argument."""
    FIELDS = ("timestamp", "due", "length", "crc")

    class Recorder:
        """A view of the segment that notes each access of the fields that both sides use."""

        def __init__(self, steps: List[str], view: memoryview, names: dict) -> None:
            self.steps, self.view, self.names = steps, view, names

        def __getitem__(self, at: int) -> int:
            if at in self.names:
                self.steps.append(self.names[at])
            return self.view[at]

        def __setitem__(self, at: int, value: int) -> None:
            if at in self.names:
                time = self.names[at] in ("due", "timestamp")
                self.steps.append(self.names[at] + ("" if time else f" = {value}"))
            self.view[at] = value

    def recorded(self, segment: Segment, lane: shmprueba.Lane) -> List[str]:
        steps: List[str] = []
        slots = (lane.slot(1), lane.slot(2))
        words = {slot + at: name for slot in slots
                 for at, name in enumerate(("seq", "timestamp", "due"))}
        lane.words = self.Recorder(steps, lane.words, {
            **words, lane.head: "head", lane.wish: "wish", lane.place: "place"})
        lane.ints = self.Recorder(steps, lane.ints, {
            2 * slot + at: name for slot in slots for at, name in ((6, "length"), (7, "crc"))})
        lane.fence = lambda: steps.append("fence")
        return steps

    def test_of_a_message_that_is_sent(self) -> None:
        class Lock:
            held = False

            def acquire(self, _blocking: bool) -> bool:
                if not self.held:
                    steps.append("acquire")
                self.held, was = True, self.held
                return not was

            def release(self) -> None:
                self.held = False
                steps.append("release")

        for weak in (True, False):
            for size in (64, 1 << 14):  # glibc copies much at once with stores that keep no order
                with mock.patch.object(shmprueba, "WEAK", weak), self.subTest(weak=weak, size=size):
                    segment = self.segment(size, crc=True)
                    steps = self.recorded(segment, segment._down)
                    segment._make_room = lambda n: steps.append("room") or n
                    with mock.patch.object(shmprueba.threading, "Lock", Lock):
                        _, reserve, commit, _ = shmprueba.make_producer(segment, segment._down)
                    for _ in range(2):
                        reserve()[:3] = b"abc"
                        steps.append("payload")
                        commit(3)
                    order = ["fence"] if weak or size >= 1 << 14 else []
                    # x86-64: each half of a lock is a full fence, and the two take turns.
                    self.assertEqual(steps, [
                        step for n in (1, 2) for step in (
                            "room", f"seq = {2 * n - 1}", *order, "payload", "length = 3",
                            f"crc = {zlib.crc32(b'abc', n)}", "due", "timestamp", *order,
                            f"seq = {2 * n}", f"head = {n}",
                            "fence" if weak else ("acquire", "release")[n - 1], "wish")])
                    segment.close()

    def test_an_exception_between_two_steps(self) -> None:
        """Ctrl-C, or a handler that raises, between any two bytecodes of a send (Python 3.8 raises
        there): the next one is whole, in its own slot, and the segment closes."""
        for weak in (False, True):
            interrupted, step = True, 0
            while interrupted:
                step, interrupted = step + 1, False
                with self.subTest(weak=weak, step=step), mock.patch.object(shmprueba, "WEAK", weak):
                    interrupted = self.interrupted_send(step)
            self.assertGreater(step, 20)

    def interrupted_send(self, step: int) -> bool:
        segment = self.segment(slots=4)
        lane, left = segment._down, step

        def trace(frame, event: str, _argument: object):
            nonlocal left
            if frame.f_code.co_filename != shmprueba.__file__:
                return None
            frame.f_trace_opcodes = True
            if event == ("line" if sys.version_info[:2] == (3, 12) else "opcode"):  # 3.12 is mute
                left -= 1
                if left == 0:
                    raise KeyboardInterrupt
            return trace

        sys.settrace(trace)
        try:
            segment.send(b"first")
        except KeyboardInterrupt:
            pass
        finally:
            sys.settrace(None)
        published = segment.published  # a reader may have it already: it keeps its number
        for text in (b"a", b"b", b"c", b"d", b"e"):
            segment.send(text)
        count = segment.published
        self.assertGreaterEqual(count, published + 5)
        self.assertLessEqual(count, 6)
        for n, text in zip(range(count - 3, count + 1), (b"b", b"c", b"d", b"e")):
            at = 8 * lane.slot(n)
            slot = Slot.from_buffer_copy(lane.memory[at:at + SLOT_HEAD])
            self.assertEqual((slot.seq, slot.length), (2 * n, 1))
            self.assertEqual(bytes(lane.memory[at + SLOT_HEAD:at + SLOT_HEAD + 1]), text)
        segment.close()
        return left <= 0

    def test_a_handler_that_makes_a_fence_in_a_fence(self) -> None:
        """A signal handler may send, or close, between two steps of a fence, and return."""
        class Lock:
            held, calls = False, 0

            def acquire(self, blocking: bool = True) -> bool:
                if self.held and blocking:
                    raise AssertionError("it would wait for ever")
                self.held, was = True, self.held
                self.handler()
                return not was

            def release(self) -> None:
                assert self.held
                self.held = False
                self.handler()

            def handler(self) -> None:
                Lock.calls += 1
                if Lock.calls in range(at, at + 1):
                    fence()

        for at in range(1, 8):
            Lock.calls = 0
            with mock.patch.object(shmprueba.threading, "Lock", Lock):
                fence = shmprueba.make_fence()
            for _ in range(3):
                fence()

    def test_of_a_message_that_is_received(self) -> None:
        for weak in (True, False):
            with mock.patch.object(shmprueba, "WEAK", weak), self.subTest(weak=weak):
                segment = self.segment(receive=True)
                self.sender(segment)[0](b"abc")
                steps = self.recorded(segment, segment._up)
                receive, release = shmprueba.make_receiver(segment, segment._up)
                message = receive(0)
                self.assertTrue(release(message))
                order = ["fence"] if weak else []
                self.assertEqual([step for step in steps if step not in self.FIELDS],
                                 ["head", *order, "seq", *order, "seq", f"place = {1 << 48 | 1}"])
                segment.close()

    def test_of_a_message_that_is_read(self) -> None:
        for weak in (True, False):
            with mock.patch.object(shmprueba, "WEAK", weak), self.subTest(weak=weak):
                segment = self.segment()
                reader = self.reader()
                segment.send(b"abc")
                steps = self.recorded(segment, reader._lane)
                self.assertTrue(reader.confirm(reader.receive(0)))
                order = ["fence"] if weak else []
                self.assertEqual([step for step in steps if step not in self.FIELDS],
                                 ["head", *order, "seq", *order, "seq"])
                segment.close()

    def test_of_room_and_drop(self) -> None:
        """A full fence before the place is loaded, and one after dropped is stored."""
        segment = self.segment()
        steps: List[str] = []
        segment._words[segment._down.place] = 1 << 48 | 1  # nobody holds the role: it died
        segment._down.fence = lambda: steps.append(
            f"fence, dropped {segment._words[segment._down.dropped]}")
        self.assertEqual(segment._make_room(9), 12)
        self.assertEqual(steps, ["fence, dropped 0", "fence, dropped 1", "fence, dropped 1"])

    def test_of_the_end(self) -> None:
        """The last head, CLOSED, the wake-up, the name, the lock: in this order."""
        segment = self.segment()
        steps: List[str] = []
        other = Roles(shmprueba.open_object("/" + self.name, os.O_RDWR))
        self.addCleanup(other.close)
        give_up = segment._give_up

        def unlock() -> None:
            steps.append(f"name {self.segment_exists()}, host {other.held(shmprueba.HOST)}")
            give_up()
        segment._give_up = unlock
        with mock.patch.object(shmprueba, "futex", lambda *_: steps.append(
                f"wake, state {segment._ints[shmprueba.STATE_INT]}")):
            segment._down.fence = lambda: steps.append(f"fence, state {self.peek_word(STATE, 4)}")
            segment.close()
        self.assertEqual(steps, ["fence, state 1", "wake, state 2", "name False, host True"])
        self.assertFalse(other.held(shmprueba.HOST))


class Sending(LibraryTest):
    def test_a_slot_is_marked_while_it_is_filled(self) -> None:
        segment = self.segment()
        for n in range(1, 10):
            view = segment.reserve()
            self.assertEqual((self.slot(segment, n).seq, segment.published), (2 * n - 1, n - 1))
            self.assertIs(segment.reserve(), view)  # the same one until commit
            self.assertEqual(len(view), 64)
            view[:3] = bytes([n] * 3)
            segment.commit(3)
            slot = self.slot(segment, n)
            self.assertEqual((slot.seq, slot.length, slot.crc32, slot.due_ns),
                             (2 * n, 3, 0, slot.timestamp_ns))
            self.assertEqual((segment.published, self.payload(segment, n)), (n, bytes([n] * 3)))

    def test_send_takes_any_bytes(self) -> None:
        made = type("Made", (ctypes.Structure,), {"_fields_": [("a", ctypes.c_uint16)]})
        segment, n = self.segment(), 0
        for data, sent in (
                (b"abc", b"abc"), (bytearray(b"xy"), b"xy"), (memoryview(b"abcd")[1:3], b"bc"),
                (array.array("I", [1]), bytes(array.array("I", [1]))), (made(7), bytes(made(7))),
                (b"", b""), (bytes(64), bytes(64)), (memoryview(bytes(8)).cast("d"), bytes(8)),
                (memoryview(bytes(6)).cast("B", (2, 3)), bytes(6)),
                ((ctypes.c_int * 3 * 0)(), b"")):  # shape (0, 3)
            segment.send(data)
            n += 1
            self.assertEqual((segment.published, self.payload(segment, n)), (n, sent))

    def test_what_is_refused_leaves_nothing(self) -> None:
        segment = self.segment()
        segment.send(b"first")
        released = memoryview(b"x")
        released.release()
        for data in ("text", None, 5, [1, 2], memoryview(bytes(8))[::2], released):
            self.fails("usage", "contiguous bytes-like data", segment.send, data)
        self.fails("usage", "65 bytes: this segment's messages have 64 at most", segment.send,
                   bytes(65))
        for length in (0, 1, 64):
            self.fails("usage", "reserve", segment.commit, length)  # nothing is reserved
        segment.reserve()[:3] = b"two"
        for length in (-1, 65, 1 << 40):
            self.fails("usage", f"commit of {length} bytes", segment.commit, length)
        self.assertEqual(segment.published, 1)
        segment.commit(3)
        self.assertEqual((segment.published, self.payload(segment, 2)), (2, b"two"))

    def test_crc(self) -> None:
        segment = self.segment(crc=True)
        for n in range(1, 7):
            segment.send(b"payload %d" % n)
            self.assertEqual(self.slot(segment, n).crc32, zlib.crc32(b"payload %d" % n, n))

    def test_a_view_that_its_user_releases(self) -> None:
        """As `with segment.reserve() as view` does: it is usable again after each ring, and before
        its commit."""
        segment = self.segment(crc=True)
        for n in range(1, 14):
            with segment.reserve() as view:
                view[:3] = b"one"
            with segment.reserve() as view:
                self.assertEqual((bytes(view[:3]), len(view)), (b"one", 64))
            segment.commit(3)
            self.assertEqual(self.payload(segment, n), b"one")
            self.assertEqual(self.slot(segment, n).crc32, zlib.crc32(b"one", n))

    def test_warm_publishes_nothing(self) -> None:
        with mock.patch.object(shmprueba, "futex") as futex:
            segment = self.segment(crc=True)
            segment._words[segment._down.wish] = 1  # somebody sleeps for it: not yet
            for _ in range(3):
                segment.warm()
                self.assertEqual((segment.published, self.slot(segment, 1).seq), (0, 1))
            segment.reserve()[:5] = b"ready"
            for _ in range(3):
                segment.warm()
            self.assertEqual((segment.published, futex.call_count), (0, 0))
            segment.commit(5)  # what was reserved has stayed
            self.assertEqual((segment.published, self.payload(segment, 1)), (1, b"ready"))
            self.assertEqual(self.slot(segment, 1).crc32, zlib.crc32(b"ready", 1))
            self.assertEqual(futex.call_count, 1)
            segment.warm()
            segment.send(b"next")
            self.assertEqual((segment.published, self.payload(segment, 2)), (2, b"next"))

    def test_warm_is_the_code_of_a_send(self) -> None:
        """Both go through the very same reserve and commit."""
        segment = self.segment()
        cells = [{cell.cell_contents for cell in call.__closure__ if callable(cell.cell_contents)}
                 for call in (segment.send, segment.warm)]
        self.assertEqual(cells[1], {segment.reserve, segment.commit})
        self.assertLessEqual(cells[1], cells[0])

    def test_commit_waits_until_it_is_due(self) -> None:
        now, seen = self.made_up_clock(step_ns=1000), []
        with mock.patch.object(shmprueba.time, "sleep", lambda s: now.__setitem__(
                0, now[0] + int(s * 1e9))):
            segment = self.segment(idle=lambda: seen.append((now[0], segment.published)))
            due = now[0] + 230 * MS
            segment.send(b"x", due)
            slot = self.slot(segment, 1)
        self.assertEqual((segment.published, slot.due_ns), (1, due))
        self.assertTrue(due <= slot.timestamp_ns <= due + 1000, slot.timestamp_ns - due)
        before = [published for moment, published in seen if moment < due]
        self.assertGreaterEqual(len(before), 4)  # it cared each 50 ms
        self.assertEqual(set(before), {0})
        beats = [moment for moment, _ in seen]
        self.assertLess(max(b - a for a, b in zip(beats, beats[1:])), 51 * MS)

    def test_a_late_message_goes_at_once(self) -> None:
        segment = self.segment()
        with mock.patch.object(segment, "wait_until") as wait:
            segment.send(b"x", 77)
            wait.assert_not_called()
        self.assertEqual(self.slot(segment, 1).due_ns, 77)
        self.assertGreater(self.slot(segment, 1).timestamp_ns, 77)

    def test_the_filling_code_runs_once_a_message(self) -> None:
        """However long it waits: a camera is read once."""
        segment, reads = self.segment(), []
        for n in range(3):
            view = segment.reserve()
            reads.append(n)
            view[0] = n
            segment.commit(1, shmprueba.clock() + 2 * MS)
        self.assertEqual([self.payload(segment, n + 1) for n in reads], [b"\0", b"\1", b"\2"])
        self.assertEqual((reads, segment.published), ([0, 1, 2], 3))

    def test_the_heart_beats_through_slow_messages(self) -> None:
        """Flat out, with messages that take as long as some of 64 MiB."""
        now, ages = self.made_up_clock(), []
        segment = self.segment()
        for _ in range(300):
            view = segment.reserve()
            ages.append(now[0] - segment._words[shmprueba.BEAT_WORD])
            now[0] += 30 * MS
            view[0] = 1
            segment.commit(1)
        self.assertLessEqual(max(ages), (100 - 30) * MS)

    def test_it_tells_on_which_cpu_it_runs(self) -> None:
        segment = self.segment()
        for cpu in (0, 3, -1):
            with mock.patch.object(shmprueba, "current_cpu", lambda: cpu):
                segment.next_care = 0
                segment.care()
            self.assertEqual(segment._ints[shmprueba.CPU_INT], cpu + 1)  # 0: unknown

    def test_a_wake_call_is_made_once_for_a_wish(self) -> None:
        with mock.patch.object(shmprueba, "futex") as futex:
            segment = self.segment(slots=64)
            words, wish = segment._words, segment._down.wish

            def published(wanted: int) -> int:
                """How many wake calls three messages bring."""
                words[wish] = max(wanted, words[wish])
                before = futex.call_count
                for _ in range(3):
                    segment.send(b"")
                return futex.call_count - before

            self.assertEqual(published(0), 0)   # nobody has ever slept
            self.assertEqual(published(4), 1)   # somebody sleeps for message 4
            self.assertEqual(published(4), 0)   # it is killed: nothing to clean
            self.assertEqual(published(10), 1)  # two of them sleep for message 10
            self.assertEqual(published(14), 2)  # wished just before 13: it may not sleep yet
            self.assertEqual(futex.call_args[0][0].value, segment.address + DOWN + HEAD)
            self.assertEqual(futex.call_args[0][1:], (shmprueba.FUTEX_WAKE, 0x7fffffff))
            futex.reset_mock()
            segment.close()
            self.assertEqual(futex.call_args[0][1:], (shmprueba.FUTEX_WAKE, 0x7fffffff))

    def test_the_lateness_of_sleeps(self) -> None:
        """It settles where 3 sleeps in 100 are later, however much later, from 20 to 400 us."""
        for late_ns, settles in ((lambda i: 50 * MS if i % 50 == 7 else 100_000, 100_000),
                                 (lambda i: 0, 20_000), (lambda i: 5 * MS, 400_000)):
            now = self.made_up_clock()
            segment = self.segment()
            sleeps = [0]

            def sleep(seconds: float) -> None:
                now[0] += round(seconds * 1e9) + late_ns(sleeps[0])
                sleeps[0] += 1
            with mock.patch.object(shmprueba.time, "sleep", sleep):
                for _ in range(3000):
                    segment.wait_until(now[0] + MS)
            found = segment._lateness
            self.assertTrue(.8 * settles <= found <= 1.3 * settles, (settles, found))
            segment.close()


class Room(LibraryTest):
    def test_it_is_asked_for_before_anything_is_overwritten(self) -> None:
        segment, asked = self.segment(), []

        def make_room(n: int) -> int:
            asked.append((n, segment.published))
            if n == 7:
                raise Enough
            return n + 2
        segment._make_room = make_room
        with self.assertRaises(Enough):
            for _ in range(99):
                segment.send(b"x")
        self.assertEqual(asked, [(1, 0), (4, 3), (7, 6)])
        self.assertEqual(self.slot(segment, 7).seq, 6)  # still message 3, whole

    def hold(self, segment: Segment, epoch: int, position: int) -> None:
        segment._words[segment._down.place] = epoch << 48 | position
        segment._ints[segment._down.pid] = 4711

    def test_for_whom_room_is_made(self) -> None:
        segment = self.segment(stall_timeout=.05)
        words, down = segment._words, segment._down
        self.role(shmprueba.CONSUMER)
        # Nobody: a claim right after this look may begin with message 9.
        self.assertEqual(segment._make_room(9), 12)
        self.hold(segment, 1, 7)  # it is done with 7
        self.assertEqual(segment.consumer, (1, 4711, 7))
        self.assertEqual(segment._make_room(9), 11)
        self.hold(segment, 1, 5)  # just enough
        self.assertEqual(segment._make_room(9), 9)
        self.hold(segment, 2, 5)  # and has left
        self.assertIsNone(segment.consumer)
        self.assertEqual((segment._make_room(9), segment.taken), (12, 5))
        self.hold(segment, 3, 4)
        words[down.dropped] = 3   # is waited for no longer
        self.assertEqual(segment._make_room(9), 12)
        self.assertEqual((segment.dropped, segment.stalls, segment.taken), (0, 0, 4))
        # Just claiming: may begin anywhere.
        self.hold(segment, 5, CLAIMING)
        self.assertEqual((segment.consumer, segment.taken), ((5, 4711, None), 0))
        self.assertEqual(segment._make_room(9), 12)
        self.assertEqual(segment.why_dropped, "client pid 4711 had not moved for 0.05 s: dropped")
        self.assertEqual((words[down.dropped], segment.dropped, segment.stalls), (5, 1, 1))
        for epoch, position in ((7, 99), (9, 9), (11, 4), (13, 0)):  # lies; in the way
            self.hold(segment, epoch, position)
            self.assertEqual(segment._make_room(9), 12)
            self.assertEqual(words[down.dropped], epoch)
        self.assertEqual(segment.dropped, 5)

    def test_a_claim_that_ends_while_room_is_awaited(self) -> None:
        def settle() -> None:
            if segment.stalls:
                self.hold(segment, 1, 8)
        segment = self.segment(idle=settle)
        self.role(shmprueba.CONSUMER)
        self.hold(segment, 1, CLAIMING)
        self.assertEqual(segment._make_room(9), 12)
        self.assertEqual((segment.dropped, segment.stalls), (0, 1))

    def test_a_dead_consumer_is_dropped_everywhere(self) -> None:
        """Where it is in the way, and where the host only cares."""
        for wait in (lambda: segment._make_room(9), lambda: segment.care(),
                     lambda: segment.receive(0)):
            segment = self.segment(receive=True, stall_timeout=1e6)
            self.hold(segment, 1, 1)
            segment.next_care = 0
            wait()
            self.assertEqual((segment.dropped, segment.why_dropped, segment.consumer),
                             (1, "client pid 4711 died: dropped", None))
            segment.close()

    def test_a_consumer_that_leaves_is_not_called_dead(self) -> None:
        """It leaves between the look at its place and the kernel's answer."""
        segment = self.segment()
        self.hold(segment, 1, 1)

        def held(_role: int) -> bool:
            self.hold(segment, 2, 1)
            return False
        with mock.patch.object(segment._roles, "held", held):
            segment.next_care = 0
            segment.care()
        self.assertEqual((segment.dropped, segment._words[segment._down.dropped]), (0, 0))

    def test_a_slow_consumer_is_no_stalled_one(self) -> None:
        """It moves once in 40 ms: patience begins anew, though it is in the way for 200."""
        now, positions = self.made_up_clock(step_ns=20 * MS), list(range(1, 6))

        def idle() -> None:
            looks[0] += 1
            if looks[0] % 2 == 0 and positions:
                self.hold(segment, 1, positions.pop(0))
        looks = [0]
        segment = self.segment(stall_timeout=.07, idle=idle)
        self.role(shmprueba.CONSUMER)
        self.hold(segment, 1, 0)
        begin = now[0]
        self.assertEqual(segment._make_room(9), 9)
        self.assertEqual((segment.dropped, segment.stalls), (0, 1))
        self.assertGreater(now[0] - begin, 150 * MS)

    def test_a_host_that_was_stopped_blames_nobody(self) -> None:
        """An hour between two looks is 50 ms of its own waking time."""
        now = self.made_up_clock()

        def idle() -> None:
            if segment.stalls:
                now[0] += 3600 * 1000 * MS
                hours.append(now[0])
                if len(hours) == 3:
                    self.hold(segment, 1, 8)
        hours: List[int] = []
        segment = self.segment(stall_timeout=.18, idle=idle)
        self.role(shmprueba.CONSUMER)
        self.hold(segment, 1, 0)
        self.assertEqual(segment._make_room(9), 12)
        self.assertEqual((segment.dropped, len(hours)), (0, 3))
        self.hold(segment, 1, 1)
        hours.extend([0] * 9)  # it does not move any more
        self.assertEqual(segment._make_room(9), 12)
        self.assertEqual((segment.dropped, len(hours)), (1, 12 + 5))


class Receiving(LibraryTest):
    def test_the_same_message_until_it_is_released(self) -> None:
        for wait in ("block", "spin"):
            segment = self.segment(receive=True, wait=wait)
            send, place = self.sender(segment)[0], segment._up.place
            self.assertEqual(segment._words[place], 1 << 48)  # epoch 1, nothing taken
            self.assertIsNone(segment.receive(0))
            for n in range(1, 10):
                send(b"n %d" % n, 5)
                message = segment.receive()
                self.assertIs(segment.receive(0), message)
                self.assertEqual((message.n, message.due_ns, bytes(message.payload)),
                                 (n, 5, b"n %d" % n))
                self.assertEqual(segment._words[place], 1 << 48 | n - 1)
                self.assertTrue(segment.release(message))
                self.assertEqual(segment._words[place], 1 << 48 | n)
                self.fails("usage", "returned last", segment.release, message)
            self.assertIsNone(segment.receive(.001))
            segment.close()

    def test_a_message_that_is_not_whole(self) -> None:
        segment = self.segment(receive=True, crc=True)
        send, reserve, _, _ = self.sender(segment)
        send(b"good")
        message = segment.receive(0)
        for _ in range(4):
            send(b"late")  # a sender that does not wait for room
        self.assertFalse(segment.release(message))
        message = segment.receive(0)
        self.assertEqual(message.n, 2)
        segment._up.memory[8 * segment._up.slot(2) + shmprueba.SLOT_HEAD] ^= 1
        self.assertFalse(segment.release(message))  # the CRC does not match
        message = segment.receive(0)
        reserve()  # message 6, elsewhere
        self.assertTrue(segment.release(message))

    def test_an_impossible_length(self) -> None:
        segment = self.segment(receive=True)
        self.sender(segment)[0](b"x")
        segment._ints[2 * segment._up.slot(1) + 6] = 65
        self.fails("damaged", "message 1 has an impossible length, 65 bytes", segment.receive)

    def test_what_comes_at_the_last_moment(self) -> None:
        """Sent while the time-out is found to be over: it is received, not None."""
        for wait in ("block", "spin"):
            segment = self.segment(receive=True, wait=wait)
            send = self.sender(segment)[0]

            def over(_patience: Patience, _now: int) -> int:
                send(b"late")
                return 10 ** 18
            with mock.patch.object(Patience, "spent", over):
                self.assertEqual(bytes(segment.receive(1.0).payload), b"late")
            segment.close()

    def test_a_head_that_is_seen_before_its_slot(self) -> None:
        """As weakly ordered machines may show it: not there yet, and not lost."""
        segment = self.segment(receive=True)
        self.sender(segment)[0](b"x")
        slot = segment._up.slot(1)
        segment._words[slot] = 1
        self.assertIsNone(segment.receive(0))
        segment._words[slot] = 2
        self.assertEqual(segment.receive(0).n, 1)

    def test_the_next_sender_after_a_death(self) -> None:
        """Killed in the middle of message 2; its successor writes message 2 again."""
        segment = self.segment(receive=True)
        send, reserve, _, _ = self.sender(segment)
        send(b"one")
        reserve()[:4] = b"half"
        self.assertTrue(segment.release(segment.receive(0)))
        self.assertIsNone(segment.receive(0))
        slot = segment._up.slot(2)
        segment._up.memory[8 * slot + 32:8 * slot + 35] = b"two"
        segment._ints[2 * slot + 6], segment._words[slot] = 3, 4
        self.assertIsNone(segment.receive(0))  # head decides
        segment._words[segment._up.head] = 2
        self.assertEqual(bytes(segment.receive(0).payload), b"two")

    def test_at_once(self) -> None:
        """receive(0) never sleeps."""
        for wait in ("block", "spin"):
            segment = self.segment(receive=True, wait=wait)
            with mock.patch.object(shmprueba, "futex") as futex, \
                    mock.patch.object(shmprueba.time, "sleep") as nap:
                self.assertIsNone(segment.receive(0))
                futex.assert_not_called()
                nap.assert_not_called()
            segment.close()

    def test_a_closed_one_is_refused(self) -> None:
        segment = self.segment(receive=True)
        reader = Reader(self.name)
        segment.close()
        reader.close()
        for verb in (segment.reserve, segment.warm, segment.receive, lambda: segment.send(b"x"),
                     lambda: segment.commit(1), lambda: segment.release(None), segment.care,
                     reader.receive):
            self.fails("usage", "closed", verb)
        self.assertFalse(segment.sending)

    def test_a_payload_that_its_user_releases(self) -> None:
        segment = self.segment(crc=True, receive=True)
        send, reader = self.sender(segment)[0], self.reader(lane=shmprueba.UP)
        for n in range(1, 6):
            send(b"x")
            for message, done in ((segment.receive(0), segment.release),
                                  (reader.receive(0), reader.confirm)):
                message.payload.release()
                self.assertTrue(done(message))
        self.fails("usage", "receive returned last", segment.release, segment.receive(0))

    def test_a_length_that_comes_late(self) -> None:
        """The CRC is of the payload as its user saw it. Machines whose order is not proved have it
        for this: 5 bytes were read, and then the real length, 11, becomes visible."""
        segment = self.segment(crc=True)
        reader = self.reader()
        segment.send(b"hello world")
        at = 4 * (2 * segment._down.slot(1) + 6)
        self.poke(at, (5).to_bytes(4, sys.byteorder))
        message = reader.receive(0)
        self.assertEqual(bytes(message.payload), b"hello")
        self.poke(at, (11).to_bytes(4, sys.byteorder))
        self.assertFalse(reader.confirm(message))
        self.assertTrue(reader.confirm(segment._down.message(1, segment._down.slot(1))))

    def test_without_receive_nobody_receives(self) -> None:
        segment = self.segment()
        self.fails("usage", r"receive=True", segment.receive)
        self.fails("usage", r"receive=True", segment.release, shmprueba.Message())
        other = Roles(shmprueba.open_object("/" + self.name, os.O_RDWR))
        self.addCleanup(other.close)
        self.assertFalse(other.held(shmprueba.RECEIVER))
        self.assertEqual(segment._words[segment._up.place], 0)

    def test_is_anybody_sending(self) -> None:
        segment = self.segment(receive=True)
        self.assertFalse(segment.sending)
        sender = self.role(shmprueba.SENDER)
        self.assertTrue(segment.sending)
        os.close(sender.fd)  # as the kernel does when it dies
        sender.fd = os.dup(0)
        self.assertFalse(segment.sending)

    def test_the_hosts_own_sleep(self) -> None:
        """It wishes before it looks, and never sleeps on a message that is there."""
        segment = self.segment(receive=True)
        up, words, send = segment._up, segment._words, self.sender(segment)[0]
        with mock.patch.object(shmprueba, "futex", return_value=errno.ETIMEDOUT) as futex:
            send(b"x")
            self.assertFalse(shmprueba.lane_sleep(segment, up, 1, 50_000_000))
            futex.assert_not_called()
            self.assertFalse(shmprueba.lane_sleep(segment, up, 2, 50_000_000))  # nothing came
            self.assertEqual(words[up.wish], 2)
            address, operation, value, _ns = futex.call_args[0]
            self.assertEqual((address.value, operation, value),
                             (segment.address + UP + HEAD, shmprueba.FUTEX_WAIT, 1))
        with mock.patch.object(shmprueba, "futex", lambda *_call: errno.ENOSYS), \
                mock.patch.object(shmprueba.time, "sleep") as nap:
            self.assertFalse(shmprueba.lane_sleep(segment, up, 2, 50_000_000))
            nap.assert_called_once()

    def test_a_missed_wake_up_is_one_before_the_sleeps_end(self) -> None:
        """A message that was published well before the sleep should have ended, and did not end
        it. A CPU that came late, by a second here, is no missed wake-up."""
        for before_end, result, missed in (
                (20 * MS, errno.ETIMEDOUT, True), (5 * MS, errno.ETIMEDOUT, False),
                (-900 * MS, errno.ETIMEDOUT, False), (20 * MS, 0, False),
                (20 * MS, errno.EAGAIN, False), (20 * MS, errno.EINTR, False)):
            with self.subTest(before_end=before_end, result=result):
                now = self.made_up_clock()
                segment = self.segment(receive=True)
                send = self.sender(segment)[0]
                end = now[0] + 50 * MS

                def sleep(*call) -> int:
                    if call[1] is shmprueba.FUTEX_WAKE:
                        return 0
                    now[0] = end - before_end
                    send(b"x")
                    now[0] = end + 1000 * MS
                    return result
                with mock.patch.object(shmprueba, "futex", sleep):
                    self.assertEqual(segment.receive(10).n, 1)
                self.assertEqual(segment.missed_wakeups, missed)
                segment.close()

    def test_two_threads_wake_each_other(self) -> None:
        """With the real futex: one sleeps, the other sends; no wake-up is missed."""
        segment = self.segment(receive=True)
        send, count = self.sender(segment)[0], 200

        def run() -> None:
            for n in range(1, count + 1):
                while segment._words[segment._up.wish] < n:
                    time.sleep(0)
                send(b"%d" % n)
        thread = threading.Thread(target=run, daemon=True)
        thread.start()
        for n in range(1, count + 1):
            message = segment.receive(60)
            self.assertEqual(bytes(message.payload), b"%d" % n)
            self.assertTrue(segment.release(message))
            if segment._words[segment._up.wish] <= n:  # it was awake: let it sleep for the next
                segment._words[segment._up.wish] = n
        thread.join()
        self.assertEqual(segment.missed_wakeups, 0)


class Ends(LibraryTest):
    """Each wait can be ended; each state that cannot end by itself ends the program."""

    def test_what_idle_raises_ends_each_wait(self) -> None:
        for wait in ("block", "spin"):
            armed = [False]

            def idle() -> None:
                if armed[0]:
                    raise Enough
            segment = self.segment(receive=True, wait=wait, idle=idle, stall_timeout=1e6)
            self.role(shmprueba.CONSUMER)
            segment.send(b"x")
            segment._words[segment._down.place] = 1 << 48  # in the way of message 5
            for _ in range(3):
                segment.send(b"x")
            armed[0] = True
            with self.assertRaises(Enough):
                segment.receive(1e6)
            for waits in (segment.reserve, segment.warm, lambda: segment.send(b"y"), segment.care):
                with self.assertRaises(Enough):
                    waits()
            self.assertEqual((segment.published, self.slot(segment, 1).seq), (4, 2))  # still whole
            segment._words[segment._down.place] = 2 << 48
            later = shmprueba.clock() + 10 ** 15
            with self.assertRaises(Enough):
                segment.wait_until(later)
            with self.assertRaises(Enough):
                segment.send(b"y", later)
            self.assertEqual(segment.published, 4)
            armed[0] = False
            segment.commit(1)  # what could not be published stays reserved
            self.assertEqual((segment.published, self.payload(segment, 5)), (5, b"y"))
            segment.close()

    def test_its_name_is_gone(self) -> None:
        """Looked at once a second; another object of that name is not its own."""
        for replace in (False, True):
            now = self.made_up_clock()
            segment = self.segment()
            segment.care()
            os.unlink("/dev/shm/" + self.name)
            if replace:
                with open("/dev/shm/" + self.name, "wb") as other:
                    other.write(bytes(segment.total))
            segment.care()
            now[0] += 1000 * MS
            self.fails("gone", "its name is gone.*RemoveIPC.*start it again", segment.care)
            segment.close()
            self.assertEqual(self.segment_exists(), replace)  # it touches only what is its own
            if replace:
                os.unlink("/dev/shm/" + self.name)

    def test_it_closes_twice(self) -> None:
        segment = self.segment()
        segment.send(b"x")
        segment.close()
        segment.close()
        self.assertFalse(self.segment_exists())
        self.assertEqual(segment.published, 1)  # what a summary shows

    def test_the_same_name_again_and_again(self) -> None:
        sessions = set()
        for n in range(20):
            with Segment(self.name) as segment:
                self.assertEqual((segment.replaced, segment.published), ("", 0))
                sessions.add(segment.session)
                self.assertEqual(self.peek_word(SESSION), segment.session)
        self.assertEqual(len(sessions), 20)

    def test_a_second_segment_in_this_process(self) -> None:
        segment = self.segment()
        self.fails("in_use", "another host of this name is running", Segment, self.name)
        segment.send(b"x")
        with Reader(self.name):
            self.assertTrue(self.segment_exists())

    def test_what_is_closed_holds_nothing(self) -> None:
        """No memory and no descriptor, though the object is still there, as in a list of them."""
        def held() -> Tuple[int, int]:
            with open("/proc/self/maps") as maps:
                return maps.read().count("/" + self.name), len(os.listdir("/proc/self/fd"))
        with Segment(self.name):
            pass  # the resource tracker's pipe
        gc.collect()
        gc.disable()
        self.addCleanup(gc.enable)
        before = held()
        with Segment(self.name, receive=True) as segment, Reader(self.name) as reader:
            segment.send(b"x")
            self.assertTrue(reader.confirm(reader.receive(0)))
            self.assertGreater(held(), before)
        self.assertEqual(held(), before)
        self.assertEqual((segment.published, segment.attached, segment.consumer), (1, 0, None))
        segment.drop("is dropped", shmprueba.Consumer(1, 0, 0))  # it is closed: no error
        self.fails("usage", "closed", reader.confirm, None)

    def test_ctrl_c_in_the_constructor(self) -> None:
        """Also after the object was created: nothing is left, and the name is free."""
        for step in ("Lane", "make_producer", "make_receiver", "clock"):
            with self.subTest(step), mock.patch.object(shmprueba, step,
                                                       side_effect=KeyboardInterrupt):
                self.assertRaises(KeyboardInterrupt, Segment, self.name, receive=True)
            self.assertFalse(self.segment_exists())
            Segment(self.name).close()

    def test_descriptors_are_given_back(self) -> None:
        def count() -> int:
            return len(os.listdir("/proc/self/fd"))
        with Segment(self.name), Reader(self.name):
            pass  # the resource tracker's pipe
        gc.collect()
        before = count()
        for _ in range(10):
            with Segment(self.name, receive=True) as segment, Reader(self.name):
                self.fails("in_use", "another", Segment, self.name)
            self.fails("absent", "no host", Reader, self.name, timeout=0)
            self.fails("usage", "size", Segment, self.name, size=0)
            with Segment(self.name):
                Reader(self.name)  # its user forgets to close it
        del segment
        gc.collect()  # a map goes with the last view, and a segment is a circle
        self.assertEqual(count(), before)


class Reading(LibraryTest):
    def numbers(self, reader: Reader) -> List[int]:
        """Of all that is there now."""
        found = []
        while True:
            message = reader.receive(0)
            if not message:
                return found
            found.append(int(bytes(message.payload)))
            self.assertEqual(found[-1], message.n)
            self.assertTrue(reader.confirm(message))

    @staticmethod
    def publish(segment: Segment, first: int, last: int) -> None:
        for n in range(first, last + 1):
            segment.send(b"%d" % n)

    def test_a_time_out_that_is_no_number(self) -> None:
        """It is over at once, not never."""
        nan = float("nan")
        self.fails("absent", "no host", Reader, self.name, nan)
        for wait in ("spin", "block"):
            segment = self.segment(receive=True, wait=wait)
            self.assertIsNone(segment.receive(nan))
            self.assertIsNone(self.reader().receive(nan))
            segment.close()

    def test_it_begins_with_what_is_published_next(self) -> None:
        segment = self.segment()
        self.publish(segment, 1, 3)
        reader = self.reader()
        self.assertIsNone(reader.receive(0))
        self.publish(segment, 4, 6)
        self.assertEqual((self.numbers(reader), reader.lost, reader.skipped), ([4, 5, 6], 0, 0))
        self.assertEqual((reader.session, reader.schema), (segment.session, ""))

    def test_a_lap_is_lost_exactly(self) -> None:
        """It goes on half a ring behind head, and counts each message that it missed."""
        for slots in (2, 4, 8, 64):
            segment = self.segment(slots=slots)
            reader = self.reader()
            self.publish(segment, 1, slots)  # none is overwritten
            self.assertEqual((self.numbers(reader), reader.lost), ([*range(1, slots + 1)], 0))
            for more in (slots + 1, 2 * slots, 10 * slots + 1):
                first, lost = segment.published + 1, reader.lost
                self.publish(segment, first, segment.published + more)
                head = segment.published
                self.assertEqual(self.numbers(reader), [*range(head - slots // 2 + 1, head + 1)])
                self.assertEqual(reader.lost - lost, more - slots // 2)
            segment.close()

    def test_a_lap_by_the_message_that_is_being_written(self) -> None:
        segment = self.segment(slots=8)
        reader = self.reader()
        self.publish(segment, 1, 8)
        segment.reserve()  # message 9, over message 1
        self.assertEqual((self.numbers(reader), reader.lost), ([5, 6, 7, 8], 4))
        self.assertIsNone(reader.receive(0))
        segment.commit(0)
        self.assertEqual(reader.receive(0).n, 9)

    def test_newest(self) -> None:
        segment = self.segment(slots=8)
        reader = self.reader(newest=True)
        self.publish(segment, 1, 5)
        self.assertEqual((self.numbers(reader), reader.skipped, reader.lost), ([5], 4, 0))
        self.publish(segment, 6, 6)
        self.assertEqual((self.numbers(reader), reader.skipped), ([6], 4))
        self.publish(segment, 7, 1000)  # many laps: skipped, not lost
        self.assertEqual((self.numbers(reader), reader.skipped, reader.lost), ([1000], 997, 0))
        segment.reserve()
        self.assertIsNone(reader.receive(0))

    def test_newest_that_is_lapped_between_two_looks(self) -> None:
        """After it has loaded head, a whole ring is published: it looks again."""
        segment = self.segment(slots=4)
        reader = self.reader(newest=True)
        self.publish(segment, 1, 2)
        lane, armed = reader._lane, [True]
        slot_of = lane.slot

        def slot(n: int) -> int:
            if armed.pop() if armed else False:
                self.publish(segment, 3, 9)
            return slot_of(n)
        with mock.patch.object(lane, "slot", slot):
            message = reader.receive(0)
        self.assertEqual((message.n, bytes(message.payload)), (9, b"9"))
        self.assertEqual(reader.lost + reader.skipped, 8)

    def test_a_message_that_is_torn_while_it_is_used(self) -> None:
        for tear in (lambda: self.publish(segment, 2, 5),                   # overwritten
                     lambda: (self.publish(segment, 2, 4), segment.reserve()),  # just being so
                     lambda: self.publish(segment, 2, 99)):
            segment = self.segment()
            reader = self.reader()
            segment.send(b"1")
            message = reader.receive(0)
            self.assertEqual(bytes(message.payload), b"1")
            tear()
            self.assertEqual((reader.confirm(message), reader.lost), (False, 1))
            segment.close()

    def test_a_message_that_is_still_whole(self) -> None:
        segment = self.segment()
        reader = self.reader()
        segment.send(b"1")
        message = reader.receive(0)
        self.publish(segment, 2, 4)
        self.assertEqual((reader.confirm(message), reader.lost), (True, 0))

    def test_crc(self) -> None:
        segment = self.segment(crc=True)
        reader = self.reader()
        for damage in (False, True):
            segment.send(b"x")
            if damage:
                segment._down.memory[8 * segment._down.slot(2) + 32] ^= 1
            self.assertEqual(reader.confirm(reader.receive(0)), not damage)
        self.assertEqual(reader.lost, 1)

    def test_a_damaged_head(self) -> None:
        """cliente_c ends with 5; here it is no silence."""
        for at_attach, later in ((1 << 48, 1 << 48), ((1 << 64) - 1,) * 2, (3, 1 << 48), (3, 1)):
            with self.subTest(at_attach=at_attach, later=later):
                segment = self.segment()
                self.publish(segment, 1, 3)
                segment._words[segment._down.head] = at_attach
                reader = self.reader()
                segment._words[segment._down.head] = later
                self.fails("damaged", "no host moves head", reader.receive, 1.0)
                segment.close()

    def test_an_impossible_length(self) -> None:
        segment = self.segment()
        reader = self.reader()
        segment.send(b"x")
        segment._ints[2 * segment._down.slot(1) + 6] = 1 << 31
        self.fails("damaged", "message 1 has an impossible length", reader.receive, 0)

    def test_a_head_that_is_seen_before_its_slot(self) -> None:
        segment = self.segment()
        reader = self.reader()
        segment.send(b"x")
        segment._words[segment._down.slot(1)] = 1
        self.assertIsNone(reader.receive(0))
        self.assertEqual(reader.lost, 0)
        segment._words[segment._down.slot(1)] = 2
        self.assertEqual(reader.receive(0).n, 1)

    def test_it_writes_nothing(self) -> None:
        segment = self.segment()
        with open("/dev/shm/" + self.name, "rb") as file:
            before = file.read(SLOTS)
        reader = self.reader()
        self.assertIsNone(reader.receive(0))
        with open("/dev/shm/" + self.name, "rb") as file:
            after = file.read(SLOTS)
        beat = slice(STATE, STATE + 16)
        self.assertEqual(before[:beat.start] + before[beat.stop:],
                         after[:beat.start] + after[beat.stop:])
        segment.send(b"x")
        message = reader.receive(0)
        self.assertTrue(message.payload.readonly)
        with self.assertRaises(TypeError):
            message.payload[0] = 0
        self.assertEqual(segment.attached, 0)

    def test_the_up_lane(self) -> None:
        segment = self.segment(receive=True)
        reader = self.reader(lane=shmprueba.UP)
        self.sender(segment)[0](b"up")
        segment.send(b"down")
        self.assertEqual(bytes(reader.receive(0).payload), b"up")
        self.assertTrue(segment.release(segment.receive(0)))

    def test_how_it_ends(self) -> None:
        segment = self.segment()
        reader = self.reader(timeout=.01)
        self.publish(segment, 1, 2)
        messages = iter(reader)
        self.assertEqual([next(messages).n, next(messages).n], [1, 2])
        self.assertEqual((reader.receive(.01), reader.closed), (None, False))
        self.fails("silent", "lives, but sent nothing for 0.01 s", next, iter(reader))
        self.publish(segment, 3, 4)
        segment.close()
        self.assertEqual([message.n for message in reader], [3, 4])
        self.assertEqual((reader.receive(1e6), reader.closed), (None, True))
        segment = self.segment()
        reader = self.reader(timeout=1e6)
        self.publish(segment, 1, 2)
        segment._forget()  # as a killed host leaves it: no role is held, and it is not closed
        words = bytes(segment._down.memory[:shmprueba.HEADER_SIZE])
        segment._words[segment._down.place] = 1 << 48
        segment.drop("is the parent's", shmprueba.Consumer(1, 0, 0))  # as in a forked child
        segment._words[segment._down.place] = 0
        self.assertEqual(bytes(segment._down.memory[:shmprueba.HEADER_SIZE]), words)
        found = []
        with self.assertRaisesRegex(Error, "its host died; start it again") as died:
            for message in reader:
                found.append(message.n)
        self.assertEqual((died.exception.kind, found, reader.closed), ("died", [1, 2], False))
        self.fails("died", "its host died and left it", Reader, self.name, timeout=0)
        segment._ints[shmprueba.STATE_INT] = shmprueba.CLOSED  # killed before it could unlink
        self.fails("absent", "its host has ended", Reader, self.name, timeout=0)

    def test_silent_or_stalled(self) -> None:
        """Its heartbeat tells which."""
        now = self.made_up_clock()
        segment = self.segment()
        for beats_ns, words in ((4000 * MS, "its host lives, but sent nothing for 4 s"),
                                (3500 * MS, "its host lives, but sent nothing for 4 s"),
                                (1500 * MS, "its host is stalled"), (0, "its host is stalled")):
            end = now[0] + beats_ns

            def sleep(_seconds: float) -> None:
                now[0] += 20 * MS
                if now[0] < end:
                    segment.care()
            with mock.patch.object(shmprueba.time, "sleep", sleep):
                self.fails("silent", words, next, iter(self.reader(timeout=4.0)))

    def test_what_is_published_just_before_the_end(self) -> None:
        """After the last look at head, before the look at the state: it is read all the same."""
        segment = self.segment()
        reader = self.reader()
        held = reader._roles.held

        def late(role: int) -> bool:
            if not segment.published:
                self.publish(segment, 1, 2)
                segment.close()  # it did not die: CLOSED is loaded after the kernel was asked
            return held(role)
        reader._roles.held = late
        self.assertEqual([message.n for message in reader], [1, 2])
        self.assertTrue(reader.closed)

    def test_what_is_published_as_the_time_is_over(self) -> None:
        """And the host closes at once: it is read all the same."""
        segment = self.segment()
        reader = self.reader(timeout=0)
        ints = reader._lane.ints

        class Late:
            def __getitem__(_self, at: int) -> int:
                if not segment.published:
                    self.publish(segment, 1, 2)
                    segment.close()
                return ints[at]
        reader._lane.ints = Late()
        self.assertEqual([message.n for message in reader], [1, 2])

    @unittest.skipUnless(sys.platform.startswith("linux"), "needs /proc")
    def test_a_reader_that_fails_to_attach_leaves_no_descriptor(self) -> None:
        self.segment()
        before = os.listdir("/proc/self/fd")
        with mock.patch.object(shmprueba.mmap, "mmap", side_effect=OSError(errno.ENOMEM, "full")):
            self.fails("system", "cannot attach", Reader, self.name, 0)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    @unittest.skipUnless(sys.platform.startswith("linux"), "needs memfd_create")
    def test_an_empty_object_where_it_cannot_be_read(self) -> None:
        """As on macOS: its host has just created it."""
        with open(os.memfd_create("empty"), "rb") as empty, \
                mock.patch.object(shmprueba, "LOCK_FILE", True), \
                mock.patch.object(shmprueba.os, "pread", side_effect=OSError):
            self.assertEqual(shmprueba.read_header(empty.fileno()), (0, bytes(512)))

    def test_an_exception_between_the_halves_of_a_fence(self) -> None:
        """Ctrl-C while it waits: the next wait finds nothing spoilt."""
        armed: List[bool] = []

        def interrupted() -> None:
            if armed:
                armed.clear()
                raise KeyboardInterrupt

        with self.locks_that_call(interrupted):
            self.segment()
            armed.append(True)
            reader = self.reader()
            with self.assertRaises(KeyboardInterrupt):
                reader.receive(0)
            self.assertIsNone(reader.receive(0))

    def test_a_reader_that_was_stopped(self) -> None:
        """An hour between two looks is 200 ms of its own waking time, for it and its time-out."""
        now, naps = self.made_up_clock(), []

        def nap(_seconds: float) -> None:
            naps.append(now[0])
            now[0] += 3600 * 1000 * MS
            if len(naps) == 3:
                segment.send(b"x")
        segment = self.segment()
        reader = self.reader()
        with mock.patch.object(shmprueba.time, "sleep", nap):
            self.assertEqual(reader.receive(1.0).n, 1)
            self.assertIsNone(reader.receive(1.0))
        self.assertEqual(len(naps), 3 + 5)

    def test_what_comes_at_the_last_moment(self) -> None:
        segment = self.segment()
        reader = self.reader()

        def over(_patience: Patience, _now: int) -> int:
            segment.send(b"late")
            return 10 ** 18
        with mock.patch.object(Patience, "spent", over):
            self.assertEqual(bytes(reader.receive(1.0).payload), b"late")

    def test_a_segment_that_is_refused(self) -> None:
        for at, value, words in (
                (0, b"NOTOURS!", "not made by shmprueba"),
                (8, (1).to_bytes(4, sys.byteorder), "version 1, this reads 2"),
                (12, bytes(4), "values"), (16, bytes(8), "values"), (24, b"\3\0\0\0", "values"),
                (24, bytes(4), "values"), (24, b"\0\0\2\0", "values"), (28, bytes(4), "values"),
                (28, (127).to_bytes(4, sys.byteorder), "values"), (32, bytes(4), "values"),
                (32, (97).to_bytes(4, sys.byteorder), "values"),
                (16, (1 << 40).to_bytes(8, sys.byteorder), "values"), (36, b"\2", "values"),
                (40, bytes(8), "values"), (48, bytes(8), "values"), (55, b"\1", "values"),
                (56, b"\1", "values"), (64, b"a", "values"), (64, b"a:d b:\n", "values"),
                (64, b"a" * 448, "values"), (64, b"a:97s", "values"), (STATE, b"\3", "values")):
            with self.subTest(at=at, value=value):
                segment = self.segment()
                self.poke(at, value)
                self.fails("refused", words, Reader, self.name, timeout=1e6)
                segment.close()
        segment = self.segment()
        os.truncate("/dev/shm/" + self.name, SLOTS)
        self.fails("refused", "values", Reader, self.name, timeout=1e6)
        segment.close()
        for foreign in (b"hello", b"text" * 125, bytes(500), b"JUNKJUNK" + bytes(9000),
                        b"SHMPRUEB\1\0\0\0" + bytes(9000), b"\0HMPRUEB" + bytes(9000)):
            with self.subTest(foreign=foreign[:12]):  # its word at 512 is 0, as of a host's start
                with open("/dev/shm/" + self.name, "wb") as file:
                    file.write(foreign)
                self.fails("refused", "refused", Reader, self.name, timeout=1e6)
        os.unlink("/dev/shm/" + self.name)
        os.mkdir("/dev/shm/" + self.name)
        self.fails("refused", "not a shared memory object", Reader, self.name, timeout=1e6)
        os.rmdir("/dev/shm/" + self.name)
        os.symlink("/etc/passwd", "/dev/shm/" + self.name)
        self.fails("refused", "link", Reader, self.name, timeout=1e6)

    def test_another_schema(self) -> None:
        made = type("Tick", (ctypes.Structure,), {
            "_fields_": [("price", ctypes.c_double), ("symbol", ctypes.c_char * 8)]})
        for schema in (made, "price:d symbol:8s"):
            with Segment(self.name, schema=schema):
                for same in (made, "price:d symbol:8s", None):
                    self.assertEqual(self.reader(schema=same).schema, "price:d symbol:8s")
                for other in ("price:f symbol:12s", "symbol:8s price:d", ""):
                    self.fails("refused", f"'price:d symbol:8s'.*{other!r}", Reader, self.name,
                               schema=other, timeout=1e6)

    def test_a_host_that_starts_meanwhile(self) -> None:
        """Looked at in each state of its start, it is absent, and then there; never refused."""
        segment = self.segment()
        segment._ints[shmprueba.STATE_INT] = 0
        self.fails("absent", "not finished starting", Reader, self.name, timeout=0)
        with open("/dev/shm/" + self.name, "rb") as file:
            header = file.read(512)
        pread, reads = os.pread, []

        def late(fd: int, count: int, at: int) -> bytes:
            """It goes LIVE in the middle of a copy: what is after the state is new, what is before
            it is old. A copy may be cut there, or between two calls."""
            self.poke(0, bytes(512))
            old = pread(fd, count, at)
            self.poke(0, header)
            self.poke(STATE, (1).to_bytes(4, sys.byteorder))
            new = pread(fd, count, at)
            reads.append((at, count))
            cut = min(max(STATE - at, 0), count)
            return old[:cut] + new[cut:] if len(reads) == 1 else new
        with mock.patch.object(os, "pread", late):
            self.reader(timeout=60)
        self.assertGreater(len(reads), 0)

    def test_it_waits_for_its_host(self) -> None:
        made: List[Segment] = []

        def nap(_seconds: float) -> None:
            if not made:
                made.append(self.segment())
        with mock.patch.object(shmprueba.time, "sleep", nap):
            reader = self.reader(timeout=1e6)
        made[0].send(b"x")
        self.assertEqual(reader.receive(0).n, 1)

    def test_views_outlive_it(self) -> None:
        with Segment(self.name) as segment:
            with Reader(self.name) as reader:
                segment.send(b"payload")
                message = reader.receive(0)
        self.assertEqual(bytes(message.payload), b"payload")


class Waking(unittest.TestCase):
    """One rule for every patience and time-out: the time in which a process was awake to look."""

    def test_each_step_counts_so_much_at_most(self) -> None:
        with mock.patch.object(shmprueba, "clock", lambda: 1000):
            for patience, most in ((Patience(), 50 * MS), (Patience(200 * MS), 200 * MS)):
                self.assertEqual([patience.spent(1000), patience.spent(1000 + 3 * MS)], [0, 3 * MS])
                self.assertEqual(patience.spent(10 ** 15), 3 * MS + most)
                self.assertEqual(patience.spent(10 ** 15 + 1), 3 * MS + most + 1)


if __name__ == "__main__":
    unittest.main()
