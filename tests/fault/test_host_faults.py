"""Faults of the host: killed, signalled, stopped, started twice, no room, the name taken."""
import concurrent.futures
import json
import os
import random
import shutil
import signal
import socket
import sys
import time
import unittest
from typing import List

from faults import (AS_ROOT, CLIENT, DOWN, HOST, PLACE, ROOT, SLOTS, UP, FaultTest,
                    can_unshare, require)


class Killed(FaultTest):
    def killed(self, group: bool, busy: bool) -> None:
        options = ["--rate", 0, "--size", 1 << 20, "--slots", 2] if busy else ["--rate", 0.5]
        host = self.host(*options)
        self.wait_live()
        client = self.client("--json", "-n", 0, "-t", 60)
        self.wait_attached()
        if busy:
            stride = (1 << 20) + 128
            def stands_in_a_message() -> bool:
                self.freeze(host)
                odd = [self.peek_word(SLOTS + slot * stride) % 2 for slot in (0, 1)]
                if not any(odd):
                    self.thaw(host)
                return any(odd)
            self.until(stands_in_a_message, "the host stands in the middle of a message")
        if group:
            os.killpg(host.pid, signal.SIGKILL)
        else:
            host.kill()
        host.wait()
        out, err = self.finish(client, 4)
        self.assertEqual(json.loads(out)["host_state"], "died")
        self.last_line(err, self.name, "died")
        if group:
            self.assertTrue(self.segment_exists())
            self.last_line(self.finish(self.client("-t", 0.1), 4)[1], "died", "start host.py again")
        else:
            self.until(lambda: not self.segment_exists(), "the resource tracker has cleaned up")
        second, err = self.finish(self.host("--count", 5, "--json"))
        self.assertEqual(json.loads(second)["published"], 5)
        if group:
            self.one_line(err, self.name, "stale", f"pid {host.pid}", "replaced")
        else:
            self.assertEqual(err, "")
        self.assertFalse(self.segment_exists())
        self.happened = ("client: died, exit 4; next host: "
                         + ("stale, replaced" if group else "clean"))

    def test_alone_idle(self) -> None:
        """host killed with -9, idle | client says died, exit 4; no segment is left"""
        self.killed(False, False)

    def test_alone_busy(self) -> None:
        """host killed with -9 in the middle of a message | client says died, exit 4"""
        self.killed(False, True)

    def test_group_idle(self) -> None:
        """host and tracker killed with -9, idle | exit 4; the next host replaces it"""
        self.killed(True, False)

    def test_group_busy(self) -> None:
        """host and tracker killed with -9 in a message | exit 4; the next host replaces it"""
        self.killed(True, True)


class Signals(FaultTest):
    MOMENTS = 50
    KINDS: List[List[object]] = [[], ["--rate", 0], ["--echo"], ["--crc", "--size", 1 << 16],
                                 ["--input", "-"], ["--sink", os.devnull]]

    def one(self, number: int, i: int) -> None:
        dice = random.Random(number * 1000 + i)
        name, delay = f"{self.name}-{number}-{i}", dice.uniform(0, 0.25)
        host = self.start(HOST + ["--name", name, *map(str, dice.choice(self.KINDS))])

        # Before host.py has begun, Python itself would be hit; which catches SIGINT, too.
        self.until(lambda: self.catches(host.pid, signal.SIGTERM, number)
                   or host.poll() is not None, "the handlers are there")
        time.sleep(delay)
        send = os.killpg if dice.random() < 0.5 else os.kill  # to the group, as a terminal does
        impatient = dice.random() < 0.3  # again and again, until it has ended
        send(host.pid, number)
        while impatient and host.poll() is None and not host.bitten:
            time.sleep(0.001)
            send(host.pid, number)
        _, err = self.finish(host)
        self.assertEqual(err, "", f"signal {number}, moment {i}: {delay:.3f} s")
        self.assertFalse(os.path.exists(f"/dev/shm/{name}"), f"moment {i}: {delay:.3f} s")

    def moments(self, number: int) -> None:
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda i: self.one(number, i), range(self.MOMENTS)))
        self.assertEqual([file for file in os.listdir(self.folder.name) if "lock" in file], [])

    def test_term(self) -> None:
        """SIGTERM at 50 random moments | exit 0, nothing on stderr, segment gone"""
        self.moments(signal.SIGTERM)

    def test_int(self) -> None:
        """SIGINT at 50 random moments | exit 0, nothing on stderr, segment gone"""
        self.moments(signal.SIGINT)

    def test_hup(self) -> None:
        """SIGHUP at 50 random moments | exit 0, nothing on stderr, segment gone"""
        self.moments(signal.SIGHUP)


# Two hosts that differ by nothing but luck: forked with host.py loaded, let go by one close().
# stdin: nothing; argv: the repository, a name, the rounds. Prints one line a round.
TWO_HOSTS = r"""
import os, signal, sys, time
sys.path.insert(0, sys.argv[1])
import host

def run(name, gate):
    for number in host.STOP_SIGNALS:
        signal.signal(number, host.Stop.handler)
    host.libc.prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: nobody is left behind
    os.read(gate, 1)
    code = 99
    try:
        code = host.main(["--name", name, "--quiet"])
    finally:
        os._exit(code)

stale = open("/dev/shm/" + sys.argv[2], "rb").read()
os.unlink("/dev/shm/" + sys.argv[2])
for i in range(int(sys.argv[3])):
    path = "/dev/shm/" + sys.argv[2]
    with open(path, "wb") as out:
        out.write(stale)
    words, to_words = os.pipe()
    gate, hold = os.pipe()
    children = []
    for _ in (0, 1):
        children.append(os.fork())
        if not children[-1]:
            os.dup2(to_words, 2)
            for fd in (words, to_words, hold):
                os.close(fd)
            run(sys.argv[2], gate)
    os.close(to_words)
    os.close(gate)
    os.close(hold)
    loser, status = os.wait()
    winner = children[1 - children.index(loser)]
    live = born = b""
    while live != b"\1\0\0\0" or born == stale[40:48]:
        time.sleep(0.002)
        try:
            with open(path, "rb") as segment:
                head = segment.read(256)
                born, live = head[40:48], head[128:132]
        except FileNotFoundError:  # between the stale one and the new one
            pass
    os.kill(winner, signal.SIGTERM)
    _, status2 = os.waitpid(winner, 0)
    said = open(words).read().splitlines()
    print(os.WEXITSTATUS(status) if os.WIFEXITED(status) else -1,
          os.WEXITSTATUS(status2) if os.WIFEXITED(status2) else -1, os.path.exists(path),
          sum("stale" in line and "replaced" in line for line in said),
          sum("another host" in line for line in said), len(said), flush=True)
"""


class Twice(FaultTest):
    def test_second_host(self) -> None:
        """a second host while the first lives, or is stopped | exit 3, first untouched"""
        host = self.host("--rate", 500, "--json")
        self.wait_live()
        client = self.client("--json", "-l", "-v", "-n", 0, "-t", 60)
        self.wait_attached()
        before = self.segment(128), os.stat(f"/dev/shm/{self.name}").st_ino

        def refused(**popen) -> None:
            _, err = self.finish(self.host(**popen), 3)
            self.one_line(err, self.name, "another host")
            self.assertEqual((self.segment(128), os.stat(f"/dev/shm/{self.name}").st_ino), before)
        refused()
        os.mkdir(self.path("elsewhere"))
        refused(env={"TMPDIR": self.path("elsewhere")})  # no lock to see: the heartbeat tells
        self.freeze(host)
        refused()
        self.thaw(host)
        now = self.head()
        self.until(lambda: self.head() > now, "the first goes on")
        self.assertTrue(self.segment_exists())
        self.ended(host)
        out, _ = self.finish(client)
        self.assertEqual(json.loads(out)["lost"], 0)
        self.happened = "refused 3 times, the first one's client lost nothing"

    def test_same_instant(self) -> None:
        """two hosts in the same instant over a stale segment, 100 times | one wins, one exits 3"""
        host = self.host("--slots", 2)
        self.wait_live()
        stale = self.segment(1 << 20)
        self.ended(host)

        def five(i: int) -> List[str]:
            name = f"{self.name}-{i}"
            with open(f"/dev/shm/{name}", "wb") as out:
                out.write(stale)
            hosts = self.start([HOST[0], "-c", TWO_HOSTS, ROOT, name, "5"])
            return self.finish(hosts)[0].splitlines()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            rounds = [line for lines in pool.map(five, range(20)) for line in lines]
        self.assertEqual(len(rounds), 100)
        # loser 3, winner 0, segment gone, one line "stale ... replaced", one "another host"
        self.assertEqual(set(rounds), {"3 0 False 1 1 2"})
        self.happened = "100 times exactly one"

    def test_stopped(self) -> None:
        """host stopped for 3 s and continued, a client in each mode | they say so and go on"""
        host = self.host("--rate", 500, "--slots", 64, "--json", "--stall-timeout", 60)
        self.wait_live()
        options: List[List[object]] = [["-l", "-v"], ["-w", "spin"], ["-w", "block", "-v"], ["-v"]]
        clients = [self.client("--json", "-n", 2500, "-t", 60, *mode) for mode in options]
        impatient = self.client("-n", 0, "-t", 1.5)
        self.wait_attached(len(clients) + 1)
        self.wait_published(100)
        self.freeze(host)
        self.pass_time(3)
        self.last_line(self.finish(impatient, 3)[1], "stalled", f"pid {host.pid}")
        self.thaw(host)
        for client in clients:
            out, err = self.finish(client)
            self.assertIn("is stalled", err)
            self.last_line(err, "goes on")
            self.assertEqual(json.loads(out)["messages"], 2500)
        self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 0)
        self.happened = "stalled, goes on; -t 1.5: exit 3"

    def test_stopped_before_a_full_ring(self) -> None:
        """host stopped for 6 s before a full ring, alone or with its client | nobody is dropped"""
        for both in (False, True):
            with self.subTest(both=both):
                host = self.host("--rate", 0, "--slots", 16, "--json", "--stall-timeout", 5)
                self.wait_live()
                client = self.client("-l", "-q", "-o", "-", "-t", 60, text=False)
                self.wait_consumer(client)
                self.wait_full(16)  # nobody reads the pipe
                self.freeze(host)
                if both:
                    self.freeze(client)
                os.read(client.stdout.fileno(), 1 << 20)
                self.pass_time(6)
                self.thaw(host)
                if both:
                    self.pass_time(0.3)
                    self.thaw(client)
                now = self.position()
                self.until(lambda: os.read(client.stdout.fileno(), 1 << 20)
                           and self.position() > now + 50, "it reads on")
                client.send_signal(signal.SIGINT)
                while os.read(client.stdout.fileno(), 1 << 20):
                    pass
                self.finish(client)
                out, err = self.ended(host)
                self.assertEqual((json.loads(out)["dropped_clients"], err), (0, ""))

    def test_stopped_before_an_echo(self) -> None:
        """host stopped for 2.5 s while it waits for an echo | it takes the echo and goes on"""
        host = self.host("--echo", "--rate", 0, "--wait", "block", "--stall-timeout", 2, "--json")
        self.wait_live()
        client = self.client("-e", "-n", 0, "-q", "-w", "block", "-t", 60)
        for _ in range(2):
            now = self.head(UP)
            self.until(lambda: self.head(UP) > now + 100, "echoes")
            self.freeze(host)
            self.pass_time(2.5)
            self.thaw(host)
        now = self.head(UP)
        self.until(lambda: self.head(UP) > now + 100, "echoes")
        out, err = self.ended(host)
        self.assertEqual((json.loads(out)["dropped_clients"], err), (0, ""))
        self.finish(client)


class Names(FaultTest):
    def taken(self, what: str) -> None:
        for command in ([*HOST, "--name", self.name], [*CLIENT, "-t", "1", self.name]):
            with self.subTest(taken_by=what, command=command[-2]):
                before = os.lstat(f"/dev/shm/{self.name}")
                _, err = self.finish(self.start(command), 5)
                self.one_line(err, self.name, "refused")
                self.assertEqual(os.lstat(f"/dev/shm/{self.name}").st_ino, before.st_ino)

    def test_taken(self) -> None:
        """the name is a FIFO, folder, link or socket | host and client exit 5, it is left alone"""
        path = f"/dev/shm/{self.name}"
        os.mkfifo(path)
        self.taken("fifo")
        os.unlink(path)
        os.mkdir(path)
        self.taken("folder")
        os.rmdir(path)
        for target in (self.path("nowhere"), self.file("something", bytes(4096))):
            os.symlink(target, path)
            self.taken("link")
            os.unlink(path)
        with socket.socket(socket.AF_UNIX) as end:
            end.bind(path)
            self.taken("socket")

    def test_cannot_be_mapped(self) -> None:
        """the name is an object of 200 TB | host: exit 5, it is left alone"""
        path = f"/dev/shm/{self.name}"
        with open(path, "wb") as large:
            large.truncate(200 << 40)
        self.one_line(self.finish(self.host(), 5)[1], self.name, "refused")
        self.assertEqual(os.stat(path).st_size, 200 << 40)

    def test_stopped_without_its_name(self) -> None:
        """a host whose name was unlinked is stopped | its client says stalled, not died; exit 3"""
        host = self.host()
        self.wait_live()
        client = self.client("-n", 0, "-t", 2, "-q")
        self.wait_attached()
        os.unlink(f"/dev/shm/{self.name}")
        self.freeze(host)
        self.last_line(self.finish(client, 3)[1], self.name, "stalled")
        self.thaw(host)
        self.ended(host)

    def test_another_users(self) -> None:
        """the name is another user's object | host and client exit 5, it is left alone"""
        require(os.getuid() == 0, "only root can make another user's object")
        host = self.host("--slots", 2)
        self.wait_live()
        with open(f"/dev/shm/{self.name}-copy", "wb") as copy:
            copy.write(self.segment(1 << 20))
        self.ended(host)
        os.rename(f"/dev/shm/{self.name}-copy", f"/dev/shm/{self.name}")
        os.chown(f"/dev/shm/{self.name}", 65534, 65534)
        self.taken("user 65534")
        os.chown(f"/dev/shm/{self.name}", 0, 0)
        os.chmod(f"/dev/shm/{self.name}", 0o600)
        client = shutil.copy(CLIENT[-1], self.folder.name)  # as somebody who may not open ours
        os.chmod(self.folder.name, 0o755)
        _, err = self.finish(self.start(["setpriv", "--reuid=65534", "--clear-groups", *CLIENT[:-1],
                                         client, self.name]), 5)
        self.one_line(err, self.name, "belongs to another user")

    def test_unlinked(self) -> None:
        """a Python attaches and leaves: its tracker unlinks | the host says so, goes on"""
        with open(self.path("err"), "w") as words:
            host = self.host("--rate", 500, "--json", stderr=words)
        self.wait_live()
        client = self.client("--json", "-l", "-v", "-n", 0, "-t", 60)
        self.wait_attached()
        segment = os.open(f"/dev/shm/{self.name}", os.O_RDONLY)
        self.addCleanup(os.close, segment)
        code = ("from multiprocessing.shared_memory import SharedMemory as S; import sys; "
                "s = S(sys.argv[1]); s.close()")
        self.finish(self.start([HOST[0], "-c", code, self.name]))
        self.until(lambda: not self.segment_exists(), "the tracker has unlinked it")

        def said() -> str:
            with open(self.path("err")) as words:
                return words.read()
        self.until(lambda: "its name is gone" in said(), "the host has noticed")
        self.one_line(said(), self.name, "SharedMemory", "track=False", "unregister")
        self.one_line(self.finish(self.client("-t", 0.3), 3)[1], "no host")

        def place() -> int:
            return int.from_bytes(os.pread(segment, 8, DOWN + PLACE), sys.byteorder)
        now = place()
        self.until(lambda: place() > now + 100, "the client reads on")
        self.ended(host)
        report = json.loads(self.finish(client)[0])
        self.assertEqual((report["lost"], report["host_state"]), (0, "closed"))
        self.assertEqual(said().count("\n"), 1)  # and no word of the tracker at the end
        self.happened = "host noticed, client went on, a new one: no host"

    def test_lock_swept(self) -> None:
        """the lock file is swept away | the host ends as ever; a second is refused"""
        host = self.host("--json")
        self.wait_live()
        for lock in os.listdir(self.folder.name):
            os.unlink(self.path(lock))
        self.one_line(self.finish(self.host(), 3)[1], "another host")
        self.assertEqual(self.ended(host)[1], "")
        self.assertFalse(self.segment_exists())


class Memory(FaultTest):
    def test_limits(self) -> None:
        """too few descriptors or addresses | one line, exit 1, nothing is left"""
        said = set()
        for limit, size in (("-n 6", 64), ("-n 7", 64), ("-n 8", 64), ("-n 9", 64),
                            ("-v 3000000", 1000000)):
            with self.subTest(limit=limit):
                words = self.host_words("--count", 1, "--quiet", "--slots", 2048, "--size", size)
                host = self.start(["bash", "-c", f'ulimit {limit} && exec "$@"', "bash", *words])
                _, err = self.finish(host, None)
                if host.returncode != 0 or size > 64:  # some Pythons need fewer descriptors
                    self.assertEqual(host.returncode, 1, err)
                    said.add(self.one_line(err, self.name).split(": ")[-1].strip())
                self.assertFalse(self.segment_exists())
        self.assertGreater(len(said), 1)
        self.happened = ", ".join(sorted(said))

    def test_too_small(self) -> None:
        """/dev/shm of 256 KiB, 2.3 MB needed | one line with both sizes, exit 1, no SIGBUS"""
        require(can_unshare(*AS_ROOT, "--mount"), "no mount namespace here")
        script = 'mount -t tmpfs -o size=256k none /dev/shm && "$@"; c=$?; ls -A /dev/shm; exit $c'
        command = ["unshare", *AS_ROOT, "--mount", "sh", "-c", script, "sh", *HOST, "--name",
                   self.name, "--count", "5", "--slots"]
        out, err = self.finish(self.start([*command, "1024", "--size", "1024"]), 1)
        self.one_line(err, self.name, "too small", str(1024 + 2 * 1024 * 1152), str(256 * 1024))
        self.assertEqual(out, "")
        self.happened = err.split(": ", 2)[2].strip()
        _, err = self.finish(self.start([*command, "64"]))  # what fits, goes
        self.assertEqual(err, "")


if __name__ == "__main__":
    unittest.main()
