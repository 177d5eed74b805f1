"""What a person sees, on a terminal of 80 columns."""
import fcntl
import os
import pty
import re
import struct
import subprocess
import termios
import threading
import unittest
from typing import List

from support import CLIENT, HOST, PairTest

WIDTH = 80


class OnTerminal:
    """A process whose standard output is a terminal; shown is what it wrote there."""

    def __init__(self, test: PairTest, words: List[str], stderr=subprocess.PIPE, **env) -> None:
        self.main, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", 24, WIDTH, 0, 0))
        self.process = test.start(["env", "-u", "COLUMNS", "-u", "NO_COLOR", *words],
                                  stdout=terminal, stderr=stderr, env={"TERM": "xterm", **env})
        os.close(terminal)
        self.test, self.raw = test, b""
        self.reader = threading.Thread(target=self._read)
        self.reader.start()

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


class Terminal(PairTest):
    def live_lines(self, shown: str) -> List[str]:
        """What was written between going to the begin of the line and clearing the rest of it."""
        return [line for line in re.findall(r"\r([^\r\n]*?)\033\[K", shown) if line]

    def fits(self, who: str, shown: str) -> None:
        for line in self.live_lines(shown):
            self.assertLess(len(line), WIDTH, f"{who}: {line!r} cannot be overwritten")
        plain = re.sub(r"\033\[[0-9;]*[A-Za-z]", "", shown)
        for line in re.split(r"[\r\n]+", plain):
            self.assertLessEqual(len(line), WIDTH, f"{who}: {line!r}")

    def test_no_line_wraps(self) -> None:
        source = self.file("in", os.urandom(100_000))
        runs = (([], []), ([], ["--lossless"]), (["--echo"], ["--echo"]), (["--crc"], ["--verify"]),
                (["--sink", self.path("out")], ["--source", source]))
        started = []
        for number, (of_host, of_client) in enumerate(runs):
            name = f"{self.name}{number}".ljust(20, "x")  # as long as it may be
            self.addCleanup(self._leave_nothing, name)
            host = OnTerminal(self, HOST + ["--name", name, "--rate", "1000", *of_host])
            count = [] if "--source" in of_client else ["--count", "1200"]
            started.append((host, OnTerminal(self, [*CLIENT, "--timeout", "100", *count, *of_client,
                                                    name])))
        for (of_host, of_client), (host, client) in zip(runs, started):
            with self.subTest(host=of_host, client=of_client):
                client.end()
                if "--echo" not in of_host and "--sink" not in of_host:
                    host.process.terminate()
                self.assertEqual(host.end(), "")
                for who, terminal, last in (("host.py", host, "clients"),
                                            ("cliente_c", client, "resolution")):
                    self.fits(who, terminal.shown)
                    self.assertIn(last, terminal.shown)  # the report is there, to its end
                self.assertTrue(self.live_lines(host.shown))
                self.assertTrue("--source" in of_client or self.live_lines(client.shown))

    def test_help(self) -> None:
        for command in (HOST + ["--help"], CLIENT + ["--help"], CLIENT + ["--version"]):
            terminal = OnTerminal(self, command)
            self.assertEqual(terminal.end(), "")
            self.assertTrue(terminal.shown)
            self.fits(command[-2], terminal.shown)

    def test_live_lines_and_colour(self) -> None:
        """A live line that counts, from each; colour from the client, and not with NO_COLOR."""
        host = OnTerminal(self, self.host_words("--rate", "1000"))
        self.wait_live()
        client = OnTerminal(self, [*CLIENT, "--lossless", "--count", "1500", self.name])
        client.end()
        self.assertRegex(client.shown, r"\r +[0-9]+ s  [1-9][0-9]* messages .* lost  p50 ")
        self.assertIn("\033[1mattached", client.shown)
        plain = OnTerminal(self, ["env", "NO_COLOR=1", *CLIENT, "--count", "5", self.name])
        plain.end()
        self.assertNotIn("\033[1m", plain.shown)
        self.until(lambda: " 2 clients" in host.shown, "the host has counted both")
        host.process.terminate()
        host.end()
        self.assertRegex(host.shown, r"\r +[0-9]+ s  [1-9][0-9]* messages .*  [12] clients"
                                     rf"  pid {client.process.pid}, lag [0-9]+\033\[K")

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
                self.until(lambda: "waiting for" in host.shown, "it says so")
                self.assertRegex(host.shown, f"waiting for {who}\r\n")
                self.until(lambda: self.live_lines(host.shown), "a live line")
                host.process.terminate()
                host.end()
                self.assertEqual(host.shown.count("waiting for"), 1)


if __name__ == "__main__":
    unittest.main()
