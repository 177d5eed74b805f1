"""Odd surroundings: one CPU, containers, no /dev/shm, no temp folder. Clocks are in tests/fault."""
import os
import shlex
import sys
import unittest
from typing import List

from harness import PortTest, need, record, require, run, suite
from support import CLIENT, HOST, can_unshare

USER = [] if os.getuid() == 0 else ["--map-root-user"]  # namespaces of one's own


class Environments(PortTest):
    def inside(self, setup: str, *flags: str) -> List[str]:
        """The prefix that runs a command after SETUP, in a mount namespace of its own."""
        need("unshare", "mount")
        flags = ("--mount", *USER, *flags)
        require(can_unshare(*flags), f"unshare {' '.join(flags)} is not allowed here")
        prefix = ["unshare", *flags, "sh", "-ec", setup + '\nexec "$@"', "sh"]
        code, said = run([*prefix, "/bin/true"])
        require(code == 0, f"not allowed here: {setup!r}: {said.strip()}")
        return prefix

    def run_host(self, prefix: List[str], *options: str, **popen):
        return self.start([*prefix, *HOST, "--name", self.name, *options], **popen)

    def run_client(self, prefix: List[str], *options: str, **popen):
        return self.start([*prefix, *CLIENT, *options, self.name], **popen)

    def attached(self, prefix: List[str]) -> None:
        """Works with this prefix, which has no fault: so the test saw the fault, not the prefix."""
        self.finish(self.run_client(prefix, "-n", "5", "-q"))

    def test_one_cpu(self) -> None:
        need("taskset")
        first = str(min(os.sched_getaffinity(0)))
        what = suite(self, "port", ["smoke"], 300, ["taskset", "-c", first, sys.executable])
        record("one CPU for both: " + what, "ran", compiler="default build")

    def test_private_dev_shm(self) -> None:
        """A container without --ipc=host: it sees no segment, and the line says what to do."""
        private = self.inside("mount -t tmpfs none /dev/shm")
        host = self.host("--rate", 200)
        self.wait_live()
        _, err = self.finish(self.run_client(private, "-t", "0.2"), 3)
        self.one_line(err, "cliente_c", self.name, "no host", "--ipc=host")
        self.attached(self.inside(":"))
        host.terminate()
        self.finish(host)
        record("private /dev/shm: the client names --ipc=host", "ran")

    def test_own_pids(self) -> None:
        """A container with --ipc=host alone, on either side: as without."""
        apart = ["unshare", "--pid", "--mount-proc", *USER, "--fork", "--kill-child"]
        require(can_unshare(*apart[1:]), "no pid namespace here")
        what = suite(self, "port", ["smoke"], 300, CLIENTE_C_WRAPPER=shlex.join(
            apart + shlex.split(os.environ.get("CLIENTE_C_WRAPPER", ""))))
        host = self.run_host(apart, "--rate", "0", "--slots", "4", "--count", "2000", "--json",
                             "--wait-client", "--stall-timeout", "30")
        self.wait_live()
        client = self.finish_json(self.run_client([], "-l", "-v", "--json", "-n", "0"))
        self.assertEqual((client["messages"], client["host_state"]), (2000, "closed"))
        self.assertEqual(self.finish_json(host)["dropped_clients"], 0)
        record("client in a pid namespace of its own, then the host: " + what, "ran")

    def test_no_dev_shm(self) -> None:
        for what, setup, words in (
                ("missing", "mount -t tmpfs none /dev", ["/dev/shm"]),
                ("read-only", "mount -t tmpfs -o ro none /dev/shm", ["Read-only"]),
                ("too small", "mount -t tmpfs -o size=64k none /dev/shm",
                 ["/dev/shm is too small", "--shm-size"])):
            with self.subTest(what=what):
                broken = self.inside(setup)
                out, err = self.finish(self.run_host(broken, "--rate", "0"), 1)
                self.one_line(err, "host.py", self.name, *words)
                self.assertEqual(out, "")
                out, err = self.finish(self.run_client(broken, "-t", "0.1"), 3)
                self.one_line(err, "cliente_c", self.name, "no host")
        record("/dev/shm missing, read-only, too small: one line each", "ran")

    def test_no_temp_folder(self) -> None:
        """Neither side needs one on Linux."""
        folders = [folder for folder in ("/tmp", "/var/tmp", "/usr/tmp", self.folder.name)
                   if os.path.isdir(folder)]
        shut = self.inside("".join(f"mount --bind {folder} {folder}; mount -o remount,ro,bind "
                                   f"{folder}; ! touch {folder}/x 2>/dev/null\n"
                                   for folder in map(shlex.quote, folders)))
        host = self.run_host(shut, "--rate", "500", "--count", "300", "--wait-client")
        self.finish(self.run_client(shut, "-l", "-v", "-n", "0"))
        self.finish(host)
        self.assertFalse(self.segment_exists())
        record("every temp folder read-only: as with one", "ran")


if __name__ == "__main__":
    unittest.main()
