"""host.py's writer, step by step in this process: what is in the segment at each of them."""
import os
import subprocess
import unittest
from unittest import mock

from support import PairTest
import host


class Writer(PairTest):
    def product(self, *options: str) -> host.Host:
        """A host with its segment, as run() makes it, but no job yet."""
        product = host.Host(host.parse_options(["--name", self.name, "--quiet", *options]))
        product.segment = host.Segment(product.name, product.options.size, product.options.slots,
                                       host.RAW, product.options.crc, product.say)
        product.down, product.up = product.segment.lanes
        self.addCleanup(product.segment.unmap)
        self.addCleanup(lambda: os.path.exists(product.segment.lock_path) and product.segment.end())
        product.segment.go_live()
        return product

    def slot(self, product: host.Host, n: int) -> host.Slot:
        down = product.down
        at = down.first + n % down.slots * down.stride
        return host.Slot.from_buffer_copy(product.segment.memory[at:at + host.SLOT_HEAD])

    def test_the_slot_is_marked_while_it_is_filled(self) -> None:
        product, seen = self.product("--slots", "4"), []
        publish, words = product.down.writer(product.make_room), product.segment.words

        def fill(at: int, n: int) -> int:
            seen.append((n, words[(at - host.SLOT_HEAD) // 8], words[product.down.head]))
            product.segment.memory[at:at + 3] = bytes([n] * 3)
            return 3

        for last in (0, 0, 9):  # one call for one message, or for many
            publish(fill, 0, last)
        self.assertEqual(seen, [(n, 2 * n - 1, n - 1) for n in range(1, 10)])
        self.assertEqual(words[product.down.head], 9)
        for n in range(6, 10):
            slot = self.slot(product, n)
            self.assertEqual((slot.seq, slot.length, slot.due_ns), (2 * n, 3, slot.timestamp_ns))
        self.assertEqual(publish(fill, 77), self.slot(product, 10).timestamp_ns)
        self.assertEqual(self.slot(product, 10).due_ns, 77)

    def test_nothing_to_publish(self) -> None:
        """What fill raises comes through; the message is not there, and the next one is it."""
        product = self.product("--slots", "4")
        publish, numbers = product.down.writer(product.make_room), []

        def fill(_at: int, n: int) -> int:
            numbers.append(n)
            if len(numbers) in (2, 3):
                raise EOFError
            return 1

        publish(fill)
        for _ in range(2):
            with self.assertRaises(EOFError):
                publish(fill, 0, 5)
            self.assertEqual(product.segment.words[product.down.head], 1)
        publish(fill)
        self.assertEqual(numbers, [1, 2, 2, 2])
        self.assertEqual((product.segment.words[product.down.head], self.slot(product, 2).seq),
                         (2, 4))

    def test_room_is_asked_for_before_anything_is_overwritten(self) -> None:
        product, asked = self.product("--slots", "4"), []

        def make_room(n: int) -> int:
            asked.append((n, product.segment.words[product.down.head]))
            if n == 8:
                raise host.Ended
            return n + 2

        publish = product.down.writer(make_room, 1)
        with self.assertRaises(host.Ended):
            publish(lambda _at, _n: 1, 0, 99)
        self.assertEqual(asked, [(2, 0), (5, 4), (8, 7)])
        self.assertEqual(self.slot(product, 8).seq, 8)  # still message 4, whole
        # Who claims right behind the look that found nobody may begin with message 9.
        self.assertEqual(product.make_room(9), 12)

    def test_one_wake_call_until_the_sleeper_has_run(self) -> None:
        product, now, woken = self.product("--slots", "64"), [10 ** 12], []
        down, words, ints = product.down, product.segment.words, product.segment.ints
        words[down.owner] = host.pair(1, host.ATTACHED | host.BLOCKS)

        def published(waiting: int, cursor: int) -> int:
            """How many wake calls three messages bring."""
            ints[down.waiting], words[down.cursor] = waiting, cursor
            before = len(woken)
            for _ in range(3):
                publish(lambda _at, _n: 1)
            return len(woken) - before

        with mock.patch.object(host, "clock", lambda: now[0]), \
                mock.patch.object(host, "FUTEX_CALL", 1), \
                mock.patch.object(host, "futex", lambda *call: woken.append(call)):
            publish = down.writer(product.make_room)
            self.assertEqual(published(0, 0), 0)  # nobody sleeps
            self.assertEqual(published(1, 3), 1)  # asleep behind message 3: woken for 4
            self.assertEqual(published(1, 3), 0)  # has not run yet
            self.assertEqual(published(1, 4), 1)  # has read 4, sleeps again
            now[0] += 2_000_000
            self.assertEqual(published(1, 4), 1)  # does not say what it has read
            words[down.owner] = host.pair(1, host.ATTACHED)
            self.assertEqual(published(1, 4), 0)  # is not of those who sleep
            words[down.owner] = host.pair(1, host.ATTACHED | host.BLOCKS)
            down.segment.end()
            self.assertEqual(woken[3:], woken[:1])  # CLOSED is told in any case

    def test_the_heart_beats_through_slow_messages(self) -> None:
        """Flat out, with messages that take as long as some of 64 MiB: by a clock of our own."""
        product, now, ages = self.product("--rate", "0", "--count", "300"), [10 ** 12], []

        def fill(_at: int, _n: int) -> int:
            ages.append(now[0] - product.segment.words[host.BEAT_AT])
            now[0] += 30_000_000
            return 1

        with mock.patch.object(host, "clock", lambda: now[0]), \
                mock.patch.object(host, "make_filler", lambda _segment: fill):
            product.segment.words[host.BEAT_AT] = now[0]
            product.publish()
        self.assertEqual(len(ages), 300)
        self.assertLessEqual(max(ages), 100_000_000 - 30_000_000)

    def test_sink_takes_what_command_left(self) -> None:
        """COMMAND has ended without waiting for its last messages to be taken; the empty one that
        ends the stream is not among them."""
        product = self.product("--sink", self.path("out"), "--slots", "64", "--wait", "sleep")
        product.file, product.regular = host.open_file(self.path("out"), os.O_WRONLY | os.O_CREAT, 1)
        product.child = subprocess.Popen(["true"])
        product.child.wait()

        def fill(at: int, n: int) -> int:
            product.segment.memory[at] = n
            return 1

        product.up.writer(lambda n: n + 64)(fill, 0, 50)
        with self.assertRaisesRegex(host.Failure, "left before the end of its stream"):
            product.receive()
        with open(self.path("out"), "rb") as copy:
            self.assertEqual(copy.read(), bytes(range(1, 51)))


if __name__ == "__main__":
    unittest.main()
