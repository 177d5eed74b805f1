"""host.py's writer, step by step in this process: what is in the segment at each of them."""
import contextlib
import errno
import io
import os
import subprocess
import unittest
from unittest import mock

from support import PairTest
import host


class Writer(PairTest):
    def product(self, *options: str) -> host.Keeper:
        """A host with its segment, as run() makes it, but no job yet."""
        parsed = host.parse_options(["--name", self.name, "--quiet", *options])
        segment = host.Segment(parsed.name, parsed.size, parsed.slots, host.RAW, parsed.crc)
        self.addCleanup(segment.unmap)
        self.addCleanup(lambda: os.path.exists(segment.lock_path) and segment.end())
        segment.go_live()
        return host.Keeper(parsed, segment)

    def slot(self, product: host.Keeper, n: int) -> host.Slot:
        at = product.down.slot_at(n)
        return host.Slot.from_buffer_copy(product.segment.memory[at:at + host.SLOT_HEAD])

    def test_the_slot_is_marked_while_it_is_filled(self) -> None:
        product, seen = self.product("--slots", "4"), []
        publish, words = product.down.writer(product.make_room), product.words

        def fill(at: int, n: int) -> None:
            seen.append((n, words[(at - 24) // 8], words[product.down.head]))
            ints = product.segment.ints
            ints[at // 4], ints[at // 4 + 1] = 3, n  # length, and where the CRC would stand
            product.segment.memory[at + 8:at + 11] = bytes([n] * 3)

        for last in (0, 0, 9):  # one call for one message, or for many
            publish(fill, 0, last)
        self.assertEqual(seen, [(n, 2 * n - 1, n - 1) for n in range(1, 10)])
        self.assertEqual(words[product.down.head], 9)
        for n in range(6, 10):
            slot = self.slot(product, n)
            self.assertEqual((slot.seq, slot.length, slot.crc32, slot.due_ns),
                             (2 * n, 3, n, slot.timestamp_ns))
            at = product.down.slot_at(n) + host.SLOT_HEAD
            self.assertEqual(bytes(product.segment.memory[at:at + 3]), bytes([n] * 3))
        publish(fill, 77)  # late
        self.assertEqual(self.slot(product, 10).due_ns, 77)
        self.assertGreater(self.slot(product, 10).timestamp_ns, 77)

    def test_it_rehearses_until_the_message_is_due(self) -> None:
        """All but the last two stores, as long as twice the last rehearsal fits; then the clock."""
        product, now, seen = self.product("--slots", "4"), [1000], []
        words = product.words

        def tick() -> int:
            now[0] += 1
            return now[0]

        def fill(at: int, n: int) -> None:
            seen.append((n, words[(at - 24) // 8], words[product.down.head]))
            now[0] += 100

        with mock.patch.object(host, "clock", tick):
            publish = product.down.writer(product.make_room)
            begin = publish(fill, 2000)
            slot, rehearsals = self.slot(product, 1), len(seen)
            publish(fill, now[0] - 5)  # late already: no rehearsal
        self.assertEqual(seen[:rehearsals], [(1, 1, 0)] * rehearsals)
        self.assertEqual(seen[rehearsals:], [(2, 3, 1)])
        self.assertTrue(7 <= rehearsals <= 9, rehearsals)  # of 101 ns, in 1000
        self.assertEqual((slot.seq, slot.due_ns, slot.timestamp_ns), (2, 2000, 2000))
        self.assertTrue(1890 <= begin <= 1900, begin)  # as if the last one had ended just in time

    def test_nothing_to_publish(self) -> None:
        """What fill raises comes through; the message is not there, and the next one is it."""
        product = self.product("--slots", "4")
        publish, numbers = product.down.writer(product.make_room), []

        def fill(_at: int, n: int) -> None:
            numbers.append(n)
            if len(numbers) in (2, 3):
                raise EOFError

        publish(fill)
        for _ in range(2):
            with self.assertRaises(EOFError):
                publish(fill, 0, 5)
            self.assertEqual(product.words[product.down.head], 1)
        publish(fill)
        self.assertEqual(numbers, [1, 2, 2, 2])
        self.assertEqual((product.words[product.down.head], self.slot(product, 2).seq), (2, 4))

    def test_room_is_asked_for_before_anything_is_overwritten(self) -> None:
        product, asked = self.product("--slots", "4"), []

        def make_room(n: int) -> int:
            asked.append((n, product.words[product.down.head]))
            if n == 8:
                raise host.Ended
            return n + 2

        publish = product.down.writer(make_room, 1)
        with self.assertRaises(host.Ended):
            publish(lambda _at, _n: None, 0, 99)
        self.assertEqual(asked, [(2, 0), (5, 4), (8, 7)])
        self.assertEqual(self.slot(product, 8).seq, 8)  # still message 4, whole

    def test_for_whom_room_is_made(self) -> None:
        product = self.product("--slots", "4", "--stall-timeout", "0.05")
        words, down = product.words, product.down

        def hold(generation: int, position: int) -> None:
            words[down.place] = generation << 48 | position
            words[down.holder] = generation << 32 | os.getpid()

        # Nobody: who claims right behind this look may begin with message 9.
        self.assertEqual(product.make_room(9), 12)
        hold(1, 7)  # he is done with 7
        self.assertEqual(product.make_room(9), 11)
        hold(2, 7)  # and has left
        self.assertEqual(product.make_room(9), 12)
        hold(3, 8)
        words[down.dropped] = 3  # is waited for no longer
        self.assertEqual(product.make_room(9), 12)
        # Just claiming: may begin anywhere, and has not said in holder yet who he is.
        words[down.place] = 5 << 48 | host.CLAIMING | os.getpid()
        with contextlib.redirect_stderr(io.StringIO()) as said:
            self.assertEqual(product.make_room(9), 12)
        self.one_line(said.getvalue(), f"pid {os.getpid()} had not moved for 0.05 s: dropped")
        self.assertEqual((words[down.dropped], product.dropped, product.stalls), (5, 1, 1))
        hold(7, 99)  # ahead of us, which no client is
        with contextlib.redirect_stderr(io.StringIO()):
            self.assertEqual(product.make_room(9), 12)
        self.assertEqual(words[down.dropped], 7)

    def test_a_wake_call_is_made_once_for_a_wish(self) -> None:
        for barrier in (True, False):
            with self.subTest(barrier=barrier), \
                    mock.patch.object(host, "register_barrier", lambda: barrier), \
                    mock.patch.object(host, "FUTEX", 1), \
                    mock.patch.object(host, "futex") as futex:
                product = self.product("--slots", "64")
                down, words = product.down, product.words
                fences = [mock.Mock(), mock.Mock()]
                down.fence = tuple(fences)
                publish = down.writer(lambda n: n + 63)

                def published(wish: int) -> int:
                    """How many wake calls three messages bring."""
                    words[down.wish] = max(wish, words[down.wish])
                    before = futex.call_count
                    for _ in range(3):
                        publish(lambda _at, _n: None)
                    return futex.call_count - before

                self.assertEqual(published(0), 0)   # nobody has ever slept
                self.assertEqual(published(4), 1)   # somebody sleeps for message 4
                self.assertEqual(published(4), 0)   # who is killed leaves nothing to clean
                self.assertEqual(published(10), 1)  # two of them sleep for message 10
                self.assertEqual(published(14), 2)  # wished just before 13: he may not sleep yet
                # As many fences as messages, or none: then the sleeper's is for both.
                wanted = 0 if barrier else 15
                if not host.WEAK:
                    self.assertEqual([fence.call_count for fence in fences], [wanted] * 2)
                futex.reset_mock()
                down.segment.end()
                self.assertEqual(futex.call_args[0][1:], (host.FUTEX_WAKE, 0x7fffffff))

    def test_the_hosts_own_sleep(self) -> None:
        """It wishes before it looks, never sleeps on a message that is there, and counts the
        wake-up that did not come."""
        product = self.product("--slots", "4")
        up, words = product.up, product.words
        send = up.writer(lambda n: n + 3)

        def late(*_call) -> int:
            self.assertEqual(words[up.wish], words[up.head] + 1)
            send(lambda _at, _n: None)
            words[up.slot_at(words[up.head]) // 8 + 1] -= 20_000_000  # 20 ms ago
            return errno.ETIMEDOUT

        with mock.patch.object(host, "futex", lambda *call: late(*call)
                               if call[1] == host.FUTEX_WAIT else 0):
            up.sleep(1)
            self.assertEqual(up.missed_wakeups, 1)
            up.sleep(1)  # is there: no call, or another message would come
            self.assertEqual(words[up.head], 1)
        with mock.patch.object(host, "futex", lambda *_call: errno.ETIMEDOUT):
            up.sleep(2)  # nothing came
        with mock.patch.object(host, "futex", lambda *_call: errno.ENOSYS), \
                mock.patch.object(host.time, "sleep") as nap:
            up.sleep(2)
            nap.assert_called_once()
        self.assertEqual(up.missed_wakeups, 1)

    def test_the_heart_beats_through_slow_messages(self) -> None:
        """Flat out, with messages that take as long as some of 64 MiB: by a clock of our own."""
        product, now, ages = self.product("--rate", "0", "--count", "300"), [10 ** 12], []

        def fill(_at: int, _n: int) -> None:
            ages.append(now[0] - product.words[host.BEAT_AT])
            now[0] += 30_000_000

        with mock.patch.object(host, "clock", lambda: now[0]), \
                mock.patch.object(host, "make_filler", lambda _segment: fill):
            product.words[host.BEAT_AT] = now[0]
            host.publish(product)
        self.assertEqual(len(ages), 300)
        self.assertLessEqual(max(ages), 100_000_000 - 30_000_000)

    def test_sink_takes_what_command_left(self) -> None:
        """COMMAND has ended, and its client left without the empty message that ends the stream."""
        product = self.product("--sink", self.path("out"), "--slots", "64")
        product.child = subprocess.Popen(["true"])
        product.child.wait()

        def fill(at: int, n: int) -> None:
            product.segment.ints[at // 4] = 1
            product.segment.memory[at + 8] = n

        product.up.writer(lambda n: n + 64)(fill, 0, 50)
        product.words[product.down.place] = 2 << 48
        with contextlib.redirect_stderr(io.StringIO()) as said, \
                open(self.path("out"), "wb", buffering=0) as file:
            host.sink(product, *product.up.reader(), file, True)
        self.one_line(said.getvalue(), "left before the end of its stream")
        with open(self.path("out"), "rb") as copy:
            self.assertEqual(copy.read(), bytes(range(1, 51)))


if __name__ == "__main__":
    unittest.main()
