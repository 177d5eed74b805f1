"""Faults of the segment: cut short, cut off, full of lies, by another clock."""
import json
import os
import random
import signal
import sys
import time
import unittest
from typing import List

from faults import (ATTACHED, AS_ROOT, CLAIMING, CLIENT, DOWN, DROPPED, HEAD, HOST, PID, PLACE,
                    SLOTS, UP, WISH, FaultTest, can_unshare, require)


class Shapes(FaultTest):
    def test_empty(self) -> None:
        """an empty object | client: not finished starting, exit 3; host: replaces it, says so"""
        open(f"/dev/shm/{self.name}", "wb").close()
        _, err = self.finish(self.client("-t", 0.3), 3)
        self.one_line(err, self.name, "not finished starting")
        _, err = self.finish(self.host("--count", 3, "--quiet"))
        self.one_line(err, self.name, "stale", "replaced")

    def test_truncated_before(self) -> None:
        """truncated before attach, to each of six sizes | one line, exit 5"""
        self.host("--slots", 4)
        self.wait_live()
        whole = self.segment(1 << 20)
        self.name += "-cut"
        for size in (1, 511, 4095, 4096, len(whole) // 2, len(whole) - 1):
            with self.subTest(size=size):
                with open(f"/dev/shm/{self.name}", "wb") as cut:
                    cut.write(whole[:size])
                _, err = self.finish(self.client("-t", 0.3), 5)
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
        modes: List[List[object]] = [["-w", "spin"], ["-w", "block"], ["-w", "spin", "-l"], ["-v"],
                                     ["-w", "block", "-l", "-v"], ["-o", self.path("out")],
                                     ["-l", "-o", self.path("out")]]
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
        self.until(lambda: self.head(UP) > 1000, "messages flow")
        os.truncate(f"/dev/shm/{self.name}", 4096)
        self.last_line(self.finish(client, 5)[1], self.name, "truncated")
        self.finish(host, None)  # takes no SIGBUS: README "What is not supported"
        self.assertNotEqual(host.returncode, 0)


class Hostile(FaultTest):
    def test_flip(self) -> None:
        """length, seq, head (back, by 2^63), times, place flipped for 10 s | exit 0, 5 or 6"""
        modes: List[List[object]] = [["-v"], ["-l", "-v"], ["-o", self.path("a")], ["-w", "spin"],
                                     ["-l", "-o", self.path("b")], ["-w", "block"],
                                     ["-l", "-w", "block", "-v"]]
        codes: List[int] = []
        while not {5, 6} <= set(codes):  # without contention nothing is proved: once more
            host = self.hostile("flip", 10)
            while host.poll() is None and self.segment_exists():
                for mode in modes:
                    client = self.client("-t", 2, "-n", 2000, *mode)
                    _, err = self.finish(client, None)
                    if client.returncode in (3, 4):  # not heard of host.poll() yet
                        self.until(lambda: host.poll() is not None, "it has ended")
                    if host.poll() is not None:
                        break  # it had ended under, or before this one
                    self.assertIn(client.returncode, (0, 5, 6), f"{mode}\n{err}")
                    if err:
                        self.last_line(err)
                    codes.append(client.returncode)
            self.finish(host)
        self.happened = ", ".join(f"{codes.count(c)} times exit {c}" for c in sorted(set(codes)))

    def test_odd(self) -> None:
        """a seq left odd for ever by a host that lives on | exit 5 or 6 in bounded time"""
        for late, mode in ((0, []), (20, ["-l"]), (20, ["-w", "spin"]), (0, ["-w", "block"]),
                           (20, ["-w", "block"]), (20, ["-v"])):
            with self.subTest(mode=mode, late=late):
                self.one_line(self.struck("odd", late, "-t", 2, *mode), self.name, "no host writes")

    def test_laps(self) -> None:
        """every slot overwritten before it is read, for ever | exit 6 in bounded time"""
        self.hostile("laps")
        for mode in ([], ["-l"], ["-w", "block"]):
            with self.subTest(mode=mode):
                client = self.client("-n", 0, "-t", 2, *mode)
                _, err = self.finish(client, None)
                self.assertEqual(client.returncode, 6, err)
                self.last_line(err, self.name, "overwritten before it was read", "--slots")

    def test_client_writes_anything(self) -> None:
        """a client writes anything, anywhere, for 4 s | the host lives or says why"""
        ours = [at // 8 for lane in (DOWN, UP)
                for at in (lane + HEAD, lane + DROPPED, lane + PLACE, lane + PID, lane + WISH,
                           lane + ATTACHED)]
        codes: List[int] = []
        for seed, options in enumerate([["--rate", 0], ["--rate", 2000, "--crc"],
                                        ["--echo"], ["--echo", "--rate", 0, "--wait", "block"],
                                        ["--sink", os.devnull]]):
            with self.subTest(options=options):
                host = self.host("--slots", 8, "--json", "--stall-timeout", 0.05, *options)
                self.wait_live()
                dice, end = random.Random(seed), time.monotonic() + 0.8
                # Opened once: the host may unlink its segment at any moment.
                with open(f"/dev/shm/{self.name}", "r+b", buffering=0) as segment:
                    while time.monotonic() < end and host.poll() is None:
                        for _ in range(200):
                            at = 8 * dice.choice([dice.randrange(66), *ours, *ours,
                                                  SLOTS // 8 + dice.randrange(2 * 8 * 16)])
                            pid = dice.choice([os.getpid(), 0, 2 ** 32 - 1, dice.getrandbits(32)])
                            epoch = dice.randrange(5) if dice.random() < 0.8 else 0xffff
                            value = dice.choice([
                                0, 1, 2 ** 64 - 1, 2 ** 63, dice.getrandbits(64), epoch, pid,
                                epoch << 48 | CLAIMING, epoch << 48 | dice.randrange(1000),
                                dice.randrange(1000)])
                            segment.seek(at)
                            segment.write(value.to_bytes(8, sys.byteorder))
                if host.poll() is None:
                    host.send_signal(signal.SIGTERM)
                _, err = self.finish(host, None)
                self.assertIn(host.returncode, (0, 5, 6), err)
                self.assertNotIn("Traceback", err)
                if host.returncode:  # it says why
                    self.assertRegex(err.splitlines()[-1], r"^host\.py: /\w+: \w.*\w")
                self.assertFalse(self.segment_exists())
                codes.append(host.returncode)
        self.happened = "exit " + ", ".join(map(str, codes))


class Clocks(FaultTest):
    def check(self, client_command: List[str]) -> None:
        """--json: null; text: it says why."""
        report = self.finish_json(self.start(client_command + ["--json", "-n", "200", self.name]))
        self.assertEqual(report["messages"], 200)
        self.assertIsNone(report["latency_ns"])
        self.assertIsNone(report["due_latency_ns"])
        out, err = self.finish(self.start(client_command + ["-n", "200", self.name]))
        self.assertNotIn("p50", out)
        self.assertIn("over a second away from our clock", out)

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
        _, err = self.finish(self.start(command if host else ahead + command), 3)
        self.one_line(err, self.name, "another host")


if __name__ == "__main__":
    unittest.main()
