"""Every fault in one table: what was done, what was expected, what happened, pass or fail.

The rows are the tests' own: the first line of a docstring is "done | expected"; a test may put what
it saw into self.happened. `cmake --build BUILD --target faults`, or by hand: python3 faults.py
"""
import concurrent.futures
import fcntl
import os
import signal
import struct
import subprocess
import sys
import termios
import textwrap
import time
import unittest
from typing import BinaryIO, List, Optional, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [HERE, os.path.join(os.path.dirname(HERE), "pair")]

from support import (ATTACHED, CLAIMING, CLIENT, DOWN, DROPPED, HEAD, HOST, PID,  # noqa: E402
                     PLACE, ROOT, SLOTS, UP, WISH, PairTest, can_unshare, changed_host, require)

BUILD = os.environ.get("BUILD_DIR", os.path.join(ROOT, "build"))
HOSTILE = os.path.join(BUILD, "tests", "fault_hostile")
AS_ROOT = [] if os.getuid() == 0 else ["--user", "--map-root-user"]  # in a namespace of our own
HOST_ROLE, CONSUMER, SENDER, RECEIVER = range(4)  # the byte that the holder of a role has locked
F_OFD_GETLK, F_OFD_SETLK = 36, 37


class FaultTest(PairTest):
    happened = ""

    def hostile(self, mode: str, *arguments: object) -> subprocess.Popen:
        """A host in C that does not play by the rules (hostile.c)."""
        require(os.path.exists(HOSTILE), f"{HOSTILE} is not built")
        process = self.start([HOSTILE, "host", self.name, mode, *map(str, arguments)])
        self.wait_live()
        return process

    def ended(self, process: subprocess.Popen, code: int = 0, number: int = signal.SIGTERM):
        """Ends it with a signal; (stdout, stderr)."""
        process.send_signal(number)
        return self.finish(process, code)

    def struck(self, mode: str, argument: int, *options: object) -> str:
        """What a client with these options says, and it exits 5, when a hostile host does its worst
        once messages flow."""
        host = self.hostile(mode, argument)
        try:
            client = self.client("-n", 0, *options)
            self.wait_attached()
            self.wait_published(20)
            host.send_signal(signal.SIGUSR1)
            return self.finish(client, 5)[1]
        finally:
            self.ended(host)

    def last_line(self, text: str, *words: str) -> str:
        """The reason of an exit, perhaps after a word on a stalled host; no sanitizer's report."""
        lines = text.splitlines()
        self.assertIn(len(lines), (1, 2, 3), text)
        for line in lines:
            self.assertRegex(line, r"^(cliente_c|host\.py): /")
        for word in words:
            self.assertIn(word, lines[-1])
        return lines[-1]

    @staticmethod
    def state_of(process: subprocess.Popen) -> str:
        with open(f"/proc/{process.pid}/stat") as stat:
            return stat.read().rsplit(")", 1)[1].split()[0]

    def freeze(self, process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGSTOP)
        self.until(lambda: self.state_of(process) == "T", "it stands still")

    def thaw(self, process: subprocess.Popen) -> None:
        process.send_signal(signal.SIGCONT)

    def pass_time(self, seconds: float) -> None:
        """Where the time is the fault itself: a peer that does nothing for so long."""
        time.sleep(seconds)

    def segment(self, size: int = 4096) -> bytes:
        with open(f"/dev/shm/{self.name}", "rb") as segment:
            return segment.read(size)

    # -- the host and its one consumer

    def wait_published(self, count: int) -> None:
        """The host goes on: so many messages more."""
        now = self.head()
        self.until(lambda: self.head() > now + count, "the host publishes")

    def dropped(self) -> int:
        return self.peek_word(DOWN + DROPPED)

    def consumer(self) -> int:
        """The epoch of the one that has begun and is not dropped; 0: there is none."""
        place = self.place()
        epoch, settled = place >> 48, place & CLAIMING != CLAIMING
        return epoch if settled and epoch % 2 and epoch != self.dropped() else 0

    def wait_consumer(self, process: Optional[subprocess.Popen] = None) -> int:
        """It is the consumer; its epoch. None: a client whose pid is another one here."""
        self.until(lambda: self.consumer() and (process is None
                                                or self.consumer_pid() == process.pid),
                   "it is the consumer")
        return self.epoch()

    def wait_read(self, count: int) -> None:
        """The consumer goes on: so many messages more."""
        now = self.position()
        self.until(lambda: now + count < self.position() < CLAIMING, "the consumer reads")

    def wait_dropped(self, epoch: int) -> None:
        self.until(lambda: self.dropped() == epoch, f"the host drops the consumer of epoch {epoch}")

    def wait_full(self, slots: int, client: Optional[subprocess.Popen] = None) -> None:
        """The ring is full, and the host stands before it. client: so is the pipe of its output,
        and the client stands before that."""
        def full() -> bool:
            waiting = bytearray(4)
            if client:
                fcntl.ioctl(client.stdout.fileno(), termios.FIONREAD, waiting)
            return (self.head() - self.position() >= slots
                    and (not client or int.from_bytes(waiting, sys.byteorder) > 60_000))

        self.until(full, "the ring is full")

    def wait_asleep(self, process: subprocess.Popen) -> None:
        """It sleeps for the next message (--wait block)."""
        self.until(lambda: self.peek_word(DOWN + WISH) > self.head()
                   and self.state_of(process) == "S", "it sleeps")

    # -- a client that this test plays itself

    def hold(self, role: int) -> BinaryIO:
        """Holds the kernel's lock of a role, as a client does. To close the file is its death: the
        kernel shows no other sign of that."""
        file = open(f"/dev/shm/{self.name}", "r+b", buffering=0)
        self.addCleanup(file.close)
        fcntl.fcntl(file, F_OFD_SETLK, struct.pack("hh4xqqi4x", fcntl.F_WRLCK, os.SEEK_SET, role,
                                                   1, 0))
        return file

    def is_held(self, role: int) -> bool:
        """Does any process hold it?"""
        with open(f"/dev/shm/{self.name}", "rb") as file:
            found = fcntl.fcntl(file, F_OFD_GETLK, struct.pack("hh4xqqi4x", fcntl.F_WRLCK,
                                                               os.SEEK_SET, role, 1, 0))
        return struct.unpack_from("h", found)[0] != fcntl.F_UNLCK

    def poke_word(self, offset: int, value: int) -> None:
        self.poke(offset, value.to_bytes(8, sys.byteorder))

    def poke_place(self, epoch: int, position: int, pid: int = 0) -> None:
        """As a client stores them."""
        if pid:
            self.poke(DOWN + PID, pid.to_bytes(4, sys.byteorder))
        self.poke_word(DOWN + PLACE, epoch << 48 | position)


# ---- the table ----------------------------------------------------------------------------------

class Rows(unittest.TestResult):
    def __init__(self) -> None:
        super().__init__()
        self.rows: List[Tuple[str, str, str, str]] = []
        self.texts: List[str] = []

    def add(self, test: unittest.TestCase, verdict: str, happened: str) -> None:
        done, _, expected = (test.shortDescription() or str(test)).partition(" | ")
        self.rows.append((done, expected, happened, verdict))

    def addSuccess(self, test) -> None:
        self.add(test, "pass", getattr(test, "happened", "") or "as expected")

    def addSkip(self, test, reason) -> None:
        self.add(test, "skip", reason)

    def addFailure(self, test, err) -> None:
        super().addFailure(test, err)
        self.add(test, "FAIL", str(err[1]).strip().splitlines()[0])
        self.texts.append(f"{test}\n{self.failures[-1][1]}")

    def addError(self, test, err) -> None:
        super().addError(test, err)
        self.add(test, "FAIL", repr(err[1]))
        self.texts.append(f"{test}\n{self.errors[-1][1]}")

    def addSubTest(self, test, subtest, err) -> None:
        super().addSubTest(test, subtest, err)
        if err:
            self.add(test, "FAIL", str(err[1]).strip().splitlines()[0])
            self.texts.append(f"{subtest}\n{err[1]}")


class Programs(FaultTest):
    """The C programs, for the table; ctest runs them by themselves."""

    def program(self, *command: str) -> None:
        path = os.path.join(BUILD, "tests", command[0])
        require(os.path.exists(path), f"{path} is not built")
        out, _ = self.finish(self.start([path, *command[1:]]))
        self.happened = out.strip().splitlines()[-1]

    def test_headers(self) -> None:
        """100,000 headers and lanes of anything, attached to | accepted or refused, in bounds"""
        self.program("fault_hostile", "headers")

    def test_read(self) -> None:
        """a lane read in process under attack | every message in bounds"""
        self.program("fault_hostile", "read", "10")

    def test_threads(self) -> None:
        """a producer and two readers as threads, consumer or not | no torn message, exact counts"""
        self.program("fault_threads")


def print_table(rows: List[Tuple[str, str, str, str]]) -> None:
    widths = (34, 30, 34, 4)
    rule = "+".join("-" * (width + 2) for width in widths)
    for row in [("done", "expected", "happened", "")] + rows:
        cells = [textwrap.wrap(cell, width) or [""] for cell, width in zip(row, widths)]
        for i in range(max(map(len, cells))):
            print(" | ".join((cell[i] if i < len(cell) else "").ljust(width)
                             for cell, width in zip(cells, widths)).rstrip())
        print(rule)


def cases() -> List[type]:
    import test_client_faults
    import test_host_faults
    import test_lock_file
    import test_segment_faults
    import test_start_faults
    modules = (test_host_faults, test_start_faults, test_client_faults, test_segment_faults,
               test_lock_file)
    return [c for module in modules for c in vars(module).values()
            if isinstance(c, type) and issubclass(c, FaultTest) and c is not FaultTest] + [Programs]


class Table(unittest.TestCase):
    def test_readme(self) -> None:
        """README.md has these rows, and no others."""
        tests = [vars(case)[name] for case in cases()
                 for name in vars(case) if name.startswith("test_")]
        rows = [f"| {test.__doc__} |" for test in tests]
        with open(os.path.join(HERE, "README.md"), encoding="utf-8") as readme:
            found = [line.rstrip() for line in readme if line.startswith("| ")]
        self.assertEqual(found[1:], rows, "these are the rows:\n" + "\n".join(rows))


def main() -> int:
    def run(case: type) -> Rows:
        rows = Rows()
        unittest.defaultTestLoader.loadTestsFromTestCase(case).run(rows)
        return rows

    begin = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        results = list(pool.map(run, cases()))
    print_table([row for result in results for row in result.rows])
    for result in results:
        for text in result.texts:
            print(text, file=sys.stderr)
    verdicts = [row[3] for result in results for row in result.rows]
    print(f"{verdicts.count('pass')} passed, {verdicts.count('skip')} skipped, "
          f"{verdicts.count('FAIL')} failed, in {time.monotonic() - begin:.0f} s")
    return int("FAIL" in verdicts)


if __name__ == "__main__":
    # This file is two modules then: the tests import it by its name, and so must the runner.
    import faults
    sys.exit(faults.main())
