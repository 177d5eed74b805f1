"""Faults of the client: killed, stopped, dropped, in crowds; what it does when the host goes."""
import json
import os
import signal
import subprocess
import sys
import unittest
from typing import List

from faults import CURSOR, OWNER, WAITING, FaultTest


class Lossless(FaultTest):
    SLOTS = 64

    def flat_out(self, *options: object) -> subprocess.Popen:
        host = self.host("--rate", 0, "--slots", self.SLOTS, "--json", *options)
        self.wait_live()
        return host

    def frozen_client(self) -> subprocess.Popen:
        """LOSSLESS, stopped, the ring full."""
        client = self.client("-l", "-v", "-n", 0, "-t", 30)
        self.wait_attached()
        self.until(lambda: self.peek_word(CURSOR) > 100, "it reads")
        self.freeze(client)
        self.wait_full(self.SLOTS)
        return client

    def killed(self, reaped: bool) -> None:
        host = self.flat_out()
        client = self.frozen_client()
        client.kill()
        if reaped:
            client.wait()
        self.until(lambda: self.peek_word(OWNER) == 0, "the host has dropped it")
        now = self.head()
        self.until(lambda: self.head() > now + 2 * self.SLOTS, "the host goes on")
        report = self.finish_json(self.client("-l", "-v", "-n", 5000, "--json"))
        self.assertEqual((report["messages"], report["lost"]), (5000, 0))
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.one_line(err, self.name, f"client pid {client.pid}", "dropped")
        self.happened = err.split(": ", 2)[2].strip()

    def test_killed(self) -> None:
        """LOSSLESS client killed with -9, ring full | dropped, counted; the next gets all"""
        self.killed(True)

    def test_zombie(self) -> None:
        """the same, nobody reaps it (a zombie) | dropped at --stall-timeout"""
        self.killed(False)

    def test_wakes_late(self) -> None:
        """a dropped client wakes up while its successor reads | exit 6, nobody disturbed"""
        host = self.flat_out()
        for _ in range(3):
            old = self.frozen_client()
            self.until(lambda: self.peek_word(OWNER) == 0, "the host has dropped it")
            successor = self.client("-l", "-v", "-n", 20000, "--json")
            self.until(lambda: self.peek_word(OWNER, 4) == successor.pid, "the successor reads")
            self.thaw(old)
            self.one_line(self.finish(old, 6)[1], self.name, "dropped this client")
            report = self.finish_json(successor)
            self.assertEqual((report["messages"], report["lost"]), (20000, 0))
        self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 3)

    def test_wakes_in_its_sleep(self) -> None:
        """a dropped client wakes up in its futex while its successor sleeps | that one is woken"""
        host = self.host("--rate", 20, "--slots", 4, "--stall-timeout", 0.3, "--json")
        self.wait_live()
        old = self.client("-l", "-w", "block", "-n", 0, "-q")
        self.until(lambda: self.peek_word(WAITING, 4), "it sleeps")
        self.freeze(old)
        self.until(lambda: self.peek_word(OWNER) == 0, "the host has dropped it")
        successor = self.client("-l", "-w", "block", "-n", 20, "--json")
        self.until(lambda: self.peek_word(OWNER, 4) == successor.pid, "the successor reads")
        self.until(lambda: self.peek_word(CURSOR) == self.head() and self.peek_word(WAITING, 4),
                   "it sleeps, too")
        self.thaw(old)
        self.finish(old, 6)
        self.assertEqual(self.finish_json(successor)["missed_wakeups"], 0)
        self.ended(host)

    def test_late_stores(self) -> None:
        """cursors of a dropped client stored 300 times under a LOSSLESS reader | nothing lost"""
        host = self.host("--rate", 2000, "--slots", 16, "--json")
        self.wait_live()
        client = self.client("-l", "-v", "-n", 0, "--json", "-w", "block")
        self.wait_attached()
        for i in range(300):
            self.poke(CURSOR, (i % 7).to_bytes(8, sys.byteorder))
            self.pass_time(0.005)
        out, err = self.ended(host)
        self.assertEqual((json.loads(out)["dropped_clients"], err), (0, ""))
        self.assertEqual(self.finish_json(client)["lost"], 0)


class Stopped(FaultTest):
    def stopped(self, host_options: List[object], client_options: List[object], code: int):
        host = self.host("--rate", 2000, "--slots", 256, "--json", *host_options)
        self.wait_live()
        client = self.client("--json", "-v", "-n", 0, "-t", 30, *client_options)
        self.wait_attached()
        self.until(lambda: self.peek_word(CURSOR) > 100, "it reads")
        self.freeze(client)
        self.pass_time(3)
        self.thaw(client)
        if code == 0:
            now = self.peek_word(CURSOR)
            self.until(lambda: self.peek_word(CURSOR) > now + 50, "it reads on")
            out, err = self.ended(host)
            self.assertEqual(err, "")
            return json.loads(out), self.finish_json(client)
        out, err = self.finish(client, code)
        self.one_line(err, self.name, "dropped this client", "--stall-timeout")
        return json.loads(self.ended(host)[0]), json.loads(out)

    def test_lossy(self) -> None:
        """client stopped for 3 s | exit 0, what it missed is counted"""
        host, client = self.stopped([], [], 0)
        self.assertGreater(client["lost"], 1000)
        self.assertEqual((host["stalls"], host["dropped_clients"]), (0, 0))
        self.happened = f"lost {client['lost']}, host never waited"

    def test_lossless(self) -> None:
        """LOSSLESS client stopped for 3 s | dropped, exit 6"""
        host, _ = self.stopped([], ["-l"], 6)
        self.assertEqual(host["dropped_clients"], 1)

    def test_lossless_patient(self) -> None:
        """LOSSLESS client stopped for 3 s, --stall-timeout 20 | the host waits, nothing lost"""
        host, client = self.stopped(["--stall-timeout", 20], ["-l"], 0)
        self.assertEqual((client["lost"], host["dropped_clients"]), (0, 0))
        self.assertGreater(host["stalls"], 0)


class Many(FaultTest):
    def test_attach_and_leave(self) -> None:
        """200 clients attach and leave in a row, the host flat out | all exit 0, nothing is left"""
        host = self.host("--rate", 0, "--slots", 256, "--json")
        self.wait_live()
        files = len(os.listdir(f"/proc/{host.pid}/fd"))
        modes: List[List[object]] = [[], ["-l"], ["-w", "block"], ["-l", "-w", "spin"],
                                     ["-w", "yield"], ["-l", "-w", "sleep", "-v"], ["--observe"]]
        for i in range(200):
            report = self.finish_json(self.client("-n", 50, "--json", *modes[i % len(modes)]))
            self.assertEqual(report["messages"], 50)
            if "-l" in modes[i % len(modes)]:
                self.assertEqual(report["lost"], 0)
            self.assertEqual(self.peek_word(OWNER), 0)
        self.assertEqual(len(os.listdir(f"/proc/{host.pid}/fd")), files)
        out, err = self.ended(host)
        self.assertEqual((json.loads(out)["dropped_clients"], err), (0, ""))

    def test_second_client(self) -> None:
        """a second client | exit 5 with the first one's pid; --observe offered, works"""
        self.host("--rate", 1000)
        self.wait_live()
        first = self.client("--json", "-l", "-v", "-n", 2000)
        self.wait_attached()
        for _ in range(5):
            _, err = self.finish(self.client(), 5)
            self.one_line(err, self.name, f"pid {first.pid}", "--observe")
        self.finish(self.client("--observe", "-v", "-n", 50))
        self.assertEqual(self.finish_json(first)["lost"], 0)

    def test_observers(self) -> None:
        """ten observers and one stopped, one killed, beside a LOSSLESS client | nothing lost"""
        host = self.host("--rate", 2000, "--slots", 256, "--json")
        self.wait_live()
        observers = [self.client("--json", "--observe", "-v", "-n", 0, "-t", 30)
                     for _ in range(12)]
        for observer in observers:
            self.assertEqual(self.wait_mapped(observer), "r--s")  # can harm nobody
        self.assertEqual(self.segment(768)[CURSOR:CURSOR + 128], bytes(128))  # nor leave a trace
        client = self.client("--json", "-l", "-v", "-n", 6000)
        self.wait_attached()
        self.freeze(observers[0])
        observers[1].kill()
        report = self.finish_json(client)
        self.assertEqual((report["messages"], report["lost"]), (6000, 0))
        host_report = json.loads(self.ended(host)[0])
        for observer in observers[2:]:  # until the host closed; began before the client did
            seen = self.finish_json(observer)
            self.assertGreaterEqual(seen["messages"] + seen["lost"], 6000)
        self.assertEqual(host_report["dropped_clients"], 0)
        self.happened = f"10 observers, client lost 0, host waited {host_report['stalls']}"

    def test_peek(self) -> None:
        """--peek at nothing, a live host, a client's lane, a dead host | shows, changes nothing"""
        self.one_line(self.finish(self.client("--peek", "-t", 0.1), 3)[1], "no host")
        host = self.host("--rate", 0.001, "--slots", 2)
        self.until(lambda: self.head() == 1, "the only message for a long time is out")
        client = self.client("-l", "-n", 0, "-t", 30)
        self.wait_attached()
        control = self.segment(256 + 144)[256:]  # all but `waiting`, which the client flips itself
        out, _ = self.finish(self.client("--peek"))
        self.assertEqual(self.segment(256 + 144)[256:], control)
        for words in ("state LIVE", f"host pid {host.pid} ",
                      f"consumer {client.pid} ATTACHED LOSSLESS",
                      f"session {int.from_bytes(self.segment()[40:48], sys.byteorder):016x}"):
            self.assertIn(words, out)
        os.killpg(host.pid, signal.SIGKILL)
        host.wait()
        self.assertIn(f"host pid {host.pid} (gone)", self.finish(self.client("--peek"))[0])
        self.finish(client, 4)


class Reattach(FaultTest):
    def test_reattach(self) -> None:
        """--reattach, hosts closed and killed | every gap reported, no old frame as new"""
        output = self.path("out")
        client = self.client("-r", "-l", "-v", "-o", output, "-f", "ndjson", "-n", 0, "-t", 30,
                             "--json")
        heads, sessions = [], []
        for end in ("closed", "group", "alone", "last"):
            host = self.host("--rate", 1000, "--json")
            self.until(lambda: self.segment_exists() and self.peek_word(128, 4) == 1
                       and self.peek_word(40) not in sessions, "the next host is live")
            sessions.append(self.peek_word(40))
            self.wait_attached()
            start = self.peek_word(CURSOR)
            self.until(lambda: self.peek_word(CURSOR) > start + 300, "it reads")
            segment = os.open(f"/dev/shm/{self.name}", os.O_RDONLY)
            if end == "group":
                os.killpg(host.pid, signal.SIGKILL)
            elif end == "alone":
                host.kill()  # then its tracker unlinks the segment
            else:
                client.send_signal(signal.SIGINT) if end == "last" else None
                self.ended(host)
            host.wait()
            heads.append(int.from_bytes(os.pread(segment, 8, 256), sys.byteorder))
            os.close(segment)
        out, err = self.finish(client)
        report = json.loads(out)
        self.assertEqual((report["reattached"], report["lost"]), (3, 0))
        self.assertEqual(report["session"], sessions[-1])
        lines = [line for line in err.splitlines() if "reattached" in line]
        for line, how, session in zip(lines, ("closed", "died", "died"), sessions[1:]):
            self.assertRegex(line, rf"the host {how}; reattached to session {session:016x} .* "
                                   r"after [0-9.]+ s; nothing was left unread .*, \d+ messages")
        before = [int(line.split(" messages of the new one")[0].split()[-1]) for line in lines]
        with open(output) as rows:
            frames = [json.loads(row)["n"] for row in rows]
        self.assertEqual(len(frames), report["messages"])
        runs = [[frames[0]]]  # one run of consecutive numbers a session, up to its end
        for n in frames[1:]:
            runs[-1].append(n) if n == runs[-1][-1] + 1 else runs.append([n])
        self.assertEqual(len(runs), 4)
        self.assertEqual([run[-1] for run in runs[:3]], heads[:3])
        self.assertEqual([run[0] for run in runs[1:]], [n + 1 for n in before])
        self.happened = f"{len(lines)} times, {len(frames)} messages, none twice"

    def test_nobody_comes(self) -> None:
        """--reattach and no next host | exit 3 at the time-out; exit 4 where a dead one was left"""
        for group, code in ((False, 3), (True, 4)):
            host = self.host()
            self.wait_live()
            session = self.peek_word(40)
            client = self.client("-r", "-n", 0, "-t", 2, "--json")
            self.wait_attached()
            self.until(lambda: self.peek_word(CURSOR) > 100, "it reads")
            if group:
                os.killpg(host.pid, signal.SIGKILL)
                host.wait()
            else:
                self.ended(host)
            out, err = self.finish(client, code)
            self.last_line(err, self.name, "waited 2 s")
            self.assertEqual(json.loads(out)["session"], session)  # of the messages it reports


if __name__ == "__main__":
    unittest.main()
