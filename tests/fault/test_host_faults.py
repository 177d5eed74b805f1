"""Faults of the host: killed, signalled, stopped, no room, its name taken or gone."""
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

from faults import AS_ROOT, CLIENT, HOST, ROOT, SLOTS, UP, FaultTest, can_unshare, require


class Killed(FaultTest):
    def killed(self, busy: bool, group: bool) -> None:
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
        (os.killpg if group else os.kill)(host.pid, signal.SIGKILL)
        out, err = self.finish(client, 4)  # though nobody has reaped the host
        self.assertEqual(json.loads(out)["host_state"], "died")
        self.last_line(err, self.name, "died")
        self.last_line(self.finish(self.client("-t", 0.1), 4)[1], "died", "start host.py again")
        second, err = self.finish(self.host("--count", 5, "--json"))
        self.assertEqual(json.loads(second)["published"], 5)
        self.one_line(err, self.name, "stale", f"pid {host.pid}", "replaced")
        self.assertFalse(self.segment_exists())
        self.happened = "client: died, exit 4; next host: stale, replaced"

    def test_idle(self) -> None:
        """host killed with -9, idle | client says died, exit 4; the next host replaces it"""
        self.killed(False, False)

    def test_busy(self) -> None:
        """host killed with -9 in the middle of a message | the same"""
        self.killed(True, False)

    def test_group(self) -> None:
        """host and its resource tracker killed with -9 in a message | the same"""
        self.killed(True, True)

    def session(self) -> int:
        return self.peek_word(40)

    def test_replaced_unseen(self) -> None:
        """host killed and replaced while its client is stopped | that one says died, exit 4"""
        host = self.host()
        self.wait_live()
        client = self.client("-n", 0, "-t", 60, "-q")
        self.wait_attached()
        self.freeze(client)
        session = self.session()
        host.kill()
        host.wait()
        following = self.host()
        self.until(lambda: self.session() not in (0, session), "the next host runs")
        self.thaw(client)
        self.last_line(self.finish(client, 4)[1], self.name, f"pid {host.pid}", "died")
        self.ended(following)


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

    def test_term(self) -> None:
        """SIGTERM at 50 random moments | exit 0, nothing on stderr, segment gone"""
        self.moments(signal.SIGTERM)

    def test_int(self) -> None:
        """SIGINT at 50 random moments | exit 0, nothing on stderr, segment gone"""
        self.moments(signal.SIGINT)

    def test_hup(self) -> None:
        """SIGHUP at 50 random moments | exit 0, nothing on stderr, segment gone"""
        self.moments(signal.SIGHUP)


class Stopped(FaultTest):
    def test_stopped(self) -> None:
        """host stopped and continued, a client in each mode | they say so and go on"""
        host = self.host("--rate", 500, "--slots", 64, "--json", "--stall-timeout", 60)
        self.wait_live()
        options: List[List[object]] = [["-l", "-v"], ["-w", "spin"], ["-w", "block", "-v"], ["-v"]]
        clients, said = [], [f"said {mode}" for mode in options]
        for mode, name in zip(options, said):
            with open(self.path(name), "w") as err:
                clients.append(self.client("--json", "-n", 2500, "-t", 60, *mode, stderr=err))
        impatient = self.client("-n", 0, "-t", 1.5)
        self.wait_attached(len(clients) + 1)
        self.wait_published(100)
        self.freeze(host)
        self.until(lambda: all("is stalled" in self.content(name) for name in said), "each says so")
        self.last_line(self.finish(impatient, 3)[1], "stalled", f"pid {host.pid}")
        self.thaw(host)
        for client, name in zip(clients, said):
            self.assertEqual(self.finish_json(client)["messages"], 2500)
            self.last_line(self.content(name), "goes on")
        self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 0)
        self.happened = "stalled, goes on; -t 1.5: exit 3"

    def test_before_a_full_ring(self) -> None:
        """host stopped for 6 s before a full ring, alone or with its client | nobody is dropped"""
        for both in (False, True):
            with self.subTest(both=both):
                host = self.host("--rate", 0, "--slots", 16, "--json", "--stall-timeout", 5)
                self.wait_live()
                client = self.client("-l", "-q", "-o", "-", "-t", 60, text=False)
                self.wait_consumer(client)
                self.wait_full(16, client)  # nobody reads the pipe
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

    def test_before_an_echo(self) -> None:
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

    def test_another_programs(self) -> None:
        """the name is another program's object, or version 1's | exit 5, it is left alone"""
        for content in (b"something else".ljust(8192, b"\1"), b"some text\n" * 400,
                        b"SHMPRUEB" + (1).to_bytes(4, sys.byteorder) + bytes(8180)):
            with open(f"/dev/shm/{self.name}", "wb") as other:
                other.write(content)
            self.taken(repr(content[:12]))
            with open(f"/dev/shm/{self.name}", "rb") as other:
                self.assertEqual(other.read(), content)

    def test_another_programs_zeros(self) -> None:
        """another program's object that begins with zeros | host: exit 5, it is left alone"""
        for size in (600, 5000, 3 << 20):
            with open(f"/dev/shm/{self.name}", "wb") as other:
                other.truncate(size)
                other.seek(size - 5)
                other.write(b"hello")
            _, err = self.finish(self.host(), 5)
            self.one_line(err, self.name, "refused")
            with open(f"/dev/shm/{self.name}", "rb") as other:
                self.assertEqual(other.read().strip(b"\0"), b"hello")

    def test_what_cannot_be_searched(self) -> None:
        """another program's object, where holes cannot be skipped | exit 5, it is left alone"""
        for size, code in ((5000, 5), (0, 0)):
            with open(f"/dev/shm/{self.name}", "wb") as other:
                other.write(b"something else"[:size].ljust(size, b"\1"))
            script = ("import os, sys; sys.path.insert(0, sys.argv[1])\n"
                      "def lseek(*_): raise OSError(22, 'no SEEK_DATA')\n"
                      "os.lseek = lseek\nimport host; sys.exit(host.main(sys.argv[2:]))")
            self.finish(self.start([HOST[0], "-c", script, ROOT, "--name", self.name, "--count",
                                    "1", "--quiet"]), code)
            self.assertEqual(self.segment_exists(), code == 5)

    def test_large(self) -> None:
        """the name is a blank object of 200 TB | client: exit 3; host: replaces it, says so"""
        path = f"/dev/shm/{self.name}"
        with open(path, "wb") as large:
            large.truncate(200 << 40)
        self.one_line(self.finish(self.client("-t", 0.1), 3)[1], "not finished starting")
        self.one_line(self.finish(self.host("--count", 3, "--quiet"))[1], self.name, "replaced")
        self.assertFalse(self.segment_exists())

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

    def test_another_users_file(self) -> None:
        """another user's files in /tmp, as macOS and earlier versions had them | irrelevant"""
        require(os.getuid() == 0, "only root can make another user's file")
        path = f"/tmp/shmprueba-0-{self.name}.lock"
        open(path, "w").close()
        self.addCleanup(os.unlink, path)
        os.chown(path, 65534, 65534)
        _, err = self.finish(self.pair(["--quiet"], ["-l", "-v", "-n", "100"]))
        self.assertEqual(err, "")
        self.assertTrue(os.path.exists(path))

    def unlinked(self, how) -> None:
        host = self.host("--rate", 500, "--json")
        self.wait_live()
        client = self.client("--json", "-l", "-v", "-n", 0, "-t", 60)
        self.wait_consumer(client)
        self.wait_read(100)
        how()
        self.until(lambda: not self.segment_exists(), "it is unlinked")
        self.one_line(self.finish(self.client("-t", 0), 3)[1], "no host")
        following = self.host("--rate", 500)  # at once, while the first one may still run
        _, err = self.finish(host, 1)
        self.one_line(err, self.name, "its name is gone", "rm", "RemoveIPC", "SharedMemory")
        report = json.loads(self.finish(client)[0])
        self.assertEqual((report["lost"], report["host_state"]), (0, "closed"))
        self.wait_live()
        self.finish(self.client("-v", "-n", 100))
        self.assertEqual(self.ended(following)[1], "")
        self.assertFalse(self.segment_exists())

    def test_removed(self) -> None:
        """rm /dev/shm/NAME | host: exit 1, and why; its client reads all; the next starts"""
        self.unlinked(lambda: os.unlink(f"/dev/shm/{self.name}"))

    def test_removed_by_a_tracker(self) -> None:
        """a Python attaches and leaves: its tracker unlinks the name | the same"""
        code = ("import sys; from multiprocessing.shared_memory import SharedMemory; "
                "SharedMemory(sys.argv[1]).close()")
        require(sys.version_info < (3, 13), "from 3.13 on a Python that attaches can say so")
        self.unlinked(lambda: self.finish(self.start([HOST[0], "-c", code, self.name])))

    def test_removed_and_stopped(self) -> None:
        """a host whose name was removed is stopped | its client says stalled, not died; exit 3"""
        host = self.host()
        self.wait_live()
        client = self.client("-n", 0, "-t", 2, "-q")
        self.wait_attached()
        self.freeze(host)
        os.unlink(f"/dev/shm/{self.name}")
        self.last_line(self.finish(client, 3)[1], self.name, "stalled")
        self.thaw(host)
        self.one_line(self.finish(host, 1)[1], "its name is gone")

    def test_command_is_reaped(self) -> None:
        """the name is gone while COMMAND runs | exit 1, and COMMAND has ended"""
        client = ["sh", "-c", 'echo $$ >"$1"; shift; exec "$@"', "sh", self.path("pid"), *CLIENT]
        host = self.host("--quiet", "--", *client, "-n", 0, self.name)
        self.wait_attached()
        os.unlink(f"/dev/shm/{self.name}")
        self.assertIn("its name is gone", self.finish(host, 1)[1])
        with open(self.path("pid")) as pid:
            self.assertFalse(os.path.exists(f"/proc/{pid.read().strip()}"))


# In a /dev/shm of its own: $1: the bytes of it; then what to do there.
SMALL = 'mount -t tmpfs -o size=$1 none /dev/shm && shift && "$@"; c=$?; ls -A /dev/shm; exit $c'


class Memory(FaultTest):
    def in_small(self, size: str, *command: str):
        require(can_unshare(*AS_ROOT, "--mount"), "no mount namespace here")
        return self.start(["unshare", *AS_ROOT, "--mount", "sh", "-c", SMALL, "sh", size, *command])

    def test_limits(self) -> None:
        """too few descriptors or addresses | one line, exit 1, nothing is left"""
        said = set()
        for limit, size in (("-n 5", 64), ("-n 6", 64), ("-n 7", 64), ("-n 8", 64),
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
        command = [*HOST, "--name", self.name, "--count", "5", "--slots"]
        out, err = self.finish(self.in_small("256k", *command, "1024", "--size", "1024"), 1)
        self.one_line(err, self.name, "too small", str(4096 + 2 * 1024 * 1152), str(256 * 1024))
        self.assertEqual(out, "")
        self.happened = err.split(": ", 2)[2].strip()
        _, err = self.finish(self.in_small("256k", *command, "64"))  # what fits, goes
        self.assertEqual(err, "")

    def test_stale_without_pages(self) -> None:
        """a left-over segment without pages, /dev/shm full | one line, exit 1, no SIGBUS"""
        full = ('truncate -s 100k "/dev/shm/$1"; shift; dd if=/dev/zero of=/dev/shm/filler '
                'bs=4k 2>/dev/null; "$@"')
        host = [*HOST, "--name", self.name, "--count", "5", "--slots", "2"]
        client = [*CLIENT, "-t", "0", self.name]
        _, err = self.finish(self.in_small("256k", "sh", "-c", full, "sh", self.name, *host), 1)
        self.happened = self.one_line(err, self.name, "too small")
        process = self.in_small("256k", "sh", "-c", full, "sh", self.name, *client)
        _, err = self.finish(process, None)
        self.assertIn(process.returncode, (3, 5), err)
        self.one_line(err, self.name)


if __name__ == "__main__":
    unittest.main()
