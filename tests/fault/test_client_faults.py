"""Faults of the client: killed, stopped, dropped, in crowds; what it does when the host goes."""
import json
import os
import signal
import subprocess
import time
import unittest
from typing import List, Tuple

from faults import CLAIMING, DOWN, DROPPED, FENCED_HOST, HOLDER, HOST, UP, FaultTest, changed_host

PATIENT = ["--stall-timeout", 60]  # where nobody is to be dropped for being slow


class Consumer(FaultTest):
    SLOTS = 64

    def flat_out(self, *options: object, command: List[str] = HOST, **popen) -> subprocess.Popen:
        host = self.start([*command, "--name", self.name, "--rate", "0", "--slots",
                           str(self.SLOTS), "--json", *map(str, options)], **popen)
        self.wait_live()
        return host

    def frozen_consumer(self) -> Tuple[subprocess.Popen, int]:
        """Stopped while it reads, the ring full; and its generation."""
        client = self.client("-l", "-v", "-n", 0, "-t", 60)
        generation = self.wait_consumer(client)
        self.wait_read(100)
        self.freeze(client)
        self.wait_full(self.SLOTS)
        return client, generation

    def next_gets_all(self, count: int = 5000) -> None:
        report = self.finish_json(self.client("-l", "-v", "-n", count, "-t", 60, "--json"))
        self.assertEqual((report["messages"], report["lost"]), (count, 0))

    def living(self) -> int:
        """The pid of somebody who lives, and never reads."""
        return self.start(["sleep", "600"]).pid

    def killed(self, reaped: bool) -> None:
        host = self.flat_out(*PATIENT)
        client, generation = self.frozen_consumer()
        client.kill()
        if reaped:
            client.wait()
        self.wait_dropped(generation)
        self.wait_published(2 * self.SLOTS)
        self.next_gets_all()
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.one_line(err, self.name, f"client pid {client.pid} is gone", "dropped")
        self.happened = err.split(": ", 2)[2].strip()

    def test_killed(self) -> None:
        """--lossless client killed with -9, ring full | dropped, counted; the next gets all"""
        self.killed(True)

    def test_zombie(self) -> None:
        """the same, nobody reaps it (a zombie) | dropped all the same"""
        self.killed(False)

    def test_killed_in_its_claim(self) -> None:
        """a client killed between two steps of its claim | dropped; the next claims, gets all"""
        host = self.flat_out(*PATIENT)
        pid = self.nobody()
        steps = ("claiming", "holder", "settled")
        for step in steps:
            with self.subTest(last_step=step):
                generation = self.generation() + 1 | 1
                if step != "claiming":
                    self.poke_word(DOWN + HOLDER, generation << 32 | pid)
                self.poke_place(generation, self.head() if step == "settled" else CLAIMING | pid)
                self.next_gets_all()  # it waits until the host has dropped that one
                self.assertEqual(self.dropped(), generation)
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], len(steps))
        self.assertEqual(err.count(f"client pid {pid} is gone: dropped"), len(steps), err)

    def test_stops_in_its_claim(self) -> None:
        """one that never ends its claim | a second: exit 5; dropped at --stall-timeout"""
        host = self.flat_out("--stall-timeout", 5)
        pid = self.living()
        self.poke_place(1, CLAIMING | pid)
        self.one_line(self.finish(self.client("-l"), 5)[1], self.name, f"pid {pid} ")
        self.wait_dropped(1)
        self.next_gets_all()
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.one_line(err, f"client pid {pid} had not moved for 5 s")

    def test_patience_begins_anew(self) -> None:
        """host waits for a consumer, which leaves as another claims | that one has its own time"""
        host = self.flat_out("--stall-timeout", 6)
        pid = self.living()
        self.poke_word(DOWN + HOLDER, 1 << 32 | pid)
        self.poke_place(1, self.head())
        self.wait_full(self.SLOTS)
        self.pass_time(2)
        begin = time.monotonic()
        self.poke_place(3, CLAIMING | pid)
        self.wait_dropped(3)
        self.assertGreaterEqual(time.monotonic() - begin, 6)
        self.wait_published(2 * self.SLOTS)
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.one_line(err, f"pid {pid}")

    # A host that stands still between its decision to drop and the store, as long as a file is
    # there; only its heart goes on beating.
    HELD = """
def held(keeper, *words, drop=host.Keeper.drop, gate=os.environ["GATE"]):
    open(gate, "w").close()
    while os.path.exists(gate):
        host.time.sleep(0.001)
        keeper.segment.beat(host.clock())
    drop(keeper, *words)
host.Keeper.drop = held
"""

    def held_before_its_drop(self) -> Tuple[subprocess.Popen, subprocess.Popen, int]:
        """(host, the consumer it is about to drop, that one's generation)"""
        host = self.flat_out("--stall-timeout", 3, command=changed_host(f"exec({self.HELD!r})"),
                             env={"GATE": self.path("gate")})
        client, generation = self.frozen_consumer()
        self.until(lambda: os.path.exists(self.path("gate")), "the host is about to drop it")
        self.thaw(client)
        self.until(lambda: self.position() == self.head(), "it has read everything")
        return host, client, generation

    def test_dropped_while_another_claims(self) -> None:
        """host drops in the instant of its consumer's leaving, another claims | nothing lost"""
        host, old, generation = self.held_before_its_drop()
        self.ended(old)
        self.assertEqual(self.generation(), generation + 1)
        successor = self.client("-l", "-v", "-n", 5000, "-t", 60, "--json")
        self.wait_consumer(successor)
        os.unlink(self.path("gate"))
        report = self.finish_json(successor)
        self.assertEqual((report["messages"], report["lost"]), (5000, 0))
        self.assertEqual(self.dropped(), generation)  # not the successor's
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.one_line(err, f"client pid {old.pid} ")

    def test_dropped_while_it_moves(self) -> None:
        """host drops in the instant in which its consumer goes on | exit 6; the next gets all"""
        host, old, _ = self.held_before_its_drop()
        os.unlink(self.path("gate"))
        self.last_line(self.finish(old, 6)[1], self.name, "dropped this client")
        self.next_gets_all()
        self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 1)

    def test_wakes_late(self) -> None:
        """a dropped client wakes up while its successor reads | exit 6, nobody disturbed"""
        host = self.flat_out("--stall-timeout", 2)
        for _ in range(3):
            old, generation = self.frozen_consumer()
            self.wait_dropped(generation)
            successor = self.client("-l", "-v", "-n", 20000, "-t", 60, "--json")
            self.assertEqual(self.wait_consumer(successor), generation + 2)
            self.thaw(old)
            self.last_line(self.finish(old, 6)[1], self.name, "dropped this client")
            report = self.finish_json(successor)
            self.assertEqual((report["messages"], report["lost"]), (20000, 0))
            self.assertEqual(self.generation(), generation + 3)  # it has left by itself
        self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 3)

    def test_wakes_in_its_sleep(self) -> None:
        """a dropped client wakes up in its futex while its successor sleeps | that one is woken"""
        host = self.host("--rate", 20, "--slots", 4, "--stall-timeout", 2, "--json")
        self.wait_live()
        old = self.client("-l", "-w", "block", "-n", 0, "-q")
        generation = self.wait_consumer(old)
        self.wait_asleep(old)
        self.freeze(old)
        self.wait_dropped(generation)
        successor = self.client("-l", "-w", "block", "-n", 20, "--json")
        self.wait_consumer(successor)
        self.wait_asleep(successor)
        self.thaw(old)
        self.finish(old, 6)
        report = self.finish_json(successor)
        self.assertEqual((report["lost"], report["missed_wakeups"]), (0, 0))
        self.ended(host)

    def test_second_consumer(self) -> None:
        """a second consumer | exit 5 with the first one's pid; taken once that one is killed"""
        host = self.host("--rate", 1000, *PATIENT, "--json")
        self.wait_live()
        first = self.client("-l", "-n", 0, "-q", "-t", 60)
        generation = self.wait_consumer(first)
        for _ in range(5):
            _, err = self.finish(self.client("-l"), 5)
            self.one_line(err, self.name, f"client pid {first.pid} ", "--lossless")
        self.finish(self.client("-v", "-n", 50))  # who asks for nothing is refused nothing
        first.kill()  # and nobody reaps it
        self.next_gets_all(200)
        self.assertEqual((self.dropped(), self.generation()), (generation, generation + 3))
        self.one_line(self.ended(host)[1], f"client pid {first.pid} is gone")


class OneClient(FaultTest):
    """--echo and --sink serve one client and end with it."""
    JOBS: List[Tuple[List[object], List[object]]] = [
        (["--echo", "--rate", 2000], ["-e", "-n", 0]),
        (["--sink", os.devnull], ["-s", "/dev/zero"])]

    def begin(self, job: List[object], *host_options: object) -> subprocess.Popen:
        host = self.host(*job, "--json", *host_options)
        self.wait_live()
        return host

    def serve(self, job: List[object], options: List[object], *host_options: object):
        """(host, its client, that one's generation), and messages flow."""
        host = self.begin(job, *host_options)
        client = self.client(*options, "-q", "-t", 60)
        generation = self.wait_consumer(client)
        now = self.head(UP)
        self.until(lambda: self.head(UP) > now + 50, "messages flow")
        return host, client, generation

    def test_killed(self) -> None:
        """client of --echo or --sink killed with -9 | host exit 6, and why"""
        for job, options in self.JOBS:
            with self.subTest(job=job):
                host, client, _ = self.serve(job, options, *PATIENT)
                client.kill()
                out, err = self.finish(host, 6)
                self.assertEqual(json.loads(out)["dropped_clients"], 1)
                self.happened = self.one_line(err, self.name, f"client pid {client.pid} is gone")

    def test_dropped(self) -> None:
        """client of --echo or --sink dropped while it lives | both exit 6"""
        for job, options in self.JOBS:
            with self.subTest(job=job):
                host, client, generation = self.serve(job, options, *PATIENT)
                # As if it were in another pid namespace: nobody has its number here.
                pid = self.nobody()
                self.poke_word(DOWN + HOLDER, generation << 32 | pid)
                out, err = self.finish(host, 6)
                self.assertEqual(json.loads(out)["dropped_clients"], 1)
                self.one_line(err, self.name, f"client pid {pid} is gone")
                self.last_line(self.finish(client, 6)[1], self.name, "dropped this client")

    def test_dropped_with_nothing_to_send(self) -> None:
        """the same, a --source client whose FILE is quiet | both exit 6"""
        host = self.begin(self.JOBS[1][0], *PATIENT)
        quiet, end = os.pipe()
        self.addCleanup(os.close, end)
        client = self.client("-s", "-", "-q", stdin=quiet)
        os.close(quiet)
        generation = self.wait_consumer(client)
        self.poke_word(DOWN + HOLDER, generation << 32 | self.nobody())
        self.finish(host, 6)
        self.last_line(self.finish(client, 6)[1], self.name, "dropped this client")

    def test_says_it_was_dropped(self) -> None:
        """somebody writes that the client was dropped | host exit 6, in words"""
        for job, options in self.JOBS:
            with self.subTest(job=job):
                host, client, generation = self.serve(job, options, *PATIENT)
                self.poke_word(DOWN + DROPPED, generation)
                self.assertRegex(self.finish(host, 6)[1], rf"^host\.py: /{self.name}: [a-z]")
                self.finish(client, 6)

    def test_stopped(self) -> None:
        """client of --echo stopped for longer than --stall-timeout | both exit 6"""
        host, client, _ = self.serve(*self.JOBS[0], "--stall-timeout", 2)
        self.freeze(client)
        self.one_line(self.finish(host, 6)[1], self.name, f"client pid {client.pid} did not answer")
        self.thaw(client)
        self.last_line(self.finish(client, 6)[1], self.name, "dropped this client")

    def test_left(self) -> None:
        """client of --echo or --sink leaves, by --count or by a signal | both exit 0"""
        for job, options in self.JOBS:
            with self.subTest(job=job):
                host = self.begin(job, *PATIENT)
                self.finish(self.client(*options, "-q", "-n", 1000, "-t", 60))
                out, err = self.finish(host)
                report = json.loads(out)
                self.assertEqual((report["received"], report["dropped_clients"]), (1000, 0))
                self.assertEqual(err, "")
                host, client, _ = self.serve(job, options, *PATIENT)
                self.ended(client, number=signal.SIGINT)
                out, err = self.finish(host)
                self.assertEqual(json.loads(out)["dropped_clients"], 0)
                if "--sink" in job:
                    self.one_line(err, self.name, "before the end of its stream")
                else:
                    self.assertEqual((json.loads(out)["echo_errors"], err), (0, ""))


class Stopped(FaultTest):
    SLOTS = 256

    def begin(self, *host_options: object) -> subprocess.Popen:
        host = self.host("--rate", 2000, "--slots", self.SLOTS, "--json", *host_options)
        self.wait_live()
        return host

    def test_reader(self) -> None:
        """reader stopped for four rings and continued | exit 0, what it missed is counted"""
        host = self.begin()
        client = self.client("--json", "-v", "-n", 0, "-t", 60)
        self.wait_attached()
        self.wait_published(100)
        self.freeze(client)
        self.wait_published(4 * self.SLOTS)
        self.thaw(client)
        self.wait_published(self.SLOTS)
        out, err = self.ended(host)
        host_report, report = json.loads(out), self.finish_json(client)
        self.assertEqual((err, host_report["stalls"], host_report["dropped_clients"]), ("", 0, 0))
        self.assertGreater(report["lost"], 2 * self.SLOTS)
        self.assertEqual(report["messages"] + report["lost"],
                         host_report["published"] - report["began"])
        self.happened = f"lost {report['lost']}, host never waited"

    def test_consumer(self) -> None:
        """--lossless client stopped for longer than --stall-timeout | dropped, exit 6"""
        host = self.begin("--stall-timeout", 2)
        client = self.client("--json", "-l", "-v", "-n", 0, "-t", 60)
        generation = self.wait_consumer(client)
        self.wait_read(100)
        self.freeze(client)
        self.wait_dropped(generation)
        self.thaw(client)
        out, err = self.finish(client, 6)
        self.last_line(err, self.name, "dropped this client", "--stall-timeout")
        self.assertEqual(json.loads(out)["lost"], 0)  # it counted nothing that it was not sure of
        self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 1)

    def test_patient(self) -> None:
        """--lossless client stopped for 3 s, --stall-timeout 60 | the host waits, nothing lost"""
        host = self.begin(*PATIENT)
        client = self.client("--json", "-l", "-v", "-n", 0, "-t", 60)
        self.wait_consumer(client)
        self.wait_read(100)
        self.freeze(client)
        self.wait_full(self.SLOTS)
        self.pass_time(3)
        self.thaw(client)
        self.wait_read(2 * self.SLOTS)
        out, err = self.ended(host)
        host_report, report = json.loads(out), self.finish_json(client)
        self.assertEqual((err, report["lost"], host_report["dropped_clients"]), ("", 0, 0))
        self.assertGreater(host_report["stalls"], 0)
        self.assertEqual(report["messages"], host_report["published"] - report["began"])


class Many(FaultTest):
    MODES = ("adaptive", "spin", "block")

    def test_attach_and_leave(self) -> None:
        """200 clients attach and leave in a row, the host flat out | all exit 0, nothing is left"""
        host = self.host("--rate", 0, "--slots", 256, "--json", *PATIENT)
        self.wait_live()
        files = len(os.listdir(f"/proc/{host.pid}/fd"))
        modes: List[List[object]] = [[], ["-l"], ["-w", "block"], ["-l", "-w", "spin"],
                                     ["-w", "spin"], ["-l", "-w", "block", "-v"]]
        for i in range(200):
            report = self.finish_json(self.client("-n", 50, "--json", *modes[i % len(modes)]))
            self.assertEqual(report["messages"], 50)
            if "-l" in modes[i % len(modes)]:
                self.assertEqual(report["lost"], 0)
            self.assertEqual(self.generation() % 2, 0)
        self.assertEqual(len(os.listdir(f"/proc/{host.pid}/fd")), files)
        out, err = self.ended(host)
        report = json.loads(out)
        self.assertEqual((report["clients"], report["dropped_clients"], err), (200, 0, ""))

    def crowd(self, beside_a_consumer: bool) -> dict:
        """Ten readers at full rate, of which two are killed and two stopped. The host's report."""
        host = self.host("--rate", 0, "--json", *PATIENT)
        self.wait_live()
        readers = [self.client("--json", "-n", 0, "-t", 60, "-w", self.MODES[i % 3])
                   for i in range(10)]
        self.wait_attached(10)
        if beside_a_consumer:
            consumer = self.client("-l", "-v", "-n", 50000, "-t", 60, "--json")
            self.wait_consumer(consumer)
        for killed in readers[:2]:
            killed.kill()
        for stopped in readers[2:4]:
            self.freeze(stopped)
        self.wait_published(10000)  # nine rings
        if beside_a_consumer:
            report = self.finish_json(consumer)
            self.assertEqual((report["messages"], report["lost"]), (50000, 0))
        self.assertEqual([self.state_of(stopped) for stopped in readers[2:4]], ["T", "T"])
        for stopped in readers[2:4]:
            self.thaw(stopped)
        self.wait_published(10000)
        out, err = self.ended(host)
        host_report = json.loads(out)
        self.assertEqual((host_report["dropped_clients"], err), (0, ""))
        self.assertEqual(host_report["clients"], 10 + beside_a_consumer)
        lost = []
        for reader in readers[2:]:
            report = self.finish_json(reader)
            self.assertEqual(report["messages"] + report["lost"],
                             host_report["published"] - report["began"], report)
            self.assertGreater(report["messages"], 0)
            lost.append(report["lost"])
        self.assertGreater(max(lost), 0, "no contention")
        self.happened = (f"{host_report['published']} published, lost {min(lost)} to {max(lost)}, "
                         f"host waited {host_report['stalls']} times")
        return host_report

    def test_ten_readers(self) -> None:
        """ten readers, two killed, two stopped, at full rate | exact counts, host never waits"""
        self.assertEqual(self.crowd(False)["stalls"], 0)

    def test_ten_readers_and_a_consumer(self) -> None:
        """the same beside a --lossless one | that one gets all, in order; exact counts"""
        self.crowd(True)

    def test_two_sleepers(self) -> None:
        """two sleepers, one killed in its sleep, five times | the other loses no wake-up"""
        for command in (HOST, FENCED_HOST):  # with the kernel's fence, if there is one; and without
            with self.subTest(fenced=command is FENCED_HOST):
                host = self.start([*command, "--name", self.name, "--rate", "40", "--json"])
                self.wait_live()
                sleeper = self.client("--json", "-n", 0, "-w", "block", "-t", 60)
                self.wait_attached()
                for i in range(5):
                    victim = self.client("-q", "-n", 0, "-w", "block", "-t", 60)
                    self.wait_attached(2 + i)
                    self.wait_asleep(victim)
                    victim.kill()
                    self.wait_published(5)
                published = json.loads(self.ended(host)[0])["published"]
                report = self.finish_json(sleeper)
                self.assertEqual((report["lost"], report["missed_wakeups"]), (0, 0))
                self.assertEqual(report["messages"], published - report["began"])
                self.assertGreater(report["waits"]["slept"], 0)


if __name__ == "__main__":
    unittest.main()
