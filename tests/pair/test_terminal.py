"""What a person sees, on terminals of several sizes."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import types
import unittest
from typing import List

from support import CLIENT, HOST, PairTest
import host as program

ROWS, WIDTH = 24, 80


class OnTerminal:
    """A process whose standard output is a terminal; shown is what it wrote there."""

    def __init__(self, test: PairTest, words: List[str], stderr=subprocess.PIPE, rows: int = ROWS,
                 width: int = WIDTH) -> None:
        self.main, terminal = pty.openpty()
        self.resize(rows, width)
        self.process = test.start(["env", "-u", "COLUMNS", "-u", "NO_COLOR", *words],
                                  stdout=terminal, stderr=stderr, env={"TERM": "xterm"})
        os.close(terminal)
        self.test, self.raw = test, b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

    def resize(self, rows: int, width: int) -> None:
        fcntl.ioctl(self.main, termios.TIOCSWINSZ, struct.pack("HHHH", rows, width, 0, 0))

    def _read(self) -> None:
        try:
            while True:
                self.raw += os.read(self.main, 4096)
        except OSError:  # how Linux says that the other end is closed
            os.close(self.main)

    @property
    def shown(self) -> str:
        return self.raw.decode()

    def end(self, code: int = 0) -> str:
        """@return what it said on standard error"""
        _, err = self.test.finish(self.process, code)
        self.reader.join()
        return err


def live_lines(shown: str) -> List[str]:
    """What was written between going to the begin of the line and clearing the rest of it."""
    return [line for line in re.findall(r"\r([^\r\n]*?)\033\[K", shown) if line]


def lines_that_stay(shown: str) -> List[str]:
    """After the terminal has carried out what was written."""
    plain = re.sub(r"\033\[[0-9;]*m", "", shown).replace("\r\n", "\n")
    return [re.split(r"\r(?:\033\[K)?", line)[-1] for line in plain.rstrip("\n").split("\n")]


class Terminal(PairTest):
    def fits(self, who: str, shown: str, width: int = WIDTH) -> None:
        for line in live_lines(shown):
            self.assertLess(len(line), width, f"{who}: {line!r} cannot be overwritten")
        for line in lines_that_stay(shown):
            self.assertLessEqual(len(line), width, f"{who}: {line!r}")

    def test_no_line_wraps(self) -> None:
        source = self.file("in", os.urandom(100_000))
        runs = (([], []), ([], ["--lossless"]), (["--echo"], ["--echo"]), (["--crc"], ["--verify"]),
                (["--sink", self.path("out")], ["--source", source]))
        started = []
        for number, (of_host, of_client) in enumerate(runs):
            name = f"{self.name}{number}".ljust(20, "x")  # as long as it may be
            self.addCleanup(self._leave_nothing, name)
            host = OnTerminal(self, HOST + ["--name", name, "--rate", "1000", "--stall-timeout",
                                            "30", *of_host])
            count = [] if "--source" in of_client else ["--count", "1200"]
            started.append((host, OnTerminal(self, [*CLIENT, "--timeout", "100", *count, *of_client,
                                                    name])))
        for (of_host, of_client), (host, client) in zip(runs, started):
            with self.subTest(host=of_host, client=of_client):
                client.end()
                if "--echo" not in of_host and "--sink" not in of_host:
                    host.process.terminate()
                self.assertEqual(host.end(), "")
                for who, terminal, late in (("host.py", host, " bytes"),
                                            ("cliente_c", client, " of a core")):
                    self.fits(who, terminal.shown)
                    self.assertIn(late, terminal.shown)
                if "--source" not in of_client:  # that takes milliseconds
                    self.assertTrue(live_lines(host.shown) and live_lines(client.shown))

    def test_a_long_run(self) -> None:
        """Half a year at a million messages a second, with delays of minutes: no line wraps.
        (cliente_c: tests/unit/test_report.c)"""
        lines: List[str] = []
        delays = program.Latency({10 ** digits: 1 for digits in range(12)})
        for words in (["--echo"], ["--sink", "x"], ["--input", "x"]):
            options = program.parse_options(words)
            segment = types.SimpleNamespace(published=10 ** 13, attached=10 ** 6, stalls=10 ** 12,
                                            dropped=10 ** 6, missed_wakeups=0)
            program.report(types.SimpleNamespace(
                options=options, segment=segment, publish_ns=delays, round_trip=delays,
                received=10 ** 13, bytes=10 ** 15, tell=lines.append), 1.5e7, 0)
        self.fits("host.py", "\n".join(lines))
        self.assertEqual(len(lines), 3)
        self.assertIn("  round trip  p50 100 us  p90 10.0 s  p99 100 s  p99.9 100 s  max 100 s",
                      lines[0])

    def test_one_screen(self) -> None:
        """Both programs on one terminal: what they say stays on it, with the prompt below."""
        for rows, width in ((24, 80), (50, 132)):
            with self.subTest(rows=rows, width=width):
                both = OnTerminal(self, self.host_words(
                    "--wait-client", "--", *CLIENT, "--count", 1200, self.name),
                    rows=rows, width=width)
                self.assertEqual(both.end(), "")
                self.fits("both", both.shown, width)
                lines = lines_that_stay(both.shown)
                self.assertLess(len(lines), 24, "\n".join(lines))
                for words in ("host.py  created", "attached ", "first message ", '"index": ',
                              "messages ", "a second", "waited ", "of a core", "p99.9",
                              "publish -> seen", "due -> seen", "###", "host.py  published"):
                    self.assertTrue([line for line in lines if words in line], words)

    def test_narrow_and_resized(self) -> None:
        """A live line is cut to the width that the terminal has when it is written."""
        host = OnTerminal(self, self.host_words(), width=40)
        self.wait_live()
        client = OnTerminal(self, [*CLIENT, "--count", "0", "--timeout", "100", self.name],
                            width=40)
        both = (host, client)
        self.until(lambda: all(live_lines(one.shown) for one in both), "a live line from each")
        for one in both:
            self.assertLess(max(map(len, live_lines(one.shown))), 40)
            one.resize(24, 120)
        self.until(lambda: all(max(map(len, live_lines(one.shown))) > 45 for one in both),
                   "a longer one from each")
        host.process.terminate()
        for one in both:
            one.end()

    def test_help(self) -> None:
        for command in (HOST + ["--help"], CLIENT + ["--help"], CLIENT + ["--version"]):
            terminal = OnTerminal(self, command)
            self.assertEqual(terminal.end(), "")
            self.assertTrue(terminal.shown)
            self.fits(command[-2], terminal.shown)
            self.assertLess(len(lines_that_stay(terminal.shown)), ROWS, terminal.shown)

    def test_live_lines(self) -> None:
        """One that counts, from each; and it says what it counts."""
        host = OnTerminal(self, self.host_words("--rate", "1000"))
        self.wait_live()
        client = OnTerminal(self, [*CLIENT, "--lossless", "--count", "1500", self.name])
        client.end()
        self.assertRegex(client.shown, r"\r +[0-9]+ s  [1-9][0-9]* messages .* lost ")
        OnTerminal(self, [*CLIENT, "--count", "5", self.name]).end()
        self.until(lambda: " 2 attached so far" in live_lines(host.shown)[-1],
                   "the host has counted both")
        self.assertNotIn("consumer", live_lines(host.shown)[-1])  # it has left
        host.process.terminate()
        host.end()
        self.assertRegex(host.shown, r"\r +[0-9]+ s  [1-9][0-9]* messages .*  1 attached so far"
                                     rf"  consumer {client.process.pid} lags [0-9]+\033\[K")

    def test_a_remark_elsewhere_is_clean(self) -> None:
        name = self.name + 20 * "x"  # has a warning
        with open(self.path("err"), "w+") as err:
            OnTerminal(self, HOST + ["--name", name, "--count", "5"], stderr=err).end()
            err.seek(0)
            text = err.read()
        self.one_line(text, "macOS")
        self.assertTrue(text.startswith(f"host.py: /{name}: "))

    def test_the_host_says_whom_it_waits_for(self) -> None:
        for options, who in ((["--wait-client"], "any cliente_c"), (["--echo"], "cliente_c --echo"),
                             (["--input", "-"], "cliente_c --lossless"),
                             (["--sink", "/dev/null"], "cliente_c --source")):
            with self.subTest(options=options):
                host = OnTerminal(self, self.host_words(*options))
                self.until(lambda: f"waiting for {who}\r\n" in host.shown, "it says so")
                self.until(lambda: live_lines(host.shown), "a live line")
                host.process.terminate()
                host.end()
                self.assertEqual(host.shown.count("waiting for"), 1)


if __name__ == "__main__":
    unittest.main()
