"""The Python half's mirror of the segment, its rule for names and its schemas, against the C half.
"""
import ctypes
import importlib.util
import os
import re
import struct
import subprocess
import sys
import time
import unittest
from typing import List
from unittest import mock

from support import CLIENT, DOWN, ROOT, SLOTS, STATE, UP, PairTest
import shmprueba
from shmprueba import Error, Segment

SCHEMA_AT, SCHEMA_SIZE = 64, 448  # bytes


class Layout(unittest.TestCase):
    MIRROR = {"shm_header": shmprueba.Header, "shm_status": shmprueba.Status,
              "shm_lane_block": shmprueba.LaneBlock, "shm_slot": shmprueba.Slot}
    TYPES = {"magic": "u8[8]", "schema": "char[448]", 4: "u32", 8: "u64"}

    def setUp(self) -> None:
        self.text = subprocess.run([*CLIENT, "--layout"], stdout=subprocess.PIPE, check=True,
                                   universal_newlines=True).stdout
        table, self.facts = self.text.split("\n\n", 1)
        self.rows = [line.split() for line in table.splitlines()[1:]]

    def test_every_field_has_one_place(self) -> None:
        seen = set()
        for block, field, offset, size, kind in self.rows:
            if block == "segment" or (block, field) == ("shm_slot", "payload"):
                continue
            place = getattr(self.MIRROR[block], field)
            self.assertEqual((place.offset, place.size), (int(offset), int(size)), field)
            self.assertEqual(kind, self.TYPES.get(field) or self.TYPES[place.size], field)
            seen.add((block, field))
        mirrored = {(block, name) for block, mirror in self.MIRROR.items()
                    for name, *_ in mirror._fields_
                    if not re.fullmatch(r"zeros?[12]?", name) or (block, name) == (
                        "shm_header", "zero")}
        self.assertEqual(seen, mirrored)

    def test_blocks(self) -> None:
        places = {field: (int(offset), int(size)) for block, field, offset, size, _ in self.rows
                  if block == "segment"}
        self.assertEqual(places, {
            "header": (0, 512), "status": (STATE, 128), "lane_down": (DOWN, 384),
            "lane_up": (UP, 384), "slots": (SLOTS, 0)})
        self.assertEqual([ctypes.sizeof(mirror) for mirror in self.MIRROR.values()],
                         [512, 128, 384, 32])
        self.assertEqual((shmprueba.STATUS_AT, shmprueba.LANES_AT, shmprueba.HEADER_SIZE,
                          shmprueba.SLOT_HEAD), (STATE, DOWN, SLOTS, 32))
        payload = next(row for row in self.rows if row[:2] == ["shm_slot", "payload"])
        self.assertEqual(int(payload[2]), shmprueba.SLOT_HEAD)

    def test_what_else_a_reader_must_know(self) -> None:
        """The values and rules that no offset tells."""
        for words in ("/dev/shm/NAME", f"{sys.byteorder} endian", "0 starting, 1 live, 2 closed",
                      "bit 0: every message has a CRC-32", "2n-1: message n is being written",
                      "zlib.crc32(payload, n & 0xffffffff)", "NAME:[COUNT]TYPE",
                      shmprueba.MAGIC.decode(), "F_OFD_SETLK"):
            self.assertIn(words, self.facts)
        self.assertLessEqual(max(map(len, self.text.splitlines())), 80)
        self.assertRegex(self.facts, rf"version +{shmprueba.VERSION}\b")


class Names(unittest.TestCase):
    def test_table(self) -> None:
        def decode(text: str) -> str:
            text = re.sub(r"a\{(\d+)\}", lambda m: "a" * int(m.group(1)), text)
            raw = re.sub(rb"\\x(..)", lambda m: bytes([int(m.group(1), 16)]), text.encode())
            return os.fsdecode(raw)

        rows = 0
        with open(os.path.join(ROOT, "tests", "data", "shm_names.tsv"), encoding="utf-8") as table:
            for line in table:
                if line.startswith("#"):
                    continue
                system, name, expected = line.rstrip("\n").split("\t")
                name, expected = decode(name), decode(expected)
                system = "darwin" if system == "macos" else "linux"
                if expected.startswith("/"):
                    self.assertEqual(shmprueba.normalise_name(name, system), expected, line)
                else:
                    with self.assertRaises(Error, msg=line) as refused:
                        shmprueba.normalise_name(name, system)
                    self.assertEqual(refused.exception.kind, "usage")
                    self.assertEqual(str(refused.exception), f"segment name {name!r} {expected}")
                rows += 1
        self.assertGreater(rows, 30)


class Clock(unittest.TestCase):
    def test_by_symbol(self) -> None:
        spec = importlib.util.spec_from_file_location("another", shmprueba.__file__)
        another = importlib.util.module_from_spec(spec)
        with mock.patch.object(time, "CLOCK_UPTIME_RAW", 8, create=True), \
                mock.patch.object(time, "clock_gettime_ns", lambda clock: 10 * clock):
            spec.loader.exec_module(another)
        self.assertEqual(another.clock(), 80)
        if not hasattr(time, "CLOCK_UPTIME_RAW"):
            self.assertIs(shmprueba.clock, time.monotonic_ns)


class Percentiles(unittest.TestCase):
    def test_against_exact(self) -> None:
        import host
        latency, values = host.Latency(), sorted(int(1.001 ** i) + i for i in range(1, 20000))
        for value in values:
            latency.record(value)
        summary = latency.summary()
        for name, fraction in (("min", 0), ("p50", .5), ("p90", .9), ("p99", .99),
                               ("p99_9", .999), ("max", 1)):
            exact = values[max(0, -int(-fraction * len(values) // 1) - 1)]
            self.assertTrue(exact <= summary[name] <= exact + exact // 128 + 1, name)
        self.assertAlmostEqual(summary["mean"] * len(values) / sum(values), 1, delta=.01)


def structure(fields: list, base: type = ctypes.Structure, **more) -> type:
    return type("Made", (base,), {"_fields_": fields, **more})


class Schemas(PairTest):
    GOOD = {  # text: bytes
        "": 0, "a:B": 1, "index:Q time_s:d accel:3f gyro:3f temperature:f :20x": 64,
        "_:b A9_z:B c:h d:H e:i f:I g:q h:Q i:f j:d k:? l:s :x": 45, "a:2B b:10B c:255s": 267,
        ":x": 1, ":7x a:B :2x": 10, "a:B :x :x": 3, "a:64s": 64,
        " ".join(f"{chr(97 + i // 26)}{chr(97 + i % 26)}:B" for i in range(89)): 89}
    BAD = ("a", "a:", ":a", "a:z", "a:e", "a:n", "a:P", "a:l", "a:c", "a:0B", "a:01B", "a:1B",
           ":0x", ":1x", "a:x", "a:3x", ":3B", ":B", "9:B", "9a:B", "a-b:B", "a.b:B", "a :B",
           "a: B", " a:B", "a:B ", "a:B  b:B", "a:B\tb:B", "a:B\nb:B", "a:B,b:B", "a:B a:B",
           "a:2B b:B a:B", "a:B3", "a:BB", "a:-1B", "a:+1B", "a:1.0B", "a:<B", "a:=Q", "\xe9:B",
           "a:\xb2B", "a::B", ":", "a:99999999999s", "%s:%n", "a:2147483648Q")

    def test_both_halves_take_the_same_texts(self) -> None:
        """Each text, put into a running segment: the client decodes it, or refuses it."""
        with Segment(self.name, size=512, slots=4) as segment:
            for text in (*self.GOOD, *self.BAD):
                with self.subTest(schema=text):
                    try:
                        good = shmprueba.schema_size(text) <= 1 << 30
                    except Error as error:
                        good = False
                        self.assertEqual(error.kind, "usage")
                        self.assertIn(repr(text), str(error))
                    self.assertEqual(good, text in self.GOOD)
                    self.poke(SCHEMA_AT, text.encode("latin-1").ljust(SCHEMA_SIZE, b"\0"))
                    client = self.client("--quiet", "--count", 1, "--timeout", 100 if good else 1)
                    if good:
                        self.until(lambda: segment.attached, "it has attached")
                        segment.send(bytes(512))
                        segment._ints[segment._down.attached] = 0
                        self.finish(client)
                    else:
                        self.one_line(self.finish(client, 5)[1], "/" + self.name, "schema")

    def test_sizes(self) -> None:
        for text, size in self.GOOD.items():
            self.assertEqual(shmprueba.schema_size(text), size, text)
            self.assertEqual(shmprueba.schema_text(text), text)
        longest = " ".join(f"{'n' * 105}{i}:B" for i in range(4))
        self.assertEqual((len(longest), shmprueba.schema_size(longest + "x" * 0)), (435, 4))
        self.assertEqual(shmprueba.schema_size(longest + " " + "m" * 9 + ":B"), 5)  # 447 bytes
        with self.assertRaisesRegex(Error, "of 448 bytes: 447 are the most"):
            shmprueba.schema_size(longest + " " + "m" * 10 + ":B")

    def test_from_a_structure(self) -> None:
        """All of struct's types; gaps, trailing ones too, as ctypes lays them out."""
        u8, i64, f32 = ctypes.c_uint8, ctypes.c_int64, ctypes.c_float
        simple = [("a", ctypes.c_byte), ("b", u8), ("c", ctypes.c_bool), ("d", ctypes.c_char),
                  ("e", ctypes.c_int16), ("f", ctypes.c_uint16), ("g", ctypes.c_int32),
                  ("h", ctypes.c_uint32), ("i", f32), ("j", ctypes.c_int64),
                  ("k", ctypes.c_uint64), ("l", ctypes.c_double), ("m", ctypes.c_longlong)]
        base = structure([("a", u8), ("b", ctypes.c_uint32)])
        for made, text in (
                (structure(simple), "a:b b:B c:? d:s e:h f:H g:i h:I i:f :4x j:q k:Q l:d m:q"),
                (structure([("a", u8), ("b", i64)]), "a:B :7x b:q"),
                (structure([("b", i64), ("a", u8)]), "b:q a:B :7x"),
                (structure([("a", u8), ("b", ctypes.c_int16), ("c", u8)]), "a:B :x b:h c:B :x"),
                (structure([("a", u8), ("b", i64)], _pack_=1), "a:B b:q"),
                (structure([("a", f32 * 3), ("t", ctypes.c_char * 10)]), "a:3f t:10s :2x"),
                (structure([("a", f32 * 1)]), "a:f"),
                (structure([("c", u8)], base), "a:B :3x b:I c:B :3x"),
                (structure([("a", ctypes.c_long), ("b", ctypes.c_ulong)]),
                 {8: "a:q b:Q", 4: "a:i b:I"}[ctypes.sizeof(ctypes.c_long)])):
            with self.subTest(schema=text):
                self.assertEqual(shmprueba.schema_text(made), text)
                self.assertEqual(shmprueba.schema_size(text), ctypes.sizeof(made))
                self.assertEqual(self.unpacked(text, made), made)

    def unpacked(self, text: str, made: type) -> type:
        """made, if the text puts its fields where ctypes does."""
        at = 0
        for word in text.split(" "):
            name, _, kind = word.partition(":")
            if name:
                self.assertEqual(getattr(made, name).offset, at, word)
            at += struct.calcsize("=" + kind)
        return made

    def test_structures_that_no_text_can_say(self) -> None:
        u32 = ctypes.c_uint32
        other = (ctypes.BigEndianStructure if sys.byteorder == "little"
                 else ctypes.LittleEndianStructure)
        union = type("Union", (ctypes.Union,), {"_fields_": [("a", u32)]})
        for made in (structure([("odd", u32, 3)]), structure([("odd", structure([("b", u32)]))]),
                     structure([("odd", u32)], other), structure([("odd", u32 * 2 * 2)]),
                     structure([("odd", ctypes.c_void_p)]), structure([("odd", union)]),
                     structure([("odd", ctypes.c_wchar)]), structure([("odd", ctypes.c_char_p)]),
                     structure([("odd", structure([("b", u32)]) * 2)]),
                     structure([("odd", ctypes.POINTER(u32))])):
            with self.subTest(fields=made._fields_):
                with self.assertRaisesRegex(Error, "odd") as refused:
                    shmprueba.schema_text(made)
                self.assertEqual(refused.exception.kind, "usage")
        for wrong in (union, u32, made(), 5, None, b"a:B"):
            with self.assertRaisesRegex(Error, "give a text or a ctypes.Structure class"):
                shmprueba.schema_text(wrong)

    def test_a_structure_is_what_its_schema_says(self) -> None:
        """A struct with a u8 and an i64, sent as it is; its fields come out in C."""
        made = structure([("a", ctypes.c_uint8), ("b", ctypes.c_int64), ("t", ctypes.c_char * 5)])
        with Segment(self.name, size=ctypes.sizeof(made), schema=made) as segment:
            client = self.client("-q", "-n", 1, "-o", "-", "-f", "ndjson", "--timeout", 100)
            self.until(lambda: segment.attached, "it has attached")
            segment.send(made(7, -(1 << 60), b"xy"))
            self.assertRegex(self.finish(client)[0],
                             r', "length": 24, "a": 7, "b": -1152921504606846976, "t": "xy"}\n')
        with self.assertRaisesRegex(Error, "size 23: the schema has 24 bytes"):
            Segment(self.name, size=23, schema=made)


class SizesOnly(PairTest):
    def test_segment_is_what_the_header_says(self) -> None:
        for size, slots, stride in ((1, 2, 128), (96, 4, 128), (97, 4, 256), (1000, 8, 1152)):
            process = self.host("--size", size, "--slots", slots, "--wait-client", "--quiet")
            self.wait_live()
            total = SLOTS + 2 * slots * stride
            self.assertEqual([self.peek_word(16), self.peek_word(24, 4), self.peek_word(28, 4),
                              self.peek_word(32, 4)], [total, slots, stride, size])
            self.assertEqual(os.stat(f"/dev/shm/{self.name}").st_size, total)
            process.terminate()
            self.finish(process)

    def test_default_slots(self) -> None:
        """As many as 8 MiB hold, 4 to 1024."""
        found: List[int] = []
        for size in (1, 64, 8192, 8193, 1 << 20, (1 << 20) + 1, 2 << 20, 3 << 20, 4 << 20):
            with Segment(self.name, size=size) as segment:
                found.append(segment.slot_count)
        self.assertEqual(found, [1024, 1024, 1024, 512, 8, 4, 4, 4, 4])


if __name__ == "__main__":
    unittest.main()
