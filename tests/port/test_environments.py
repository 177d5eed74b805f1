"""Odd surroundings: one CPU, containers, time namespaces, no /dev/shm, nowhere to write."""
import json
import os
import unittest
from typing import List

from harness import PortTest, need, record, require, run, suite
from support import CLIENT, HOST, ROOT, can_unshare

USER = [] if os.getuid() == 0 else ["--map-root-user"]  # namespaces of one's own


class Environments(PortTest):
    def inside(self, setup: str, *flags: str) -> List[str]:
        """What runs a command behind SETUP in a mount namespace of its own; nothing leaks out."""
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
        """The same prefix without the fault: it is the fault that the test sees, not the prefix."""
        self.finish(self.run_client(prefix, "-n", "5", "-q"))

    def test_one_cpu(self) -> None:
        need("taskset")
        first = str(min(os.sched_getaffinity(0)))
        what = suite(self, "port", ["smoke"], 300, prefix=["taskset", "-c", first])
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

    def test_container_with_its_own_pids(self) -> None:
        """--ipc=host alone: the host cannot see that the client lives. The line says what to do."""
        apart = self.inside("mount -t proc none /proc", "--pid", "--fork", "--kill-child")
        # In there pids begin at 1, which is somebody else's out here: the client gets a free one.
        free = next(pid for pid in range(400000, 500000) if not os.path.exists(f"/proc/{pid}"))
        apart += ["sh", "-ec", f'echo {free - 1} > /proc/sys/kernel/ns_last_pid; "$@"', "sh"]
        code, said = run([*apart, "/bin/true"])
        require(code == 0, f"pids cannot be chosen here: {said.strip()}")
        host = self.host("--rate", 500)
        self.wait_live()
        _, err = self.finish(self.run_client(apart, "-l", "-q", "-n", "500"), 6)
        self.one_line(err, "cliente_c", self.name, "--pid=host")
        host.terminate()
        self.finish(host)
        record("own pid namespace: the client names --pid=host", "ran")

    def test_time_namespaces(self) -> None:
        """Either side's clock is a day ahead: the run goes on, and prints no latency."""
        ahead = self.inside(":", "--time", "--monotonic", "100000", "--boottime", "100000",
                            "--fork", "--kill-child")
        for host_prefix, client_prefix in (([], ahead), (ahead, [])):
            with self.subTest(host_is_ahead=bool(host_prefix)):
                host = self.run_host(host_prefix, "--rate", "500", "--quiet")
                self.wait_live()
                out, err = self.finish(self.run_client(client_prefix, "-n", "100"))
                self.assertIn("time namespaces", out + err)
                out, _ = self.finish(self.run_client(client_prefix, "-n", "100", "--json"))
                self.assertIsNone(json.loads(out)["latency_ns"])
                os.kill(self.peek_word(48) if not host_prefix else self.child(host.pid), 15)
                self.finish(host, None)
                self.assertFalse(self.segment_exists())
        record("time namespaces: no latency, and says why", "ran")

    @staticmethod
    def child(pid: int) -> int:
        with open(f"/proc/{pid}/task/{pid}/children") as children:
            return int(children.read().split()[0])

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

    def test_nowhere_to_write(self) -> None:
        """The lock file needs a temp folder: another one is found, or one line says what to set."""
        require(not ROOT.startswith(("/tmp/", "/var/tmp/")), "host.py itself would be hidden")
        folder = self.folder.name
        os.mkdir(self.path("ro"))
        read_only = f"mount -t tmpfs -o ro none '{folder}/ro'"
        environment = {"TMPDIR": self.path("ro"), "TEMP": self.path("ro"), "TMP": self.path("ro")}
        one = self.inside(read_only + "; mount -t tmpfs none /tmp" if not folder.startswith("/tmp")
                          else read_only)
        self.finish(self.run_host(one, "--rate", "0", "--count", "10", env=environment))
        every = self.inside(f"{read_only}\nfor f in /var/tmp /usr/tmp /tmp; do if test -d $f; then "
                            f"mount --bind '{folder}/ro' $f; fi; done; cd /proc")
        out, err = self.finish(self.run_host(every, "--rate", "0", env=environment), 1)
        self.one_line(err, "host.py", self.name, "lock file", "TMPDIR")
        self.assertEqual(out, "")
        self.assertFalse(self.segment_exists())
        host = self.host("--rate", 200)  # the client needs no temp folder
        self.wait_live()
        self.attached(self.inside(read_only + "; mount -t tmpfs -o ro none /var/tmp"))
        host.terminate()
        self.finish(host)
        record("temp folder read-only: falls back, else one line", "ran")


if __name__ == "__main__":
    unittest.main()
