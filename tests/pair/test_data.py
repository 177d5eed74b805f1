"""What a payload is, and that it comes out as it went in: schemas, ndjson, whole messages."""
import ctypes
import fcntl
import json
import math
import os
import select
import struct
import sys
import termios
import unittest
from typing import List

from support import PairTest
import shmprueba
from shmprueba import Segment


class Text(PairTest):
    """ndjson: any host's payloads, without a line of C."""

    def lines(self, schema: str, payloads: List[bytes], size: int = 64) -> List[str]:
        with Segment(self.name, size=size, schema=schema) as segment:
            client = self.client("-q", "-l", "-n", len(payloads), "-o", "-", "-f", "ndjson",
                                 "--timeout", 100, text=False)
            self.until(lambda: segment.attached, "it has attached")
            for payload in payloads:
                segment.send(payload)
            out, err = self.finish(client)
            self.assertEqual(err, b"")
        lines = out.decode("utf-8", "strict").splitlines()
        self.assertEqual(len(lines), len(payloads))
        return lines

    def test_no_key_twice(self) -> None:
        """A field that has the name of one of our keys comes in its place."""
        line = self.lines("n:Q length:I :4x timestamp_ns:q", [struct.pack("=QI4xq", 777, 5, -3)])[0]
        self.assertEqual(line, '{"n": 777, "length": 5, "timestamp_ns": -3}')
        self.assertEqual(self.lines("n:Q", [b"short"])[0][:17], '{"timestamp_ns": ')

    def test_texts(self) -> None:
        """Up to the first NUL; valid UTF-8 passes, every other byte becomes \\u00XX."""
        table = {
            "Ünï€".encode(): "Ünï€", b"": "", b"plain": "plain", "日本語".encode(): "日本語",
            "🙂".encode(): "🙂", b"a\0b": "a", b'"\\/': '"\\/', b"\n\t\x01\x7f": "\n\t\x01\x7f",
            b"\xff\xfe": "\xff\xfe", b"\xc3": "\xc3", b"\xc3(": "\xc3(", b"a\xe2\x82": "a\xe2\x82",
            b"\xc0\x80": "\xc0\x80",                 # longer than needed
            b"\xed\xa0\x80": "\xed\xa0\x80",         # a surrogate
            b"\xf4\x90\x80\x80": "\xf4\x90\x80\x80",  # over U+10FFFF
            b"\xf8\x88\x80\x80\x80": "\xf8\x88\x80\x80\x80", "\x9b".encode(): "\x9b",
            "ÿ€".encode() + b"\x80": "ÿ€\x80"}
        lines = self.lines("text:16s", [key.ljust(16, b"\0") for key in table])
        for line, (payload, text) in zip(lines, table.items()):
            self.assertEqual(json.loads(line)["text"], text, payload)
            self.assertTrue(all(c.isprintable() for c in line), line)  # a terminal may show it
        self.assertIn('"text": "Ünï€"', lines[0])  # itself, not escaped
        full = self.lines("text:16s next:s", ["€".encode() * 5 + b"ab"])  # with no NUL
        self.assertEqual(json.loads(full[0])["text"], "€" * 5 + "a")
        self.assertEqual(json.loads(full[0])["next"], "b")

    def test_numbers(self) -> None:
        """Of every type, at its ends; as Python's struct packs them."""
        schema = "a:b b:B c:h d:H e:i f:I g:q h:Q i:? j:f k:d"
        rows = [(-128, 0, -1 << 15, 0, -1 << 31, 0, -1 << 63, 0, False, -1.5, -1.5),
                (127, 255, (1 << 15) - 1, 65535, (1 << 31) - 1, (1 << 32) - 1, (1 << 63) - 1,
                 (1 << 64) - 1, True, 3.4028234663852886e+38, sys.float_info.max),
                (1, 2, 3, 4, 5, 6, 7, 8, True, 1.401298464324817e-45, 5e-324),
                (0, 0, 0, 0, 0, 0, 0, (1 << 53) + 1, False, 0.1, 0.1),
                (0, 0, 0, 0, 0, 0, 0, 0, False, 1 / 3, 1 / 3)]
        pack = struct.Struct("=bBhHiIqQ?fd").pack
        for line, row in zip(self.lines(schema, [pack(*row) for row in rows]), rows):
            found = json.loads(line)
            self.assertEqual([found[key] for key in "abcdefghi"], list(row[:9]), line)
            self.assertEqual(struct.pack("=f", found["j"]), struct.pack("=f", row[9]), line)
            self.assertEqual(struct.pack("=d", found["k"]), struct.pack("=d", row[10]), line)

    def test_no_number(self) -> None:
        odd = [math.nan, math.inf, -math.inf]
        line, = self.lines("a:3f b:3d", [struct.pack("=3f3d", *odd, *odd)])
        self.assertIn('"a": [null, null, null], "b": [null, null, null]', line)

    def test_a_message_that_is_shorter_or_longer(self) -> None:
        """It stops after its last whole field; what is longer is ignored."""
        payload = struct.pack("=B2H3xI", 1, 2, 3, 4) + b"rest"
        keys = [[*json.loads(line)][3:] for line in self.lines(
            "a:B b:2H :3x c:I", [payload[:n] for n in (0, 1, 4, 5, 8, 11, 12, 16)])]
        self.assertEqual(keys, [[], ["a"], ["a"], ["a", "b"], ["a", "b"], ["a", "b"],
                                ["a", "b", "c"], ["a", "b", "c"]])

    def test_large_texts(self) -> None:
        payload = b"\xff" * 5000 + bytes(range(1, 256)) * 20
        line, = self.lines("a:5000s b:5100s", [payload], size=10100)
        found = json.loads(line)
        self.assertEqual(found["a"], "\xff" * 5000)
        self.assertEqual(len(found["b"]), 5100)


class Schema(PairTest):
    def test_verify_is_refused_where_it_knows_no_pattern(self) -> None:
        """Never "0 errors" for payloads that nobody checked."""
        for schema, code in (("a:B :7x b:q", 2), ("", 0)):
            with Segment(self.name, size=16, schema=schema) as segment:
                client = self.client("--verify", "-q", "-n", 2, "--timeout", 100)
                if code:
                    _, err = self.finish(client, 2)
                    self.one_line(err, "--verify", schema)
                    self.assertEqual(segment.attached, 0)
                    continue
                self.until(lambda: segment.attached, "it has attached")
                for n in (1, 2):
                    segment.send(bytes((n + i) % 251 for i in range(16)))
                self.finish(client)

    def test_the_first_message_is_decoded(self) -> None:
        made = type("Tick", (ctypes.Structure,), {"_fields_": [
            ("symbol", ctypes.c_char * 8), ("bid", ctypes.c_double), ("size", ctypes.c_uint8)]})
        with Segment(self.name, size=ctypes.sizeof(made), schema=made) as segment:
            client = self.client("-n", 1, "--timeout", 100)
            self.until(lambda: segment.attached, "it has attached")
            segment.send(made(b"ACME", 12.5, 3))
            out, _ = self.finish(client)
        self.assertRegex(out, r'first message +n 1, 24 B.*symbol.*"ACME".*bid.*12\.5.*size.*3')

    def test_another_schema_after_a_restart(self) -> None:
        """A struct that was changed on one side only: exit 5, both texts in the line."""
        with Segment(self.name, schema="price:d symbol:8s") as segment:
            client = self.client("--reconnect", "-q", "--timeout", 100, "--count", 0)
            self.until(lambda: segment.attached, "it has attached")
        with Segment(self.name, schema="symbol:8s price:d"):
            _, err = self.finish(client, 5)
        self.one_line(err, "symbol:8s price:d", "price:d symbol:8s", "/" + self.name)


class Output(PairTest):
    def wait_writes(self, client) -> None:
        """It stands in write: its pipe is full, and nobody reads it."""
        waiting = bytearray(4)

        def is_full() -> bool:
            fcntl.ioctl(client.stdout, termios.FIONREAD, waiting)
            return int.from_bytes(waiting, sys.byteorder) >= 1 << 16
        self.until(is_full, "the pipe is full")

    def test_what_was_written_was_whole(self) -> None:
        """A lossless client is dropped, and its slot overwritten, while it writes that message.
        What it has written in the end is the whole message, and it says that others are lost."""
        size = 300_000
        with Segment(self.name, size=size, slots=2, stall_timeout=1e6) as segment:
            client = self.client("-q", "-l", "-o", "-", "--timeout", 100, text=False)
            self.until(lambda: segment.attached, "it has attached")
            for n in (1, 2):
                segment.send(bytes([n]) * size)
            self.wait_writes(client)
            segment.drop("had not moved", segment.consumer)
            for n in range(3, 9):
                segment.send(bytes([n]) * size)
            out, err = self.finish(client, 6)
        self.one_line(err.decode(), "the host dropped this client")
        self.assertTrue(out == b"\1" * size, (len(out), out[:1], out[-1:]))

    def test_a_lossy_one_too(self) -> None:
        """Lapped many times while it writes: each message that comes out is one that was sent."""
        size = 200_000
        with Segment(self.name, size=size, slots=2) as segment:
            client = self.client("-q", "-n", 3, "-o", "-", "--timeout", 100, text=False)
            self.until(lambda: segment.attached, "it has attached")
            segment.send(bytes([1]) * size)
            self.wait_writes(client)
            for n in range(2, 102):
                segment.send(bytes([n]) * size)
            out, seen = bytearray(), 0
            while len(out) < 3 * size:  # a new message for each part that it could write
                if select.select([client.stdout], [], [], 0.01)[0]:
                    out += os.read(client.stdout.fileno(), 1 << 16)
                seen += 1
                segment.send(bytes([seen % 256]) * size)
            self.finish(client)
        self.assertEqual(out[:size], b"\1" * size)
        for at in range(0, 3 * size, size):
            self.assertEqual(out[at:at + size], bytes([out[at]]) * size)

    def test_a_reader_that_is_slower_than_its_producer(self) -> None:
        """It keeps half a ring: each lap costs it half a ring at most before it is lapped again,
        so what it has read comes in runs of half a ring."""
        slots, runs = 16, []
        with Segment(self.name, slots=slots) as segment, \
                shmprueba.Reader(self.name, newest=False) as reader, \
                shmprueba.Reader(self.name, newest=True) as newest:
            for _ in range(30):
                for _ in range(3 * slots):  # faster than it can use them
                    segment.send(b"x")
                head, run = segment.published, []
                while len(run) < slots // 4:  # and it uses a few
                    message = reader.receive(0)
                    run.append(message.n)
                    self.assertTrue(reader.confirm(message))
                    segment.send(b"x")
                    segment.send(b"x")  # while the producer goes on
                runs.append((head - run[0], run[-1] - run[0]))
                self.assertEqual(newest.receive(0).n, segment.published)
            self.assertEqual(set(runs), {(slots // 2 - 1, slots // 4 - 1)})
            self.assertEqual(newest.lost, 0)


if __name__ == "__main__":
    unittest.main()
