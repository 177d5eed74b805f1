"""host.py's mirror of the segment, and its rule for names, against the C side's."""
import ctypes
import os
import re
import subprocess
import types
import unittest

from support import CLIENT, ROOT, PairTest
import host


class Layout(unittest.TestCase):
    MIRROR = {"shm_header": host.Header, "shm_status": host.Status, "shm_lane": host.LaneBlock,
              "shm_slot": host.Slot, "shm_sample": host.Sample}

    def test_every_field_has_one_place(self) -> None:
        rows = subprocess.run([*CLIENT, "--layout"], stdout=subprocess.PIPE, check=True,
                              universal_newlines=True).stdout.splitlines()[1:]
        seen = set()
        for row in rows:
            block, field, offset, size = row.split()
            if block == "segment":
                continue
            place = getattr(self.MIRROR[block], field)
            self.assertEqual((place.offset, place.size), (int(offset), int(size)), row)
            seen.add((block, field))
        mirrored = {(block, name) for block, mirror in self.MIRROR.items()
                    for name, *_ in mirror._fields_ if not name.startswith("zero")}
        self.assertEqual(seen, mirrored)

    def test_sizes(self) -> None:
        sizes = [ctypes.sizeof(mirror) for mirror in self.MIRROR.values()]
        self.assertEqual(sizes, [128, 128, 384, 32, 64])


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
                try:
                    found = host.normalise_name(decode(name),
                                                "darwin" if system == "macos" else "linux")
                except ValueError as error:
                    found = str(error)
                self.assertEqual(found, decode(expected), line)
                rows += 1
        self.assertGreater(rows, 30)


class Clock(unittest.TestCase):
    def test_by_symbol(self) -> None:
        linux = types.SimpleNamespace(monotonic_ns=lambda: 1)
        mac = types.SimpleNamespace(monotonic_ns=lambda: 1, CLOCK_UPTIME_RAW=8,
                                    clock_gettime_ns=lambda clock: 10 * clock)
        self.assertEqual(host.choose_clock(linux)(), 1)
        self.assertEqual(host.choose_clock(mac)(), 80)


class Percentiles(unittest.TestCase):
    def test_against_exact(self) -> None:
        latency, values = host.Latency(), sorted(int(1.001 ** i) + i for i in range(1, 20000))
        for value in values:
            latency.record(value)
        for fraction in (.001, .5, .9, .99, .999, 1):
            exact = values[max(0, -int(-fraction * len(values) // 1) - 1)]
            found = latency.percentile(fraction)
            self.assertTrue(exact <= found <= exact + exact // 128, (fraction, exact, found))
        summary = latency.summary()
        self.assertEqual((summary["min"], summary["max"]), (values[0], values[-1]))


class SizesOnly(PairTest):
    def test_segment_is_what_the_header_says(self) -> None:
        for size, slots, stride in ((1, 2, 128), (96, 4, 128), (97, 4, 256), (1000, 8, 1152)):
            process = self.host("--size", size, "--slots", slots, "--wait-client", "--quiet")
            self.wait_live()
            total = 1024 + 2 * slots * stride
            self.assertEqual([self.peek_word(16), self.peek_word(24, 4), self.peek_word(28, 4),
                              self.peek_word(32, 4)], [total, slots, stride, size])
            self.assertEqual(os.stat(f"/dev/shm/{self.name}").st_size, total)
            process.terminate()
            self.finish(process)


if __name__ == "__main__":
    unittest.main()
