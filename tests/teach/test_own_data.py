"""The README's recipes: another struct from Python to C, and a Python that receives."""
import ctypes
import importlib.util
import json
import os
import re
import shutil
import struct
import subprocess
import sys
import unittest

from readme import ROOT, block
from support import CLIENT, HOST, PairTest, require

BUILD = os.environ.get("BUILD_DIR", os.path.join(ROOT, "build"))
DRIVER = os.path.join(BUILD, "tests", "teach_driver")


def trade(n: int) -> dict:
    return {"index": n, "time_s": n * 0.001, "symbol": "ACME", "price": 100 + n % 64 / 4,
            "size": n % 512, "side": "BS"[n % 2]}


class OwnData(PairTest):
    """The diff in the README makes the pair carry trades."""

    def setUp(self) -> None:
        super().setUp()
        self.tree = self.path("tree")
        os.mkdir(self.tree)
        for name in ("host.py", "CMakeLists.txt"):
            shutil.copy(os.path.join(ROOT, name), self.tree)
        for name in ("src", "include"):
            shutil.copytree(os.path.join(ROOT, name), os.path.join(self.tree, name))
        os.mkdir(os.path.join(self.tree, "tests"))  # the client needs none of them
        self.file("tree/tests/CMakeLists.txt", b"")
        change = self.file("trade.diff", block("diff").encode())
        require(shutil.which("patch") or shutil.which("git"), "neither patch nor git")
        self.run_all(["patch", "-p1", "-i", change] if shutil.which("patch") else
                     ["git", "apply", "--unidiff-zero", change])

    def run_all(self, *commands) -> None:
        for command in commands:
            self.finish(self.start(list(command), cwd=self.tree))

    def build(self, *options: str) -> None:
        self.run_all(["cmake", "-S", ".", "-B", "build", "-DSHMPRUEBA_WERROR=ON", *options],
                     ["cmake", "--build", "build", "--target", "cliente_c"])

    def trades(self, host_options, client_options):
        """What the changed client printed of the changed host."""
        process = self.start([HOST[0], "host.py", "--name", self.name, "--wait-client", "--quiet",
                              *host_options, "--", "build/cliente_c", *client_options, self.name],
                             cwd=self.tree)
        return self.finish(process)[0]

    def test_trades(self) -> None:
        self.build()
        text = self.trades(["--count", "2000"], ["--verify", "--count", "0"])
        first = re.search(r"first message\n.*?\n\n", text, re.S).group()
        shown = dict(line.split(maxsplit=1) for line in first.splitlines()[1:] if line.strip())
        n = int(re.search(r"n (\d+)", shown["slot"]).group(1))
        it = trade(n)
        self.assertEqual({name: shown[name] for name in it},
                         {"index": str(n), "time_s": f"{n * 0.001:g} s", "symbol": '"ACME"',
                          "price": f"{it['price']:g} USD", "size": f"{it['size']} shares",
                          "side": f'"{it["side"]}"'})
        # Every byte of every message, and behind the trade the pattern goes on.
        for size in ("64", "1000"):
            report = json.loads(self.trades(["--rate", "5000", "--count", "1000", "--size", size],
                                            ["--verify", "--lossless", "-n", "0", "--json"]))
            self.assertEqual((report["messages"], report["lost"], report["verify_errors"]),
                             (1000, 0, 0), size)

        lines = self.trades(["--rate", "5000", "--count", "1000"],
                            ["--lossless", "--output", "-", "--format", "ndjson", "--quiet"])
        records = [json.loads(line) for line in lines.splitlines()]
        self.assertEqual(len(records), 1000)
        for number, record in enumerate(records, 1):
            self.assertEqual({name: record[name] for name in trade(number)}, trade(number))
            self.assertEqual(record["n"], number)
            self.assertNotIn("zero", record)

    def test_both_sides_lay_it_out_alike(self) -> None:
        """cliente_c --layout of the changed tree is host.py's ctypes structure."""
        self.build()
        layout = self.finish(self.start([os.path.join(self.tree, "build", "cliente_c"),
                                         "--layout"]))[0]
        spec = importlib.util.spec_from_file_location("trade_host",
                                                      os.path.join(self.tree, "host.py"))
        changed = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(changed)
        rows = {name: (int(at), int(size)) for name, at, size in
                re.findall(r"^shm_sample +(\w+) +(\d+) +(\d+)$", layout, re.M)}
        self.assertEqual(set(rows), set(trade(1)))
        for name, (at, size) in rows.items():
            field = getattr(changed.Sample, name)
            self.assertEqual((at, size), (field.offset, field.size), name)
        self.assertEqual(ctypes.sizeof(changed.Sample), 64)

    def test_a_gap_does_not_compile(self) -> None:
        """A struct whose end is not aligned has padding of which Python does not know."""
        path = os.path.join(self.tree, "include", "shm_sample.h")
        with open(path, encoding="utf-8") as source:
            text = source.read()
        without = text.replace("zero, [20]", "zero, [19]")
        self.assertNotEqual(text, without)
        self.file("tree/include/shm_sample.h", without.encode())
        self.run_all(["cmake", "-S", ".", "-B", "build"])
        out, err = self.finish(self.start(["cmake", "--build", "build", "--target", "cliente_c"],
                                          cwd=self.tree), None)
        self.assertIn("a gap in struct shm_sample", out + err)


class Receiver(PairTest):
    """The Python in the README is the host, and reads what C sends."""

    def receiver(self, script: str, python: str = HOST[0]):
        script = script.replace('"/mine"', f'"/{self.name}"')
        self.assertIn(self.name, script)
        process = self.start([python, self.file("receive.py", script.encode())],
                             env={"PYTHONPATH": ROOT})
        self.until(lambda: process.poll() is not None or self.peek_word(128, 4) == 1, "it is live")
        if process.poll() is not None:
            self.fail(process.communicate()[1])
        return process

    def ended(self, process):
        """Its output; and it has left nothing."""
        out, err = self.finish(process)
        self.assertEqual(err, "")
        self.assertFalse(self.segment_exists())
        self.assertFalse([name for name in os.listdir(self.folder.name) if "lock" in name])
        return out

    def test_it_reads_what_a_client_sends(self) -> None:
        data = bytes(range(256)) * 1000 + b"and a rest"
        receiver = self.receiver(block("python"))
        self.finish(self.client("--source", self.file("data", data), "--quiet"))
        self.assertEqual(int(self.ended(receiver)), sum(data))

    def test_it_reads_what_the_driver_sends(self) -> None:
        require(os.path.exists(DRIVER), "teach_driver is not built")
        receiver = self.receiver(block("python"))
        self.finish(self.start([DRIVER, "/" + self.name, "3000"]))
        sent = b"".join(struct.pack("4f", n, n + .25, n + .5, n + .75) for n in range(1, 3001))
        self.assertEqual(int(self.ended(receiver)), sum(sent))

    def test_a_script_that_is_interrupted_leaves_nothing(self) -> None:
        """Ctrl-C ends it in the middle; the resource tracker cleans up behind it."""
        receiver = self.receiver(block("python"))
        receiver.send_signal(2)
        self.finish(receiver, None)
        self.assertNotEqual(receiver.returncode, 0)
        self.until(lambda: not self.segment_exists(), "the name is gone")

    def test_numpy(self) -> None:
        """An array on the slot itself: the comment in the README, taken at its word."""
        require(os.path.exists(DRIVER), "teach_driver is not built")
        python = next((python for python in (HOST[0], shutil.which("python3"), "/usr/bin/python3")
                       if python and subprocess.run([python, "-c", "import numpy"],
                                                    stderr=subprocess.DEVNULL).returncode == 0),
                      None)
        require(python, "no Python here has numpy")
        line = re.search(r"total \+= sum\(payload\) +# or (numpy.*)", block("python"))
        script = "import numpy\n" + block("python").replace(line.group(), f"""\
total += {line.group(1)}
        array = numpy.frombuffer(payload, "f4")
        if len(array):  # measurement n begins with n
            slot = segment.lanes[host.UP].slot_at(int(array[0]))
            assert array.ctypes.data - segment.address == slot + host.SLOT_HEAD, "it is a copy"
        del array  # a view, too""")
        receiver = self.receiver(script, python)
        self.finish(self.start([DRIVER, "/" + self.name, "1000"]))
        self.assertEqual(float(self.ended(receiver)),
                         sum(4 * n + 1.5 for n in range(1, 1001)))


if __name__ == "__main__":
    unittest.main()
