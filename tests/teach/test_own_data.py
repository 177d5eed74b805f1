"""A struct of one's own in each direction: the programs of this folder, as a user runs them."""
import json
import os
import re
import sys
import unittest

from programs import (DRIVER, HOST, READER, SRC, TEACH, TRADE, TeachTest, numpy_python, read,
                      shares)
from support import DOWN, UP

# One side's struct is changed, and so its schema: the other side must notice.
OTHER_STRUCT = ('("size", ctypes.c_uint32)', '("size", ctypes.c_int64)')
OTHER = "number:Q symbol:8s price:d size:q"


class PythonSends(TeachTest):
    """publish.py, and its readers in C and in Python."""

    def finish_reader(self, reader, code: int) -> tuple:
        """Its trades, the sum of their shares, how many were lost, and why it ended."""
        out, err = self.finish(reader, code)
        self.assertEqual(err, "")
        *figures, end = re.fullmatch(r"(\d+) trades, (\d+) shares, (\d+) lost; (.*)\n",
                                     out).groups()
        return [int(figure) for figure in figures] + [end]

    def test_c_receives(self) -> None:
        """Every trade after it attached, to the last one: 0 once the host has closed."""
        publisher, before = self.publisher(), self.head()
        reader = self.program(READER)
        self.wait_attached()
        seen = self.head()
        self.until(lambda: self.head() > seen + 300, "300 more trades")
        with open(f"/dev/shm/{self.name}", "rb") as segment:
            self.interrupt(publisher)
            segment.seek(DOWN)
            last = int.from_bytes(segment.read(8), sys.byteorder)
        count, sum_of_sizes, lost, end = self.finish_reader(reader, 0)
        self.assertEqual(end, "its host has ended")
        if last - before <= 1024:  # the ring held them all
            self.assertEqual(lost, 0)
        self.assertGreaterEqual(count + lost, 300)
        if not lost:
            self.assertEqual(sum_of_sizes, shares(last - count + 1, last))

    def test_the_host_is_killed(self) -> None:
        publisher = self.publisher()
        reader, python_reader = self.program(READER), self.script("reader.py")
        self.wait_attached()
        self.assertIn("a second", python_reader.stdout.readline())  # it has attached, too
        publisher.kill()
        self.assertEqual(self.finish_reader(reader, 4)[-1], "its host died")
        self.one_line(self.finish(python_reader, 1)[1], "reader.py: its host died")

    def test_a_logger_in_python_beside_clients_in_c(self) -> None:
        publisher = self.publisher()
        readers = [self.program(READER), self.program(READER)]
        log = self.script("reader.py")
        line = log.stdout.readline()
        rate, age, lost, price = map(float, re.fullmatch(
            r"(\d+) a second, (\d+) us old, (\d+) lost, the last at ([0-9.]+)\n", line).groups())
        self.assertGreater(rate, 0)
        self.assertIn(price, [100 + n / 4 for n in range(64)])
        self.wait_attached(2)
        self.assertEqual(self.peek_word(DOWN + 264, 4), 2)  # a Python reader writes nothing
        self.interrupt(publisher)
        for reader in readers:
            self.finish_reader(reader, 0)
        out, err = self.finish(log)
        self.assertEqual((out.splitlines()[-1], err), ("its host has ended", ""))

    def test_a_struct_that_was_changed_on_one_side(self) -> None:
        """Both sides' schemas are in the line that refuses it."""
        publisher = self.publisher(change=OTHER_STRUCT)
        out, err = self.finish(self.program(READER), 5)
        self.assertEqual(out, "")
        self.one_line(err, "reader: refused: ", f'"{OTHER}"', f'"{TRADE}"')
        out, err = self.finish(self.script("reader.py"), 1)
        self.assertEqual(out, "")
        self.one_line(err, "reader.py: refused: ", f"'{OTHER}'", f"'{TRADE}'")
        self.interrupt(publisher)
        publisher = self.publisher()
        err = self.finish(self.script("reader.py", change=OTHER_STRUCT), 1)[1]
        self.one_line(err, "refused: ", f"'{OTHER}'", f"'{TRADE}'")
        self.interrupt(publisher)

    def test_messages_shorter_than_the_struct(self) -> None:
        """Of another host, with the same schema: they are no trades, and end nothing."""
        host = self.start([HOST[0], "-c", """if True:
            import sys, shmprueba
            with shmprueba.Segment(sys.argv[1], size=32, schema=sys.argv[2]) as segment:
                sys.stdin.readline()
                for data in (bytes(8), bytes(31), (7).to_bytes(8, sys.byteorder) + bytes(24), b""):
                    segment.send(data)
            """, self.name, TRADE], stdin=-1, env={"PYTHONPATH": SRC})
        self.wait_live()
        reader, python_reader = self.program(READER), self.script("reader.py")
        self.wait_attached()
        self.until(lambda: f"/dev/shm/{self.name}" in read(f"/proc/{python_reader.pid}/maps"),
                   "reader.py has attached, too")
        host.stdin.write("\n")
        self.assertEqual(self.finish(host), ("", ""))
        self.assertEqual(self.finish_reader(reader, 0)[0], 1)
        self.assertEqual(self.finish(python_reader), ("its host has ended\n", ""))

    def test_cliente_c_decodes_it(self) -> None:
        """It has no struct of its own: the segment says what its payloads are."""
        publisher = self.publisher()
        out, err = self.finish(self.client("--count", 100, "--output", "-", "--format", "ndjson",
                                           "--quiet"))
        records = [json.loads(line) for line in out.splitlines()]
        self.assertEqual(len(records), 100)
        for record in records:
            n = record["n"]
            expected = {"number": n, "symbol": "ACME", "price": 100 + n % 64 / 4, "size": n % 512}
            self.assertEqual({name: record[name] for name in expected}, expected)
        out, err = self.finish(self.client("--verify", "--count", 1), 2)
        self.one_line(err, self.name, "--verify", f'"{TRADE}"')
        self.interrupt(publisher)

    def test_frames(self) -> None:
        """numpy on both sides, straight in the slots: each frame is of one number, and its own."""
        python = numpy_python()
        publisher = self.publisher("frames", python=python)
        out, err = self.finish(self.start([python, "-c", """if True:
            import sys, numpy, shmprueba
            seen = 0
            with shmprueba.Reader(sys.argv[1], newest=True) as reader:
                for message in reader:
                    frame = numpy.frombuffer(message.payload, "u1").reshape(480, 640, 3)
                    wrong = (frame != message.n % 256).any()
                    if reader.confirm(message):
                        assert not wrong, message.n
                        seen += 1
                    if seen == 20:
                        break
            print(seen)
            """, self.name], env={"PYTHONPATH": SRC}))
        self.assertEqual((out, err), ("20\n", ""))
        self.interrupt(publisher)


class CSends(TeachTest):
    """driver.c, and receive.py."""

    def finish_receiver(self, receiver) -> tuple:
        """Its trades, the sum of their shares, the number of the last one. It leaves nothing."""
        out, err = self.finish(receiver)
        self.assertEqual(err, "")
        self.assertFalse(self.segment_exists())
        return tuple(map(int, re.fullmatch(
            r"(\d+) trades, (\d+) shares, the last is number (\d+)\n", out).groups()))

    def test_python_receives(self) -> None:
        receiver = self.receiver()
        self.assertEqual(self.finish(self.program(DRIVER, 3000)), ("", ""))
        self.assertEqual(self.finish_receiver(receiver), (3000, shares(1, 3000), 3000))

    def test_a_driver_is_killed_and_started_again(self) -> None:
        """While it lives nobody else may send. Once it is dead the next one may at once: it makes
        one try. All that the dead one published whole is received, and nothing else."""
        receiver = self.receiver()
        driver = self.program(DRIVER, 1 << 40)
        self.until(lambda: self.head(UP) > 2000, "it sends")
        out, err = self.finish(self.program(DRIVER, 1), 5)
        self.one_line(err, "driver: another process holds the role")
        driver.kill()
        driver.wait()
        whole = self.head(UP)
        self.assertEqual(self.finish(self.program(DRIVER, 500)), ("", ""))
        self.assertEqual(self.finish_receiver(receiver),
                         (whole + 500, shares(1, whole) + shares(1, 500), 500))

    def test_a_struct_that_was_changed_on_one_side(self) -> None:
        receiver = self.receiver(change=OTHER_STRUCT)
        out, err = self.finish(self.program(DRIVER, 1), 5)
        self.assertEqual(out, "")
        self.one_line(err, "driver: refused: ", f'"{OTHER}"', f'"{TRADE}"')
        self.end(receiver)

    def test_the_receiver_is_killed(self) -> None:
        receiver = self.receiver()
        driver = self.program(DRIVER, 1 << 40)
        self.until(lambda: self.head(UP) > 2000, "it sends")
        receiver.kill()
        self.finish(driver, 4)

    def test_a_stream_without_a_trade(self) -> None:
        for data in (b"", b"x"):  # the second one is too short to be one
            receiver = self.receiver()
            self.finish(self.client("--source", self.file("trades", data), "--quiet"), None)
            self.assertEqual(self.finish_receiver(receiver), (0, 0, 0))

    def test_cliente_c_sends_it_too(self) -> None:
        """A file of such structs: --source, in messages of the segment's capacity."""
        receiver = self.receiver()
        trade = (7).to_bytes(8, sys.byteorder) + bytes(16) + (9).to_bytes(8, sys.byteorder)
        self.finish(self.client("--source", self.file("trades", trade * 50), "--quiet"))
        self.assertEqual(self.finish_receiver(receiver), (50, 50 * 9, 7))

    def test_a_host_that_does_not_receive(self) -> None:
        publisher = self.publisher()
        out, err = self.finish(self.program(DRIVER, 1), 3)
        self.one_line(err, "driver: the host does not receive")
        self.interrupt(publisher)

    def test_no_host(self) -> None:
        out, err = self.finish(self.program(DRIVER, 1), 3)
        self.one_line(err, "driver: no host: there is no such segment")

    def end(self, receiver) -> None:
        """Ctrl-C in a script that does not catch it: its own traceback, and nothing else."""
        receiver.send_signal(2)
        out, err = self.finish(receiver, None)
        self.assertNotEqual(receiver.returncode, 0)
        self.assertTrue(err.startswith("Traceback ") and err.endswith("KeyboardInterrupt\n"), err)
        self.assertNotIn("leaked", err)
        self.assertNotIn("BufferError", err)
        self.assertFalse(self.segment_exists())

    def test_a_receiver_that_is_interrupted(self) -> None:
        self.end(self.receiver())


class Pipes(TeachTest):
    """Frames for a program that cannot import shmprueba.py, as in this folder's README."""

    def test_frames_in_and_out(self) -> None:
        size, frames = 640 * 480 * 3, 6
        text = read(os.path.join(TEACH, "README.md"))
        script = re.search(r"<!-- jetson -->\n```python\n(.*?)^```$", text, re.S | re.M).group(1)
        publisher = self.start([HOST[0], "-c", script, self.name], stdin=-1, text=False,
                               env={"PYTHONPATH": SRC})
        self.wait_live()
        reader = self.client("-q", "-n", 0, "-o", "-", text=False)
        self.wait_attached()
        for n in range(frames):  # 8 slots: none is lost
            publisher.stdin.write(bytes([n]) * size)
        publisher.stdin.close()
        publisher.stdin = None
        got = self.finish(reader)[0]
        self.assertEqual(self.finish(publisher), (b"", b""))
        self.assertTrue(got == b"".join(bytes([n]) * size for n in range(frames)))


class Size(unittest.TestCase):
    def test_of_the_programs(self) -> None:
        """10 to 40 lines each; the loop that receives in C has 8 at the most."""
        for name in ("publish.py", "receive.py", "reader.py", "reader.c", "driver.c"):
            with self.subTest(program=name):
                self.assertIn(len(read(os.path.join(TEACH, name)).splitlines()), range(10, 41))
        loop = re.search(r"\n    while .*?\n    }\n", read(os.path.join(TEACH, "reader.c")), re.S)
        self.assertLessEqual(len(loop.group().strip().splitlines()), 8)


if __name__ == "__main__":
    unittest.main()
