"""Who owns what, where a program forks: locks, the name, and Python's resource tracker.

Each is tried with both forms of the roles: locks of the object, and of a lock file (macOS).
"""
import fcntl
import os
import subprocess
import textwrap
import unittest
from typing import Dict
from unittest import mock

from support import HOST, ROOT, SESSION, PairTest
import shmprueba
from shmprueba import Reader, Segment

SCRIPT = """
import os, signal, subprocess, sys, time
import multiprocessing
from multiprocessing import resource_tracker
import shmprueba
def stay():
    os.read(int(sys.argv[2]), 1)  # until the test closes its end

"""


class Forks(PairTest):
    ENV: Dict[str, str] = {}

    def setUp(self) -> None:
        super().setUp()
        self.leash, self.hold = os.pipe()  # workers live until self.hold is closed
        self.addCleanup(os.close, self.leash)
        self.addCleanup(self.let_go)

    def let_go(self) -> None:
        if self.hold is not None:
            os.close(self.hold)
            self.hold = None

    def script(self, text: str) -> subprocess.Popen:
        path = self.file("script.py", (SCRIPT + text).encode())
        return self.start([HOST[0], "-W", "error", path, self.name, str(self.leash)],
                          pass_fds=[self.leash], stdin=subprocess.PIPE,
                          env={"PYTHONPATH": os.path.join(ROOT, "src"), **self.ENV})

    @staticmethod
    def is_gone(pid: int) -> bool:
        """Or a zombie that nobody reaps."""
        try:
            with open(f"/proc/{pid}/stat") as status:
                return status.read().rpartition(")")[2].split()[0] in "ZX"
        except (FileNotFoundError, ProcessLookupError):
            return True

    WORKERS = {
        "os.fork": "worker = os.fork()\n    if not worker:\n        stay()\n        os._exit(0)",
        "fork": "process = multiprocessing.get_context('fork').Process(target=stay)\n"
                "    process.start(); worker = process.pid",
        "subprocess": "worker = subprocess.Popen(['sh', '-c', f'read x <&{sys.argv[2]}'], "
                      "close_fds=False).pid",
        "a grandchild": "worker = os.fork()\n    if not worker:\n        if os.fork():\n"
                        "            stay()\n        stay()\n        os._exit(0)"}

    def test_a_worker_outlives_a_host_that_is_killed(self) -> None:
        """The next host starts at once; neither the worker's end nor the tracker's takes its name.
        """
        for kind, worker in self.WORKERS.items():
            with self.subTest(worker=kind):
                process = self.script(
                    "if __name__ == '__main__':\n"
                    "    segment = shmprueba.Segment(sys.argv[1])\n"
                    f"    {worker}\n"
                    "    tracker = resource_tracker._resource_tracker._pid or 0  # 3.13: none\n"
                    "    print(worker, tracker, flush=True)\n"
                    "    while True: segment.send(b'x'); time.sleep(.01)\n")
                worker_pid, tracker_pid = map(int, process.stdout.readline().split())
                client = self.client("-q", "-n", 0, "--timeout", 100, env=self.ENV)
                self.wait_attached()
                process.kill()
                process.wait()
                self.one_line(self.finish(client, 4)[1], "died")
                self.assertFalse(self.is_gone(worker_pid))
                with Segment(self.name) as segment, Reader(self.name) as reader:
                    self.assertIn("replaced a stale segment", segment.replaced)
                    self.assertIn(f"pid {process.pid}", segment.replaced)
                    self.let_go()
                    self.until(lambda: self.is_gone(worker_pid) and self.is_gone(tracker_pid),
                               "the worker and the tracker have ended")
                    self.assertTrue(shmprueba.is_named("/" + self.name, segment._shm._fd))
                    segment.send(b"still here")
                    self.assertEqual(bytes(reader.receive().payload), b"still here")
                    self.assertEqual(self.peek_word(SESSION), segment.session)
                self.leash_again()

    def leash_again(self) -> None:
        os.close(self.leash)
        self.leash, self.hold = os.pipe()

    def test_a_tracker_that_outlives_its_host(self) -> None:
        """Killed with no worker: the segment stays, whatever the tracker does, and is replaced."""
        process = self.script("segment = shmprueba.Segment(sys.argv[1])\n"
                              "print(resource_tracker._resource_tracker._pid or 0, flush=True)\n"
                              "stay()")
        tracker = int(process.stdout.readline())
        process.kill()
        process.wait()
        self.until(lambda: self.is_gone(tracker), "the tracker has ended")
        self.assertTrue(self.segment_exists())
        with Segment(self.name) as segment:
            self.assertIn("replaced a stale segment", segment.replaced)
        self.assertFalse(self.segment_exists())

    def test_host_py_killed_and_its_command_lives(self) -> None:
        fifo = self.path("fifo")  # host.py hands its COMMAND no descriptor
        os.mkfifo(fifo)
        hold = os.open(fifo, os.O_RDWR)
        self.addCleanup(os.close, hold)
        host = self.host("--quiet", "--", "sh", "-c", 'echo $$ >"$1"; read x <"$0"', fifo,
                         self.path("pid"), env=self.ENV)
        self.until(lambda: os.path.exists(self.path("pid")) and os.path.getsize(self.path("pid")),
                   "COMMAND runs")
        with open(self.path("pid")) as file:
            command = int(file.read())
        host.kill()
        host.wait()
        out, err = self.finish(self.host("--count", 5, env=self.ENV))
        self.assertIn("replaced a stale segment", out + err)
        self.assertFalse(self.is_gone(command))
        os.write(hold, b"go\n")
        self.until(lambda: self.is_gone(command), "COMMAND has ended")
        self.finish(host, None)

    LEAVES = {  # a forked child's way out
        "finally: close()": "    try:\n        pass\n    finally:\n        segment.close()\n"
                            "        os._exit(0)",
        "twice": "    segment.close(); segment.close(); os._exit(0)",
        "with": "    with segment, reader: pass\n    os._exit(0)",
        "exit": "    sys.exit(0)",  # through the script's own with
        "exception": "    os.dup2(os.open(os.devnull, os.O_WRONLY), 2); 1 / 0",
        "a grandchild": "    if not os.fork():\n        segment.close()\n        os._exit(0)\n"
                        "    os.wait(); segment.close(); os._exit(0)",
        "a segment of its own": "    with shmprueba.Segment(sys.argv[1] + 'b'): pass\n"
                                "    segment.close(); os._exit(0)",
        "a reader of its own": "    with shmprueba.Reader(sys.argv[1]): pass\n    os._exit(0)"}

    def test_a_forked_child_ends_nothing(self) -> None:
        """A lossless client gets all that its parent sends afterwards."""
        for way, leave in self.LEAVES.items():
            with self.subTest(way=way):
                process = self.script(
                    "with shmprueba.Segment(sys.argv[1], slots=16, receive=True, "
                    "stall_timeout=60) as segment, shmprueba.Reader(sys.argv[1]) as reader:\n"
                    "    sys.stdin.readline()\n"
                    "    for _ in range(3):\n"
                    "        segment.send(b'x')\n"
                    "        if os.fork():\n"
                    "            os.wait()\n"
                    "            continue\n"
                    + textwrap.indent(textwrap.dedent(leave), 8 * " ") + "\n"
                    "    for _ in range(997): segment.send(b'x')\n"
                    "    print(segment.published, segment.dropped, flush=True)\n")
                self.wait_live()
                client = self.client("-l", "-n", 0, "--json", "--timeout", 100, env=self.ENV)
                self.wait_claimed()
                process.stdin.write("go\n")
                process.stdin.close()
                process.stdin = None
                out, err = self.finish(process)
                self.assertEqual((out, err), ("1000 0\n", ""))
                result = self.finish_json(client)
                self.assertEqual((result["messages"], result["lost"], result["host_state"]),
                                 (1000, 0, "closed"))
                self.assertFalse(self.segment_exists())

    def test_a_role_is_not_the_childs(self) -> None:
        """The child holds no lock: the host dies with its parent, and a reader sees it."""
        process = self.script(
            "segment = shmprueba.Segment(sys.argv[1], receive=True)\n"
            "if not os.fork():\n"
            "    print(segment._roles, flush=True)\n    stay(); os._exit(0)\n"
            "stay()\n")
        self.assertEqual(process.stdout.readline(), "None\n")
        roles = range(4)
        self.assertEqual([self.role_is_held(role) for role in roles], [True, False, False, True])
        process.kill()
        process.wait()
        self.until(lambda: not any(self.role_is_held(role) for role in roles), "all are free")


class LockFile(Forks):
    """The same with the lock file form. The test's own segments take it, too."""
    ENV = {"SHMPRUEBA_LOCK_FILE": "1"}

    def setUp(self) -> None:
        super().setUp()
        for name, value in (("LOCK_FILE", True), ("SET_LOCK", fcntl.F_SETLK),
                            ("GET_LOCK", fcntl.F_GETLK)):
            patch = mock.patch.object(shmprueba, name, value)
            patch.start()
            self.addCleanup(patch.stop)


if __name__ == "__main__":
    unittest.main()
