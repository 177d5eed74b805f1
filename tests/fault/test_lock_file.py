"""The roles as macOS must have them, locks on a file in /tmp, on Linux: SHMPRUEBA_LOCK_FILE=1."""
import json
import os
import subprocess
import unittest

from faults import CLIENT, HERE, HOST, ROOT, FaultTest, require

# One process that has two roles of one segment, and a reader of its own that comes and goes: none
# of that may cost it a lock. argv: src, a name. Ends with its standard input.
TWO_ROLES = r"""
import sys
sys.path.insert(0, sys.argv[1])
import shmprueba
with shmprueba.Segment(sys.argv[2], receive=True) as segment:
    for _ in range(3):
        with shmprueba.Reader(sys.argv[2]) as reader:
            segment.send(b"1")
            assert bytes(reader.receive().payload) == b"1"
    try:
        shmprueba.Segment(sys.argv[2])
    except shmprueba.Error as error:
        assert error.kind == "in_use", error
    print("ready", flush=True)
    sys.stdin.read()
"""


class LockFileTest(FaultTest):
    def start(self, command, env=None, **popen) -> subprocess.Popen:
        return super().start(command, {**(env or {}), "SHMPRUEBA_LOCK_FILE": "1"}, **popen)

    def setUp(self) -> None:
        super().setUp()
        self.lock = f"/tmp/shmprueba-{os.geteuid()}-{self.name}.lock"

    def nothing_is_left(self) -> None:
        self.assertEqual((self.segment_exists(), os.path.exists(self.lock)), (False, False))


class LockFile(LockFileTest):
    def test_smoke(self) -> None:
        """lock file: ten thousand messages in each mode | as ever, nothing is left"""
        for options in (["-v"], ["-l", "-v"], ["-e", "-v"]):
            host = ["--echo"] if "-e" in options else ["--rate", "0"]
            _, err = self.finish(self.pair([*host, "--quiet"], [*options, "-n", "10000"]))
            self.assertEqual(err, "")
            self.nothing_is_left()

    def test_second_host(self) -> None:
        """lock file: a second host while the first lives, or is stopped | exit 3"""
        host = self.host("--rate", 500)
        self.wait_live()
        self.assertTrue(os.path.exists(self.lock))
        self.one_line(self.finish(self.host(), 3)[1], self.name, "another host")
        self.freeze(host)
        self.one_line(self.finish(self.host(), 3)[1], self.name, "another host")
        self.thaw(host)
        self.finish(self.client("-l", "-v", "-n", 100))
        self.assertEqual(self.ended(host)[1], "")
        self.nothing_is_left()

    def test_killed(self) -> None:
        """lock file: host killed with -9 | client says died, exit 4; the next host replaces it"""
        host = self.host()
        self.wait_live()
        clients = [self.client("-n", 0, "-t", 60, "-q") for _ in range(2)]
        self.wait_attached(2)
        self.freeze(clients[1])
        host.kill()
        self.last_line(self.finish(clients[0], 4)[1], self.name, "died")
        self.last_line(self.finish(self.client("-t", 0.1), 4)[1], "died")
        following = self.host("--rate", 500)
        session = self.peek_word(40)
        self.until(lambda: self.peek_word(40) not in (0, session) and self.peek_word(512, 4) == 1,
                   "the next host runs")
        self.thaw(clients[1])  # which must not take the successor's lock for that of its own host
        self.last_line(self.finish(clients[1], 4)[1], self.name, "died")
        self.finish(self.client("-l", "-v", "-n", 100))
        self.one_line(self.ended(following)[1], "stale", f"pid {host.pid}", "replaced")
        self.nothing_is_left()

    def test_consumer(self) -> None:
        """lock file: a second consumer; the first killed, or stopped | exit 5; dropped"""
        host = self.host("--rate", 0, "--slots", 64, "--stall-timeout", 3, "--json")
        self.wait_live()
        first = self.client("-l", "-n", 0, "-q", "-t", 60)
        epoch = self.wait_consumer(first)
        self.one_line(self.finish(self.client("-l"), 5)[1], f"client pid {first.pid} ")
        first.kill()
        self.until(lambda: self.state_of(first) == "Z", "it is dead, and nobody reaps it")
        report = self.finish_json(self.client("-l", "-v", "-n", 1000, "--json"))
        self.assertEqual((report["lost"], self.dropped()), (0, epoch))
        second = self.client("-l", "-n", 0, "-q", "-t", 60)
        epoch = self.wait_consumer(second)
        self.freeze(second)
        self.wait_dropped(epoch)
        self.thaw(second)
        self.last_line(self.finish(second, 6)[1], "dropped this client")
        self.finish(self.client("-l", "-v", "-n", 1000))
        self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 2)
        self.nothing_is_left()

    def test_source_and_sink(self) -> None:
        """lock file: a source, complete; a second one; one that is killed | exit 0; 5; host 6"""
        source = self.file("source", os.urandom(1 << 20))
        _, err = self.finish(self.host("--sink", self.path("sink"), "--quiet", "--", *CLIENT, "-q",
                                       "-s", source, self.name))
        self.assertEqual(err, "")
        with open(source, "rb") as sent, open(self.path("sink"), "rb") as got:
            self.assertEqual(sent.read(), got.read())
        host = self.host("--sink", os.devnull, "--quiet")
        self.wait_live()
        client = self.client("-s", "/dev/zero", "-q")
        self.wait_sent(100)
        self.one_line(self.finish(self.client("-s", source), 5)[1], "another client sends")
        client.kill()
        self.one_line(self.finish(host, 6)[1], self.name, "died")
        self.nothing_is_left()

    def wait_sent(self, count: int) -> None:
        self.until(lambda: self.head(1024) > count, "it sends")

    def test_two_roles(self) -> None:
        """lock file: a process with two roles and readers of its own | none costs it a lock"""
        host = self.start([HOST[0], "-c", TWO_ROLES, os.path.join(ROOT, "src"), self.name],
                          stdin=subprocess.PIPE)
        self.assertEqual(host.stdout.readline(), "ready\n")
        self.one_line(self.finish(self.host(), 3)[1], "another host")
        self.one_line(self.finish(self.client("-t", 0.3), 3)[1], "lives")  # it publishes nothing
        client = self.client("-s", self.file("source", bytes(6400)), "-q", "-t", 0.5)
        self.one_line(self.finish(client, 3)[1], "took nothing")  # it has the fourth role, too
        self.assertEqual(self.finish(host)[1], "")
        self.nothing_is_left()

    def test_both_roles_of_a_client(self) -> None:
        """lock file: an --echo client, which has two roles, is killed | host 6; the next echoes"""
        host = self.host("--echo", "--rate", 2000, "--json")
        self.wait_live()
        client = self.client("-e", "-n", 0, "-q", "-t", 60)
        self.wait_sent(100)
        self.one_line(self.finish(self.client("-s", "/dev/zero"), 5)[1], "another client sends")
        client.kill()
        self.one_line(self.finish(host, 6)[1], f"client pid {client.pid} died")
        self.finish(self.pair(["--echo", "--quiet"], ["-e", "-v", "-n", "1000"]))
        self.nothing_is_left()

    def test_swept_away(self) -> None:
        """lock file: it is removed while its host runs | exit 1, and why; the next starts"""
        host = self.host("--rate", 500)
        self.wait_live()
        os.unlink(self.lock)
        self.one_line(self.finish(host, 1)[1], self.name, "gone")
        self.finish(self.pair(["--quiet"], ["-l", "-v", "-n", "100"]))
        self.nothing_is_left()

    def test_no_regular_file(self) -> None:
        """lock file: a link, a folder or a FIFO has its path | all three: one line, exit 5"""
        other = self.file("other", b"")
        host = self.host("--rate", 500)
        self.wait_live()
        self.freeze(host)  # it would find that its name is gone
        os.unlink(self.lock)
        for make in (lambda: os.symlink(other, self.lock), lambda: os.mkdir(self.lock),
                     lambda: os.mkfifo(self.lock)):
            make()
            started = self.start([*HOST, "--name", self.name])
            self.one_line(self.finish(started, 5)[1], self.lock, "not a regular file")
            self.one_line(self.finish(self.client("-t", 60), 5)[1], "not a regular file")
            reader = self.start([HOST[0], "-c", "import sys, shmprueba; "
                                 "shmprueba.Reader(sys.argv[1], timeout=60)", self.name],
                                env={"PYTHONPATH": os.path.join(ROOT, "src")})
            self.assertIn("not a regular file", self.finish(reader, 1)[1].splitlines()[-1])
            (os.rmdir if os.path.isdir(self.lock) else os.unlink)(self.lock)
        self.thaw(host)
        self.one_line(self.finish(host, 1)[1], "gone")

    def test_another_users(self) -> None:
        """lock file: it belongs to another user | host and client: one line, exit 5"""
        require(os.getuid() == 0, "only root can make another user's file")
        open(self.lock, "w").close()
        os.chown(self.lock, 65534, 65534)
        self.one_line(self.finish(self.host(), 5)[1], self.lock, "another user")
        self.assertFalse(self.segment_exists())


class LockFileSteps(LockFileTest):
    def steps(self, what: str) -> None:
        command = [HOST[0], os.path.join(HERE, "steps.py"), self.name, CLIENT[-1], what]
        out, err = self.finish(self.start(command))
        self.assertEqual(err, "")
        self.nothing_is_left()
        self.happened = out.strip()

    def test_killed_at_each_step(self) -> None:
        """lock file: host killed before each line of its start and end | the next host starts"""
        self.steps("killed")

    def test_held_at_each_step(self) -> None:
        """lock file: another starts while it stands before each line | exactly one lives"""
        self.steps("held")


if __name__ == "__main__":
    unittest.main()
