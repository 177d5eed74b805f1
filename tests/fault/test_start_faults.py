"""Faults where a host starts or ends: killed, held or robbed of its name there; two or three."""
import json
import os
import shutil
import subprocess
import unittest
from typing import List

from faults import CLIENT, HERE, HOST, HOST_ROLE, ROOT, FaultTest, require

# Three hosts that differ by nothing but luck: forked with host.py loaded, let go by one close().
# argv: the repository, a name, the rounds. Prints one line a round.
THREE_HOSTS = r"""
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import host

def run(name, gate):
    for number in host.STOP_SIGNALS:
        signal.signal(number, host.stop)
    host.ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody is left behind
    os.read(gate, 1)
    code = 99
    try:
        code = host.main(["--name", name, "--quiet"])
    finally:
        os._exit(code)

path = "/dev/shm/" + sys.argv[2]
with open(path, "rb") as segment:
    stale = segment.read()
for i in range(int(sys.argv[3])):
    with open(path, "wb") as out:
        out.write(stale)
    words, to_words = os.pipe()
    gate, hold = os.pipe()
    children = []
    for _ in range(3):
        children.append(os.fork())
        if not children[-1]:
            os.dup2(to_words, 2)
            for fd in (words, to_words, hold):
                os.close(fd)
            run(sys.argv[2], gate)
    os.close(to_words)
    os.close(gate)
    os.close(hold)
    ended = [os.wait() for _ in range(2)]  # three that all lose would be found by the next wait
    winner, = set(children) - {pid for pid, _ in ended}
    live = born = b""
    while live != b"\1\0\0\0" or born == stale[40:48]:
        time.sleep(0.002)
        if os.waitpid(winner, os.WNOHANG)[0]:
            sys.exit("nobody lives")
        try:
            with open(path, "rb") as segment:
                head = segment.read(4096)
                born, live = head[40:48], head[512:516]
        except FileNotFoundError:  # between the stale one and the new one
            pass
    os.kill(winner, signal.SIGTERM)
    ended.append(os.waitpid(winner, 0))
    said = open(words).read().splitlines()
    print(*[os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1 for _, status in ended],
          os.path.exists(path), sum("another host" in line for line in said),
          sum("another host" not in line and "replaced a stale" not in line for line in said),
          flush=True)
"""


class Steps(FaultTest):
    """steps.py: something happens before each line of shmprueba.py that a start or an end has."""

    def steps(self, what: str) -> None:
        command = [HOST[0], os.path.join(HERE, "steps.py"), self.name, CLIENT[-1], what]
        out, err = self.finish(self.start(command))
        self.assertEqual(err, "")
        self.happened = out.strip()

    def test_killed(self) -> None:
        """host killed with -9 before each line of its start and end | the next host starts"""
        self.steps("killed")

    def test_held(self) -> None:
        """another host starts while it stands before each line of its start | exactly one lives"""
        self.steps("held")

    def test_unlinked(self) -> None:
        """the name goes before each line of its start and end | no error but that it is gone"""
        self.steps("unlinked")


class Twice(FaultTest):
    def test_second_host(self) -> None:
        """a second host while the first lives, or is stopped | exit 3, first untouched"""
        host = self.host("--rate", 500, "--json")
        self.wait_live()
        client = self.client("--json", "-l", "-v", "-n", 0, "-t", 60)
        self.wait_attached()
        before = self.segment(512), os.stat(f"/dev/shm/{self.name}").st_ino

        def refused(**popen) -> None:
            _, err = self.finish(self.host(**popen), 3)
            self.one_line(err, self.name, "another host", f"pid {host.pid}")
            self.assertEqual((self.segment(512), os.stat(f"/dev/shm/{self.name}").st_ino), before)
        refused()
        os.mkdir(self.path("elsewhere"))
        refused(env={"TMPDIR": self.path("elsewhere")})  # as in another container
        self.freeze(host)
        refused()
        self.thaw(host)
        self.wait_published(100)
        self.assertTrue(self.segment_exists())
        self.ended(host)
        out, _ = self.finish(client)
        self.assertEqual(json.loads(out)["lost"], 0)
        self.happened = "refused 3 times, the first one's client lost nothing"

    def test_temp_folders(self) -> None:
        """a second host, of another TMPDIR, while a large first one starts | one: exit 3"""
        folders = [{"TMPDIR": self.path("a")}, {"TMPDIR": self.path("b")}]
        for folder in folders:
            os.mkdir(folder["TMPDIR"])
        first = self.host("--size", 1000000, "--slots", 64, env=folders[0])
        path = f"/dev/shm/{self.name}"
        self.until(lambda: self.segment_exists() and self.is_held(HOST_ROLE), "it has locked it")
        before = os.stat(path)
        self.one_line(self.finish(self.host(env=folders[1]), 3)[1], "another host")
        self.wait_live()
        after = os.stat(path)
        self.assertEqual((after.st_ino, after.st_size), (before.st_ino, before.st_size))
        self.finish(self.client("-n", 100, "-v"))
        self.ended(first)

    def test_held_in_the_kernel(self) -> None:
        """a host held between shm_open and ftruncate, another starts | exactly one lives"""
        require(shutil.which("strace"), "no strace here")
        traced = ["strace", "-f", "-o", self.path("trace"), "-e", "trace=ftruncate", "-e",
                  "inject=ftruncate:delay_enter=1500000"]
        require(subprocess.run([*traced, "true"], stderr=subprocess.DEVNULL).returncode == 0,
                "strace cannot trace here")
        first = self.start(traced + self.host_words("--rate", 500))
        path = f"/dev/shm/{self.name}"
        self.until(self.segment_exists, "its object is there")
        self.assertEqual(os.stat(path).st_size, 0)
        second = self.host("--rate", 500)
        self.until(lambda: None not in (first.poll(), second.poll()) or self.peek_word(512, 4) == 1
                   and (first.poll() is not None or second.poll() is not None), "one has lost")
        lives, lost = (first, second) if second.poll() is not None else (second, first)
        self.one_line(self.finish(lost, 3)[1], self.name, "another host")
        self.assertIsNone(lives.poll())
        self.finish(self.client("-n", 100, "-v"))
        os.killpg(lives.pid, 15)
        self.finish(lives)
        self.happened = "the second lives" if lives is second else "the first lives"

    def test_same_instant(self) -> None:
        """three hosts in the same instant over a stale segment, 30 times | one lives, two exit 3"""
        host = self.host("--slots", 2)
        self.wait_live()
        host.kill()
        host.wait()
        stale = self.path("stale")
        shutil.copy(f"/dev/shm/{self.name}", stale)

        def start(i: int) -> subprocess.Popen:
            shutil.copy(stale, f"/dev/shm/{self.name}-{i}")
            return self.start([HOST[0], "-c", THREE_HOSTS, ROOT, f"{self.name}-{i}", "5"])
        rounds: List[str] = []
        for hosts in [start(i) for i in range(6)]:
            out, err = self.finish(hosts)
            self.assertEqual(err, "")
            rounds += out.splitlines()
        self.assertEqual(len(rounds), 30)
        # losers 3 and 3, winner 0, segment gone, two lines "another host", and nothing else
        self.assertEqual(set(rounds), {"3 3 0 False 2 0"})
        self.happened = "30 times exactly one"


if __name__ == "__main__":
    unittest.main()
