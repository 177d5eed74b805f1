"""What every test of the pair needs: real programs, own names, a watchdog, and nothing left behind.

Environment: CLIENTE_C, the client under test; CLIENTE_C_WRAPPER, what runs it (an emulator);
HOST_PYTHON, the Python that runs host.py. ctest sets them; by hand they default to ./build and the
Python that runs the test.
"""
import contextlib
import glob
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import threading
import time
import unittest
import uuid
from typing import Callable, List, Optional

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
HOST = [os.environ.get("HOST_PYTHON", sys.executable), os.path.join(ROOT, "host.py")]


def changed_host(change: str) -> List[str]:
    """host.py after this statement, in which host and shmprueba are its modules."""
    return [HOST[0], "-c", f"import os, signal, sys; sys.path.insert(0, {ROOT!r}); "
            f"import host, shmprueba; {change}; "
            "[signal.signal(n, host.stop) for n in host.STOP_SIGNALS]; "
            "os._exit(host.main(sys.argv[1:]))"]


WEAK_HOST = changed_host("shmprueba.WEAK = True")  # with every fence, as on ARM
CLIENT = (shlex.split(os.environ.get("CLIENTE_C_WRAPPER", ""))
          + [os.environ.get("CLIENTE_C", os.path.join(ROOT, "build", "cliente_c"))])
SLOW = float(os.environ.get("TEST_SLOWNESS", "1"))  # emulators and sanitizers: longer time-outs
WATCHDOG_S = 120 * SLOW

# The segment (include/shm_layout.h), in bytes: its blocks, and the fields of a lane.
FLAGS, SESSION, STATE, CPU, HEARTBEAT, DOWN, UP, SLOTS = 36, 40, 512, 516, 520, 640, 1024, 4096
HEAD, DROPPED, PLACE, PID, WISH, ATTACHED = 0, 8, 128, 136, 256, 264
CLAIMING = (1 << 48) - 1  # the position of a consumer that is just claiming

sys.path[:0] = [ROOT, os.path.join(ROOT, "src")]


class PairTest(unittest.TestCase):
    """A segment name and a temp folder of its own; processes are ended and checked afterwards."""

    def setUp(self) -> None:
        self.name = "t" + uuid.uuid4().hex[:12]  # short enough for macOS
        self.folder = tempfile.TemporaryDirectory(prefix="shmprueba-test-")
        self.addCleanup(self.folder.cleanup)
        self.processes: List[subprocess.Popen] = []
        self.addCleanup(self._leave_nothing, self.name)

    def _leave_nothing(self, name: str) -> None:
        for process in self.processes:
            self._kill(process)
            process.wait()
            for pipe in (process.stdin, process.stdout, process.stderr):
                if pipe:
                    pipe.close()
        for path in glob.glob(f"/dev/shm/{name}*") + glob.glob(f"/tmp/shmprueba-*-{name}*.lock"):
            try:
                folder = os.path.isdir(path) and not os.path.islink(path)
                os.rmdir(path) if folder else os.unlink(path)
            except FileNotFoundError:
                pass  # its host is just ending

    def path(self, name: str) -> str:
        return os.path.join(self.folder.name, name)

    def file(self, name: str, content: bytes) -> str:
        with open(self.path(name), "wb") as out:
            out.write(content)
        return self.path(name)

    def content(self, name: str) -> str:
        with open(self.path(name)) as file:
            return file.read()

    def start(self, command: List[str], env: Optional[dict] = None, **popen) -> subprocess.Popen:
        """Starts it under a watchdog: a hang becomes a failure, never a hung test run. It leads a
        process group, so that what it starts can be ended with it."""
        popen.setdefault("stdin", subprocess.DEVNULL)
        popen.setdefault("stdout", subprocess.PIPE)
        popen.setdefault("stderr", subprocess.PIPE)
        popen.setdefault("preexec_fn", os.setpgrp)
        process = subprocess.Popen(command, text=popen.pop("text", True), **popen, env={
            **os.environ, "PYTHONDONTWRITEBYTECODE": "1", **(env or {})})
        process.watchdog = threading.Timer(WATCHDOG_S, self._bite, [process])
        process.watchdog.daemon = True
        process.watchdog.start()
        process.bitten = False
        self.processes.append(process)
        return process

    @staticmethod
    def _bite(process: subprocess.Popen) -> None:
        process.bitten = True
        PairTest._kill(process)

    @staticmethod
    def _kill(process: subprocess.Popen) -> None:
        if process.poll() is None:  # else the number may be another's already
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)

    def host_words(self, *options: str, program: List[str] = HOST) -> List[str]:
        """A busy machine is not a stalled client: the patience is long, unless the test says it."""
        return program + ["--name", self.name, "--stall-timeout", "30", *map(str, options)]

    def host(self, *options: str, **popen) -> subprocess.Popen:
        return self.start(self.host_words(*options), **popen)

    def client(self, *options: str, **popen) -> subprocess.Popen:
        return self.start(CLIENT + [str(o) for o in options] + [self.name], **popen)

    def pair(self, host_options: List[str], client_options: List[str], **popen) -> subprocess.Popen:
        """host.py HOST_OPTIONS -- cliente_c CLIENT_OPTIONS NAME"""
        return self.host(*host_options, "--", *CLIENT, *client_options, self.name, **popen)

    def finish(self, process: subprocess.Popen, code: Optional[int] = 0):
        """Waits, checks the exit code, returns (stdout, stderr)."""
        out, err = process.communicate()
        process.watchdog.cancel()
        self.assertFalse(process.bitten, f"hung: {process.args}\n{out}\n{err}")
        if code is not None:
            self.assertEqual(process.returncode, code, f"{process.args}\n{out}\n{err}")
        if isinstance(err, str):  # a starved host seems stalled: a remark, and no failure
            err = re.sub(r"(?m)^cliente_c: \S+: its host (is stalled: .*|goes on)\n", "", err)
        return out, err

    def finish_json(self, process: subprocess.Popen, code: Optional[int] = 0) -> dict:
        out, err = self.finish(process, code)
        self.assertEqual(len(out.splitlines()), 1, out)
        return json.loads(out)

    def one_line(self, text: str, *words: str) -> str:
        """An error is one line, and says these words."""
        self.assertEqual(text.count("\n"), 1, f"not one line: {text!r}")
        for word in words:
            self.assertIn(word, text)
        return text

    def until(self, condition: Callable[[], object], what: str = "condition",
              seconds: float = 60) -> object:
        end = time.monotonic() + seconds * SLOW
        while time.monotonic() < end:
            value = condition()
            if value:
                return value
            time.sleep(0.005)
        self.fail(f"{what}: not within {seconds * SLOW:g} s")

    def segment_exists(self) -> bool:
        return os.path.exists(f"/dev/shm/{self.name}")

    def wait_live(self) -> None:
        self.until(lambda: self.peek_word(STATE, 4) == 1, "the host is live")

    # The segment as bytes, without attaching (Linux): what a test may look at or change.

    def peek_word(self, offset: int, size: int = 8) -> int:
        try:
            with open(f"/dev/shm/{self.name}", "rb") as segment:
                segment.seek(offset)
                return int.from_bytes(segment.read(size), sys.byteorder)
        except FileNotFoundError:
            return 0

    def poke(self, offset: int, value: bytes) -> None:
        with open(f"/dev/shm/{self.name}", "r+b", buffering=0) as segment:
            segment.seek(offset)
            segment.write(value)

    def head(self, lane: int = DOWN) -> int:
        return self.peek_word(lane + HEAD)

    def place(self) -> int:
        """The down lane's: which consumer, and how far it is."""
        return self.peek_word(DOWN + PLACE)

    def epoch(self) -> int:
        return self.place() >> 48

    def position(self) -> int:
        return self.place() & CLAIMING

    def consumer_pid(self) -> int:
        return self.peek_word(DOWN + PID, 4)

    def wait_claimed(self, epoch: int = 1) -> None:
        """The consumer of this epoch has begun."""
        self.until(lambda: self.epoch() >= epoch and self.position() != CLAIMING, "it has claimed")

    def role_is_held(self, role: int) -> bool:
        """As the kernel says: shmprueba.HOST, CONSUMER, SENDER or RECEIVER."""
        import shmprueba
        try:
            if shmprueba.LOCK_FILE:
                roles = shmprueba.Roles.of_file("/" + self.name, os.geteuid(), False)
            else:
                roles = shmprueba.Roles(shmprueba.open_object("/" + self.name, os.O_RDONLY))
        except FileNotFoundError:
            return False
        try:
            return roles.held(role)
        finally:
            roles.close()

    def wait_attached(self, count: int = 1) -> None:
        """So many clients have come: to count itself is the last step of attaching."""
        self.until(lambda: self.peek_word(DOWN + ATTACHED, 4) >= count, f"{count} are attached")

    def stop(self, process: subprocess.Popen) -> None:
        """SIGSTOP, and it has come to rest."""
        process.send_signal(signal.SIGSTOP)

        def rests() -> bool:
            with open(f"/proc/{process.pid}/stat") as status:
                return status.read().rpartition(")")[2].split()[0] == "T"
        self.until(rests, "it is stopped")

    @staticmethod
    def catches(pid: int, *signals: int) -> bool:
        with open(f"/proc/{pid}/status") as status:
            caught = next(line for line in status if line.startswith("SigCgt:")).split()[1]
        return all(int(caught, 16) >> number - 1 & 1 for number in signals)


def require(condition: object, reason: str) -> None:
    if not condition:
        raise unittest.SkipTest(reason)


def can_unshare(*flags: str) -> bool:
    return subprocess.run(["unshare", *flags, "true"], stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL).returncode == 0
