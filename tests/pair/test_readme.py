"""README.md is a walkthrough that runs: every command in it is run here, by .ci/run or in
tests/teach, and every program in it is the file that the tests run.

A comment before each block says how: <!-- run --> as it is; <!-- terminal 1 --> in the background
while the following <!-- terminal 2 --> runs, and ended by Ctrl-C; <!-- terminals --> each line at
once, each on a terminal of its own, `until ctrl-c`: in the first one; <!-- demo --> and
<!-- tests --> install packages: .ci/run runs those two.
"""
import contextlib
import ctypes
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import unittest

from support import CLIENT, HOST, ROOT, PairTest, can_unshare, require

CLONE_NEWNS = 0x20000
ELSEWHERE = {"demo": ".ci/run", "tests": ".ci/run", "machines": "tests/teach/test_machines.py"}
MARKS = {"run", "terminal 1", "terminal 2", "terminals", "terminals until ctrl-c", "systemd",
         *ELSEWHERE}
PROGRAMS = {"python": "publish.py", "c": "reader.c"}  # shown whole, by the language of the block


def private_shm() -> bool:
    """A /dev/shm that only this thread, and what it starts, can see (Linux, as root)."""
    return (can_unshare("-m") and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
            and subprocess.call(["mount", "--make-rprivate", "/"]) == 0
            and subprocess.call(["mount", "-t", "tmpfs", "none", "/dev/shm"]) == 0)


def read(path: str) -> str:
    with open(os.path.join(ROOT, path), encoding="utf-8") as file:
        return file.read()


def blocks():
    """(mark, language, body) of each block of code."""
    return re.findall(r"(?:<!-- ([a-z0-9 -]+) -->\n)?^```(\w*)\n(.*?)^```$", read("README.md"),
                      re.S | re.M)


class Readme(PairTest):
    def setUp(self) -> None:
        super().setUp()
        # The README uses these names; a user's host of such a name must not be disturbed.
        if not private_shm():
            if sys.platform.startswith("linux"):  # another user may run this test, too
                self.until(self.is_alone, "no other run of this test", 600)
            for name in ("shmprueba", "trades", "orders"):
                require(not os.path.exists("/dev/shm/" + name),
                        f"/dev/shm/{name} is in use, and no private /dev/shm is to be had")
        tree = self.path("clone")
        os.mkdir(tree)
        for name in ("host.py", "CMakeLists.txt", "README.md"):
            shutil.copy(os.path.join(ROOT, name), tree)
        for name in ("src", "include", "tests"):
            shutil.copytree(os.path.join(ROOT, name), os.path.join(tree, name))
        os.mkdir(os.path.join(tree, "build"))
        os.symlink(os.path.abspath(CLIENT[-1]), os.path.join(tree, "build", "cliente_c"))
        os.mkdir(self.path("bin"))
        # A busy machine is not a stalled client.
        python = self.file("bin/python3", f"""#!/bin/sh
[ "$1" != host.py ] || {{ shift; set -- host.py --stall-timeout 60 "$@"; }}
exec {shlex.quote(HOST[0])} "$@"
""".encode())
        os.chmod(python, 0o755)

    def is_alone(self) -> bool:
        """A socket name without a file: it goes with this test, however that ends."""
        alone = socket.socket(socket.AF_UNIX)
        self.addCleanup(alone.close)
        with contextlib.suppress(OSError):
            alone.bind("\0shmprueba-readme")
            return True
        alone.close()
        return False

    def shell(self, body: str, **popen) -> subprocess.Popen:
        command = ["bash", "-euo", "pipefail", "-c", body]
        return self.start(command, cwd=self.path("clone"), stderr=subprocess.STDOUT,
                          env={"HOME": self.folder.name,
                               "PATH": self.path("bin") + ":" + os.environ["PATH"]}, **popen)

    @staticmethod
    def ctrl_c(process: subprocess.Popen) -> None:
        os.killpg(process.pid, signal.SIGINT)  # as a terminal does

    def terminals(self, lines, until_ctrl_c: bool) -> None:
        """The first line is the host; each of the others has attached before it is ended."""
        first = self.shell(lines[0])
        self.name = "trades" if until_ctrl_c else "orders"
        self.wait_live()
        others = [self.shell(line) for line in lines[1:]]
        if until_ctrl_c:
            self.finish(others.pop())   # --count 2
            self.wait_attached(2)       # it, and the reader in C
            said = others[-1].stdout.readline()
            self.assertIn(" a second, ", said)
            self.ctrl_c(first)
        for process in (first, *others):
            self.finish(process)
        self.assertFalse(self.segment_exists())

    def test_every_command(self) -> None:
        ran, first = 0, None
        for mark, language, body in blocks():
            if language != "sh" or mark in ELSEWHERE:
                continue
            with self.subTest(block=body):
                self.assertIn(mark, MARKS, f"a block without a mark: {body}")
                ran += len(body.splitlines())
                if mark.startswith("terminals"):
                    self.terminals(body.splitlines(), "ctrl-c" in mark)
                    continue
                process = self.shell("exec " + body if mark == "terminal 1" else body)
                if mark == "terminal 1":
                    first, self.name = process, "shmprueba"
                    self.wait_live()
                    continue
                self.finish(process)
                if mark == "terminal 2":
                    self.ctrl_c(first)
                    self.finish(first)
        self.assertGreater(ran, 8)

    def test_programs(self) -> None:
        """Shown whole: what is copied from here is what tests/teach runs."""
        shown = {language: body for _, language, body in blocks() if language in PROGRAMS}
        self.assertEqual(shown, {language: read("tests/teach/" + name)
                                 for language, name in PROGRAMS.items()})

    def test_units(self) -> None:
        """What systemd would start: the host is killed and comes again, the log goes on, also after
        logrotate has truncated it."""
        body = next(body for mark, _, body in blocks() if mark == "systemd")
        log = self.file("log", b"")
        words = [shlex.split(line.split("=", 1)[1]) for line in body.splitlines()]
        self.assertEqual((words[0][:2], words[1][:2]),
                         (["/usr/bin/python3", "/opt/shmprueba/host.py"], ["/bin/sh", "-c"]))
        host = HOST + words[0][2:]
        client = words[1][2].replace("cliente_c", " ".join(map(shlex.quote, CLIENT)))
        client = client.replace("/var/log/sensor/log", shlex.quote(log))
        self.assertIn(log, client)
        self.name = "shmprueba"

        def lines() -> int:
            with open(log, "rb") as file:
                return file.read().count(b"\n")

        first, reader = self.start(host), self.start([*words[1][:2], client])
        self.until(lambda: lines() > 100, "the log grows")
        first.kill()
        first.wait()
        before, second = lines(), self.start(host)
        self.until(lambda: lines() > before + 1000, "the log goes on")
        os.truncate(log, 0)
        self.until(lambda: lines() > 100, "and again")
        with open(log, "rb") as file:
            self.assertEqual(file.read(1), b"{", "a hole is left where the log was")
        for process in (reader, second):
            process.terminate()
            self.finish(process)

    def test_links_and_messages(self) -> None:
        """Files that it names exist; messages that it explains are those of the programs."""
        text = read("README.md")
        for target in re.findall(r"\]\(([^)#:]+)[)#]", text):
            self.assertTrue(os.path.exists(os.path.join(ROOT, target)), target)
        sources = read("host.py")
        for folder, _, names in os.walk(os.path.join(ROOT, "src")):
            for name in names:
                if name.endswith((".py", ".c", ".h")):
                    sources += read(os.path.join(folder, name))
        sources = re.sub(r'"\s*\n\s*f?"', "", sources)
        section = text.split("## Exit codes and troubleshooting")[1].split("\n## ")[0]
        messages = re.findall(r"^\| `([^`]+)`", section, re.M)
        self.assertGreater(len(messages), 8)
        for message in messages:
            self.assertIn(message, sources)

    def test_its_size(self) -> None:
        """One sitting: 300 lines; text within 80 columns."""
        lines = read("README.md").splitlines()
        self.assertLessEqual(len(lines), 300)
        text = re.sub(r"^```.*?^```$", "", "\n".join(lines), flags=re.S | re.M)
        for line in text.splitlines():
            if not line.startswith("|") and "](" not in line:
                self.assertLessEqual(len(line), 80, line)


if __name__ == "__main__":
    unittest.main()
