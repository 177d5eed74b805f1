#!/usr/bin/env python3
"""Are the pictures and README.md made of what the benchmarks wrote?  test_plot.py FOLDER"""
import os
import re
import shutil
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

import plot

HERE = os.path.dirname(os.path.abspath(__file__))
README = os.path.join(HERE, "README.md")
FOLDER = sys.argv.pop() if len(sys.argv) > 1 else ""
SVG = "{http://www.w3.org/2000/svg}"
WIDE = 7.5  # pixels of a character at 13 px, in the widest of the usual fonts


class Plot(unittest.TestCase):
    @classmethod
    def setUpClass(cls) -> None:
        cls.assertIsNone(cls(), plot.main([FOLDER]))

    def read(self, name: str) -> xml.Element:
        return xml.parse(os.path.join(FOLDER, name)).getroot()

    def test_latency_shows_what_one_would_compare(self) -> None:
        root = self.read("latency.svg")
        self.fits(root)
        words = [text.text for text in root.iter(SVG + "text")]
        for name in ("pipe", "pipe, spinning", "UNIX socket"):
            self.assertEqual(words.count(name), 2, f"{name}: once for known, once for fresh data")
        for name in ("this project", "this project, spinning", "this project, with warm()",
                     "this project, without it", "multiprocessing.Queue"):
            self.assertEqual(words.count(name), 1, name)
        bars = [bar for bar in root.iter(SVG + "rect") if bar.get("class") != "ground"]
        self.assertEqual({bar.get("class") for bar in bars}, {"ours", "theirs"})
        self.assertTrue(all(0 < float(bar.get("width")) <= 470 for bar in bars))

    def fits(self, root: xml.Element) -> None:
        for text in root.iter(SVG + "text"):
            end = float(text.get("x")) + WIDE * len(text.text) * (text.get("text-anchor") != "end")
            self.assertLess(end, plot.WIDTH, f"too long: {text.text}")

    def test_latency_where_a_spinning_reader_is_the_slowest(self) -> None:
        """As on busy CPUs: its bar is the longest, and has the longest remark."""
        tables = [plot.read_table(FOLDER, name) for name in ("results", "waiting")]
        slow = [row for row in tables[0] if (row["transport"], row["read"]) == ("pipe", "spin")]
        self.assertTrue(slow)
        for row in slow:
            row["known_p50_ns"] = row["fresh_p50_ns"] = "1234567890"
        self.fits(xml.fromstring(plot.latency(*tables, "a machine")))

    def test_throughput_has_a_line_for_each(self) -> None:
        words = [text.text for text in self.read("throughput.svg").iter(SVG + "text")]
        self.assertEqual(words.count("this project"), 2)
        self.assertEqual(words.count("pipe"), 2)

    def test_every_block_of_the_readme_has_its_file(self) -> None:
        with tempfile.TemporaryDirectory() as folder:
            copy = shutil.copy(README, folder)
            plot.fill(copy, FOLDER)
            with open(copy, encoding="utf-8") as file:
                once = file.read()
            blocks = re.findall(r"<!-- figures (\S+) -->\n(.*?)<!-- end -->", once, re.DOTALL)
            self.assertEqual(len(blocks), once.count("<!-- figures "))
            self.assertGreater(len(blocks), 5)
            for name, body in blocks:
                with open(os.path.join(FOLDER, name), encoding="utf-8") as file:
                    self.assertIn(file.read().strip(), body, name)
            plot.fill(copy, FOLDER)
            with open(copy, encoding="utf-8") as file:
                self.assertEqual(file.read(), once, "filled twice")


if __name__ == "__main__":
    if not os.path.exists(os.path.join(FOLDER, "waiting.csv")):
        print("skipped: the benchmarks were")  # on one CPU
        sys.exit(77)
    unittest.main()
