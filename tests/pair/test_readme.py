"""README.md is a walkthrough that runs: every shell block in it is executed here or by .ci/run.

A comment before each block says how: <!-- run --> as it is; <!-- terminal 1 --> in the background
while the following <!-- terminal 2 --> runs, and ended by Ctrl-C; <!-- demo --> and <!-- tests -->
install packages: .ci/run runs those two.
"""
import ctypes
import os
import re
import shutil
import signal
import subprocess
import unittest

from support import CLIENT, HOST, ROOT, PairTest, can_unshare

CLONE_NEWNS = 0x20000

MARKS = {"run", "terminal 1", "terminal 2", "demo", "tests", "slow"}


def private_shm() -> bool:
    """A /dev/shm that only this thread, and what it starts, can see (Linux, as root)."""
    return (can_unshare("-m") and ctypes.CDLL(None).unshare(CLONE_NEWNS) == 0
            and subprocess.call(["mount", "--make-rprivate", "/"]) == 0
            and subprocess.call(["mount", "-t", "tmpfs", "none", "/dev/shm"]) == 0)


def blocks():
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as readme:
        text = readme.read()
    found = re.findall(r"(?:<!-- ([a-z0-9 ]+) -->\n)?```sh\n(.*?)```", text, re.S)
    return [(mark, body) for mark, body in found]


class Readme(PairTest):
    def setUp(self) -> None:
        super().setUp()
        # The README says /shmprueba; a user's host of that name must not be disturbed.
        if not private_shm() and os.path.exists("/dev/shm/shmprueba"):
            self.skipTest("/dev/shm/shmprueba is in use, and no private /dev/shm is to be had")
        tree = self.path("clone")
        os.mkdir(tree)
        for name in ("host.py", "CMakeLists.txt", "README.md"):
            shutil.copy(os.path.join(ROOT, name), tree)
        for name in ("src", "include", "tests"):
            shutil.copytree(os.path.join(ROOT, name), os.path.join(tree, name))
        os.mkdir(os.path.join(tree, "build"))
        os.symlink(os.path.abspath(CLIENT[-1]), os.path.join(tree, "build", "cliente_c"))
        os.mkdir(self.path("bin"))
        os.symlink(HOST[0], self.path("bin/python3"))

    def shell(self, body: str, cwd: str = "clone") -> subprocess.Popen:
        command = ["bash", "-euo", "pipefail", "-c", body]
        return self.start(command, cwd=self.path(cwd), stderr=subprocess.STDOUT,
                          env={"HOME": self.folder.name,
                               "PATH": self.path("bin") + ":" + os.environ["PATH"]})

    def test_every_block(self) -> None:
        ran, first = 0, None
        for mark, body in blocks():
            with self.subTest(block=body):
                self.assertIn(mark, MARKS, f"a block without a mark: {body}")
                if mark in ("demo", "tests", "slow"):
                    continue
                ran += len(body.splitlines())  # commands
                process = self.shell("exec " + body if mark == "terminal 1" else body)
                if mark == "terminal 1":
                    first = process
                    continue
                self.finish(process)
                if mark == "terminal 2":
                    first.send_signal(signal.SIGINT)
                    self.finish(first)
                    first = None
        self.assertGreater(ran, 8)

    def test_links_and_messages(self) -> None:
        """Files that it names exist; messages that it explains are those of the programs."""
        with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as readme:
            text = readme.read()
        for target in re.findall(r"\]\(([^)#:]+)\)", text):
            self.assertTrue(os.path.exists(os.path.join(ROOT, target)), target)
        sources = ""
        names = [os.path.join("src", name) for name in os.listdir(os.path.join(ROOT, "src"))]
        for name in ("host.py", *names):
            with open(os.path.join(ROOT, name), encoding="utf-8") as source:
                sources += re.sub(r'"\s*\n\s*f?"', "", source.read())
        section = text.split("## Exit codes and troubleshooting")[1].split("\n## ")[0]
        messages = re.findall(r"^\| `([^`]+)`", section, re.M)
        self.assertGreater(len(messages), 8)
        for message in messages:
            for part in message.split("…"):
                self.assertIn(part.strip(), sources, message)


if __name__ == "__main__":
    unittest.main()
