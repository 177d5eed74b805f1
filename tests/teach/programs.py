"""The programs of this folder, run as a user runs them."""
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
TEACH, SRC = os.path.join(ROOT, "tests", "teach"), os.path.join(ROOT, "src")
BUILD = os.environ.get("BUILD_DIR", os.path.join(ROOT, "build"))
READER, DRIVER, TORN = (os.path.join(BUILD, "tests", name)
                        for name in ("teach_reader", "teach_driver", "torn_reader"))
sys.path.insert(0, os.path.join(ROOT, "tests", "pair"))

from support import HOST, PairTest, require

TRADE = "number:Q symbol:8s price:d size:I :4x"


def read(path: str) -> str:
    with open(path, encoding="utf-8") as file:
        return file.read()


def marked(mark: str) -> str:
    """The block of the README after this mark: what is tested is what is read."""
    found = re.findall(rf"<!-- {re.escape(mark)} -->\n```\w+\n(.*?)^```$",
                       read(os.path.join(ROOT, "README.md")), re.S | re.M)
    assert len(found) == 1, f"{len(found)} blocks {mark} in README.md"
    return found[0]


def numpy_python() -> str:
    """A Python with numpy, or the test is skipped."""
    for python in (HOST[0], shutil.which("python3"), "/usr/bin/python3"):
        if python and subprocess.call(
                [python, "-c", "import numpy, multiprocessing.shared_memory"],
                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) == 0:
            return python
    require(False, "no Python here has numpy")


def shares(first: int, last: int) -> int:
    """The sum of `size` over these trades, as publish.py and driver.c make them."""
    return sum(n % 512 for n in range(first, last + 1))


class TeachTest(PairTest):
    def setUp(self) -> None:
        super().setUp()
        for program in (READER, DRIVER):
            require(os.path.exists(program), f"{program} is not built")

    def script(self, name: str, *words: str, python: str = HOST[0], change: tuple = (),
               library: str = SRC):
        """A Python program of this folder; with change (old, new): a copy of it with this edit."""
        path = os.path.join(TEACH, name)
        if change:
            text = read(path)
            self.assertIn(change[0], text)
            path = self.file("changed_" + name, text.replace(*change).encode())
        return self.start([python, path, self.name, *words], env={"PYTHONPATH": library})

    def program(self, path: str, *words: str):
        return self.start([path, self.name, *map(str, words)])

    def publisher(self, *words: str, **how):
        process = self.script("publish.py", *words, **how)
        self.until(lambda: self.head() > 0 or process.poll() is not None, "it publishes")
        self.assertIsNone(process.poll(), "it has ended")
        return process

    def receiver(self, **how):
        process = self.script("receive.py", **how)
        self.until(lambda: self.peek_word(512, 4) == 1 or process.poll() is not None, "it is live")
        self.assertIsNone(process.poll(), "it has ended")
        return process

    def interrupt(self, process, code: int = 0) -> None:
        """Ctrl-C: it says nothing, and leaves nothing."""
        process.send_signal(2)
        self.assertEqual(self.finish(process, code), ("", ""))
        self.assertFalse(self.segment_exists())
