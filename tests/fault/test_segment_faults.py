"""Faults of the segment: cut short, cut off, full of lies, by another clock."""
import json
import os
import random
import signal
import time
import unittest
from typing import List

from faults import AS_ROOT, CLIENT, HOST, FaultTest, can_unshare, require


class Shapes(FaultTest):
    def test_empty(self) -> None:
        """an empty object | client: not finished starting, exit 3; host: replaces it, says so"""
        open(f"/dev/shm/{self.name}", "wb").close()
        _, err = self.finish(self.client("-t", 0.3), 3)
        self.one_line(err, self.name, "not finished starting")
        _, err = self.finish(self.host("--count", 3, "--quiet"))
        self.one_line(err, self.name, "empty", "replaced")

    def test_truncated_before(self) -> None:
        """truncated before attach, to each of six sizes | one line, exit 5"""
        self.host("--slots", 4)
        self.wait_live()
        whole = self.segment(1 << 20)
        self.name += "-cut"
        for size in (1, 255, 1023, 1024, len(whole) // 2, len(whole) - 1):
            for how in ([], ["--observe"], ["--peek"]):
                with self.subTest(size=size, how=how):
                    with open(f"/dev/shm/{self.name}", "wb") as cut:
                        cut.write(whole[:size])
                    _, err = self.finish(self.client("-t", 0.3, *how), 5)
                    self.one_line(err, self.name, "refused", f"{size} bytes")

    def test_grown(self) -> None:
        """the object has grown by 16 KiB | accepted, exit 0"""
        self.host()
        self.wait_live()
        path = f"/dev/shm/{self.name}"
        os.truncate(path, os.stat(path).st_size + 16384)
        self.finish(self.client("-v", "-n", 100))
        client = self.client("-v", "-n", 1000)
        self.wait_attached()
        os.truncate(path, os.stat(path).st_size + 16384)
        self.finish(client)

    def test_truncated_under(self) -> None:
        """truncated under a running client, 4 sizes, each mode | one line, exit 5, no signal 7"""
        modes: List[List[object]] = [["-w", "spin"], ["-w", "block"], ["-w", "sleep", "-l"], ["-v"],
                                     ["-o", self.path("out")], ["-l", "-o", self.path("out")],
                                     ["--observe"], ["--observe", "-w", "yield", "-v"]]
        said = set()
        for size in (0, 512, 4096, 8192):
            for mode in modes:
                with self.subTest(size=size, mode=mode):
                    err = self.struck("truncate", size, "-t", 5, *mode)
                    reason = self.last_line(err, self.name).split(": ", 2)[2]
                    said.add(reason.split(" (message")[0].split(";")[0])
        self.happened = "; ".join(sorted(said))

    def test_truncated_under_a_source(self) -> None:
        """truncated under a client that sends | one line, exit 5"""
        host = self.host("--sink", os.devnull, "--quiet")
        self.wait_live()
        client = self.client("-s", "/dev/zero", "-q", "-t", 5)
        self.until(lambda: self.peek_word(512) > 1000, "messages flow")
        os.truncate(f"/dev/shm/{self.name}", 4096)
        self.last_line(self.finish(client, 5)[1], self.name, "truncated")
        self.finish(host, None)  # takes no SIGBUS: README "What is not supported"


class Hostile(FaultTest):
    def test_flip(self) -> None:
        """length, seq, head (back, by 2^63), times, owner flipped for 10 s | exit 0, 5 or 6"""
        host = self.hostile("flip", 10)
        modes: List[List[object]] = [["-v"], ["-l", "-v"], ["-o", self.path("a")], ["-w", "spin"],
                                     ["-o", self.path("b"), "-f", "ndjson"], ["--observe", "-v"],
                                     ["-l", "-o", self.path("c")], ["-w", "block"]]
        codes: List[int] = []
        while host.poll() is None and self.segment_exists():
            for mode in modes:
                client = self.client("-t", 2, "-n", 2000, *mode)
                _, err = self.finish(client, None)
                if host.poll() is not None:
                    break  # it had ended under, or before this one
                self.assertIn(client.returncode, (0, 5, 6), f"{mode}\n{err}")
                if err:
                    self.last_line(err)
                codes.append(client.returncode)
        self.finish(host)
        self.assertTrue(5 in codes and 6 in codes, f"no contention: {codes}")
        self.happened = ", ".join(f"{codes.count(c)} times exit {c}" for c in sorted(set(codes)))

    def test_odd(self) -> None:
        """a seq left odd for ever by a host that lives on | exit 5 or 6 in bounded time"""
        for late, mode in ((0, []), (20, ["-l"]), (20, ["-w", "spin"]), (0, ["-w", "block"]),
                           (20, ["-w", "block"]), (20, ["--observe"])):
            with self.subTest(mode=mode, late=late):
                self.one_line(self.struck("odd", late, "-t", 2, *mode), self.name, "no host writes")

    def test_laps(self) -> None:
        """every slot overwritten before it is read, for ever | exit 6 in bounded time"""
        self.hostile("laps")
        for mode in ([], ["-l"], ["--observe"]):
            with self.subTest(mode=mode):
                client = self.client("-n", 0, "-t", 2, *mode)
                _, err = self.finish(client, None)
                self.assertEqual(client.returncode, 6, err)
                self.last_line(err, self.name, "overwritten before it was read", "--slots")

    def test_client_writes_anything(self) -> None:
        """a client writes anything, anywhere, for 3 s | the host lives or says why"""
        for options in (["--rate", 0], ["--rate", 2000, "--crc"], ["--echo"],
                        ["--sink", os.devnull]):
            with self.subTest(options=options):
                host = self.host("--slots", 8, "--json", "--stall-timeout", 0.05, *options)
                self.wait_live()
                dice, end = random.Random(7), time.monotonic() + 0.75
                # Opened once: the host may unlink its segment at any moment.
                with open(f"/dev/shm/{self.name}", "r+b", buffering=0) as segment:
                    while time.monotonic() < end and host.poll() is None:
                        for _ in range(200):
                            at = 8 * dice.choice([
                                dice.randrange(16), 32, 48, 49, 50, 64, 80, 81, 82,
                                dice.randrange(128, 128 + 2 * 8 * 16)])
                            value = dice.choice([0, 1, 2 ** 64 - 1, 2 ** 63, dice.getrandbits(64),
                                                 os.getpid() | 7 << 32, dice.randrange(1000)])
                            segment.seek(at)
                            segment.write(value.to_bytes(8, "little"))
                if host.poll() is None:
                    host.send_signal(signal.SIGTERM)
                _, err = self.finish(host, None)
                self.assertIn(host.returncode, (0, 5, 6), err)
                self.assertNotIn("Traceback", err)
                self.assertFalse(self.segment_exists())


class Clocks(FaultTest):
    def check(self, client_command: List[str], why: bool = True) -> None:
        """--json: null; text: one line that says why."""
        report = self.finish_json(self.start(client_command + ["--json", "-n", "200", self.name]))
        self.assertEqual(report["messages"], 200)
        self.assertIsNone(report["latency_ns"])
        self.assertIsNone(report["due_latency_ns"])
        out, err = self.finish(self.start(client_command + ["-n", "200", self.name]))
        self.assertNotIn("p50", out)
        self.assertRegex(out, r"the host's clock and ours are -?\d+ s apart")
        self.happened = next(line.strip() for line in out.splitlines() if "apart" in line)
        observed = self.finish_json(self.start(
            client_command + ["--observe", "--json", "-n", "200", self.name]))
        self.assertIsNone(observed["latency_ns"])

    def test_ahead(self) -> None:
        """heartbeat and timestamps 100,000 s ahead | no latency, and why"""
        self.hostile("clock", 100000)
        self.check(CLIENT)

    def test_behind(self) -> None:
        """heartbeat and timestamps behind | no latency, and why"""
        self.hostile("clock", -int(min(100000, time.monotonic() / 2)) % (1 << 64))
        self.check(CLIENT)

    def test_host_elsewhere(self) -> None:
        """the host in a time namespace, 100,000 s ahead | no latency, and why"""
        self.in_namespace(host=True)

    def test_client_elsewhere(self) -> None:
        """the client in a time namespace, 100,000 s ahead | no latency, and why"""
        self.in_namespace(host=False)

    def in_namespace(self, host: bool) -> None:
        ahead = ["unshare", *AS_ROOT, "--time", "--monotonic", "100000", "--fork", "--kill-child"]
        require(can_unshare(*ahead[1:]), "no time namespace here")
        command = [*HOST, "--name", self.name, "--rate", "2000"]
        self.start(ahead + command if host else command)
        self.wait_live()
        self.check(CLIENT if host else ahead + CLIENT)
        # A second host by the other clock still sees that the first one lives.
        other = os.path.join(self.folder.name, "other")
        os.mkdir(other)
        second = command if host else ahead + command
        _, err = self.finish(self.start(second, env={"TMPDIR": other}), 3)
        self.one_line(err, self.name, "another host")


if __name__ == "__main__":
    unittest.main()
