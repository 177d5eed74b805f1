"""Faults of the client: killed, stopped, dropped, in crowds; what it does when the host goes."""
import json
import os
import signal
import subprocess
import time
import unittest
from typing import List, Tuple

from faults import (AS_ROOT, BUILD, CLAIMING, CLIENT, CONSUMER, DOWN, DROPPED, HOST, RECEIVER,
                    ROOT, SENDER, SLOTS, UP, WISH, FaultTest, can_unshare, changed_host, require)

PATIENT = ["--stall-timeout", 60]  # where nobody is to be dropped for being slow


class ConsumerTest(FaultTest):
    SLOTS = 64

    def flat_out(self, *options: object, command: List[str] = HOST, **popen) -> subprocess.Popen:
        host = self.start([*command, "--name", self.name, "--rate", "0", "--slots",
                           str(self.SLOTS), "--json", *map(str, options)], **popen)
        self.wait_live()
        return host

    def frozen_consumer(self) -> Tuple[subprocess.Popen, int]:
        """Stopped while it reads, the ring full; and its epoch."""
        client = self.client("-l", "-v", "-n", 0, "-t", 60)
        epoch = self.wait_consumer(client)
        self.wait_read(100)
        self.freeze(client)
        self.wait_full(self.SLOTS)
        return client, epoch

    def next_gets_all(self, count: int = 5000, command: List[str] = CLIENT) -> None:
        report = self.finish_json(self.start([*command, "-l", "-v", "-n", str(count), "-t", "60",
                                              "--json", self.name]))
        self.assertEqual((report["messages"], report["lost"]), (count, 0))


class Consumer(ConsumerTest):
    def killed(self, reaped: bool) -> None:
        host = self.flat_out(*PATIENT)
        client, epoch = self.frozen_consumer()
        client.kill()
        if reaped:
            client.wait()
        self.wait_dropped(epoch)
        self.wait_published(2 * self.SLOTS)
        self.next_gets_all()
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.happened = self.one_line(err, self.name, f"client pid {client.pid} died: dropped")

    def test_killed(self) -> None:
        """--lossless client killed with -9, ring full | dropped, counted; the next gets all"""
        self.killed(True)

    def test_zombie(self) -> None:
        """the same, nobody reaps it (a zombie) | dropped all the same"""
        self.killed(False)

    def test_killed_in_its_claim(self) -> None:
        """a client killed between two steps of its claim | dropped; the next claims, gets all"""
        host = self.flat_out(*PATIENT)
        steps = ("locked", "claiming", "settled")
        for step in steps:
            with self.subTest(last_step=step):
                epoch, role = self.epoch() + 1 | 1, self.hold(CONSUMER)
                if step != "locked":
                    self.poke_place(epoch, CLAIMING, 4711)
                if step == "settled":
                    self.poke_place(epoch, self.head())
                role.close()
                self.next_gets_all()  # it waits until the host has dropped that one
                self.assertEqual(self.dropped(), epoch if step != "locked" else 0)
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], len(steps) - 1)
        self.assertEqual(err.count("client pid 4711 died: dropped"), len(steps) - 1, err)

    def test_stops_in_its_claim(self) -> None:
        """one that never ends its claim | a second: exit 5; dropped at --stall-timeout"""
        host = self.flat_out("--stall-timeout", 5)
        role = self.hold(CONSUMER)
        self.poke_place(1, CLAIMING, 4711)
        self.one_line(self.finish(self.client("-l"), 5)[1], self.name, "pid 4711 ")
        self.wait_dropped(1)
        self.wait_published(2 * self.SLOTS)
        # It lives, and has the lock: nobody can take its place.
        self.one_line(self.finish(self.client("-l"), 5)[1], self.name, "pid 4711 ")
        role.close()
        self.next_gets_all()
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.one_line(err, "client pid 4711 had not moved for 5 s")

    def test_patience_begins_anew(self) -> None:
        """host waits for a consumer, which leaves as another claims | that one has its own time"""
        host = self.flat_out("--stall-timeout", 6)
        self.hold(CONSUMER)
        self.poke_place(1, self.head(), 4711)
        self.wait_full(self.SLOTS)
        self.pass_time(2)
        begin = time.monotonic()
        self.poke_place(3, CLAIMING)
        self.wait_dropped(3)
        self.assertGreaterEqual(time.monotonic() - begin, 6)
        self.wait_published(2 * self.SLOTS)
        out, err = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.one_line(err, "pid 4711")

    def test_wakes_late(self) -> None:
        """one that was dropped while it stood still | no successor until it is gone: exit 5"""
        host = self.flat_out("--stall-timeout", 6)
        for _ in range(2):
            old, epoch = self.frozen_consumer()
            self.wait_dropped(epoch)
            now = self.head()
            self.until(lambda: self.head() > now + 1000, "the host goes on")
            self.one_line(self.finish(self.client("-l"), 5)[1], f"pid {old.pid} ")
            self.thaw(old)
            self.last_line(self.finish(old, 6)[1], self.name, "dropped this client")
            self.next_gets_all()
            self.assertEqual(self.epoch(), epoch + 3)  # that one has left by itself
        self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 2)

    def test_second_consumer(self) -> None:
        """a second consumer | exit 5 with the first one's pid; taken once that one is killed"""
        host = self.host("--rate", 1000, *PATIENT, "--json")
        self.wait_live()
        first = self.client("-l", "-n", 0, "-q", "-t", 60)
        epoch = self.wait_consumer(first)
        for _ in range(5):
            _, err = self.finish(self.client("-l"), 5)
            self.one_line(err, self.name, f"client pid {first.pid} ", "--lossless")
        self.finish(self.client("-v", "-n", 50))  # who asks for nothing is refused nothing
        first.kill()
        self.until(lambda: self.state_of(first) == "Z", "it is dead, and nobody reaps it")
        self.next_gets_all(200)
        self.assertEqual((self.dropped(), self.epoch()), (epoch, epoch + 3))
        self.one_line(self.ended(host)[1], f"client pid {first.pid} died")


class Drops(ConsumerTest):
    # A host that stands still before the NUMBER-th line that it executes of Segment.drop, as long
    # as a file is there.
    HELD = """
left = int(os.environ["NUMBER"])
def trace(frame, event, argument):
    global left
    if frame.f_code is not shmprueba.Segment.drop.__code__:
        return None
    left -= event == "line"
    if event == "line" and left == 0:
        open(os.environ["GATE"], "w").close()
        while os.path.exists(os.environ["GATE"]):
            host.time.sleep(0.001)
        frame.f_locals["self"]._stall_ns = 60e9  # a starved successor is not stalled
    return trace
sys.settrace(trace)
"""

    def held_in_its_drop(self, number: int) -> Tuple[subprocess.Popen, subprocess.Popen, int]:
        """(host, the consumer it is about to drop, that one's epoch)"""
        host = self.flat_out("--stall-timeout", 2, command=changed_host(f"exec({self.HELD!r})"),
                             env={"GATE": self.path("gate"), "NUMBER": str(number)})
        client, epoch = self.frozen_consumer()
        full = self.head()
        self.until(lambda: os.path.exists(self.path("gate")) or self.head() > full + 2 * self.SLOTS,
                   "the host drops it")
        return host, client, epoch

    def test_drops_one_that_leaves(self) -> None:
        """before each line of a drop its consumer leaves, another claims | nothing is lost"""
        for number in range(1, 100):
            host, old, epoch = self.held_in_its_drop(number)
            if not os.path.exists(self.path("gate")):
                break
            was_dropped = self.dropped() == epoch
            self.thaw(old)
            if was_dropped:
                self.finish(old, 6)
            else:
                self.until(lambda: self.position() == self.head(), "it has read everything")
                self.ended(old)
            self.assertEqual(self.epoch(), epoch + 1)
            successor = self.client("-l", "-v", "-n", 5000, "-t", 60, "--json")
            self.wait_consumer(successor)
            os.unlink(self.path("gate"))
            report = self.finish_json(successor)
            self.assertEqual((report["messages"], report["lost"]), (5000, 0))
            self.assertIn(self.dropped(), (0, epoch))  # not the successor's
            out, _ = self.ended(host)
            self.assertIn(json.loads(out)["dropped_clients"], (0, 1))
        self.assertGreater(number, 3)
        self.happened = f"{number - 1} lines"

    def test_drops_one_that_moves(self) -> None:
        """before each line of a drop its consumer goes on | exit 6; the next gets all"""
        for number in range(1, 100):
            host, old, epoch = self.held_in_its_drop(number)
            if not os.path.exists(self.path("gate")):
                break
            self.thaw(old)
            if self.dropped() != epoch:
                self.until(lambda: self.position() == self.head(), "it has read everything")
            os.unlink(self.path("gate"))
            self.last_line(self.finish(old, 6)[1], self.name, "dropped this client")
            self.next_gets_all()
            self.assertEqual(json.loads(self.ended(host)[0])["dropped_clients"], 1)
        self.assertGreater(number, 3)
        self.happened = f"{number - 1} lines"


class Namespaces(ConsumerTest):
    """Clients in pid namespaces of their own: no process sees another's number."""
    INSIDE = ["unshare", *AS_ROOT, "--pid", "--fork", "--mount-proc", "--kill-child", *CLIENT]

    def setUp(self) -> None:
        super().setUp()
        require(can_unshare(*self.INSIDE[1:-len(CLIENT)]), "no pid namespace here")

    def inside(self, *options: object, **popen) -> subprocess.Popen:
        return self.start([*self.INSIDE, *map(str, options), self.name], **popen)

    def test_killed(self) -> None:
        """--lossless clients in pid namespaces, killed with -9 again and again | as without"""
        host = self.flat_out(*PATIENT)
        for _ in range(2):
            client = self.inside("-l", "-v", "-n", 0, "-t", 60)
            epoch = self.wait_consumer()
            self.wait_read(100)
            self.next_gets_all_but(5)
            os.killpg(client.pid, signal.SIGKILL)
            self.wait_dropped(epoch)
            self.wait_published(2 * self.SLOTS)
        self.next_gets_all(command=self.INSIDE)
        out, _ = self.ended(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 2)

    def next_gets_all_but(self, code: int) -> None:
        """Another one there is refused, though both have the same pid."""
        _, err = self.finish(self.inside("-l"), code)
        self.one_line(err, self.name, "consumer already")

    def test_host_stopped(self) -> None:
        """host stopped, its client in a pid namespace | stalled, then goes on"""
        host = self.host("--rate", 500)
        self.wait_live()
        with open(self.path("said"), "w") as err:
            client = self.inside("-n", 2000, "-t", 60, stderr=err)
        self.wait_attached()
        self.wait_published(100)
        self.freeze(host)
        self.until(lambda: "is stalled" in self.content("said"), "it says so")
        self.thaw(host)
        self.finish(client)
        self.last_line(self.content("said"), "goes on")
        self.ended(host)

    def test_host_killed(self) -> None:
        """host killed with -9, its client in a pid namespace | died, exit 4"""
        host = self.host("--rate", 500)
        self.wait_live()
        client = self.inside("-n", 0, "-t", 60, "-q")
        self.wait_attached()
        host.kill()
        self.last_line(self.finish(client, 4)[1], self.name, f"pid {host.pid}", "died")


# A script of one's own that receives: one line a message; "-" whenever no sender lives.
SCRIPT = r"""
import sys
sys.path.insert(0, sys.argv[1])
import shmprueba
schema = sys.argv[3]
with shmprueba.Segment(sys.argv[2], receive=True, schema=schema) as segment:
    while True:
        message = segment.receive(0.05)
        if message:
            text = bytes(message.payload[:40])
            text = text.hex() if schema else text.decode().strip()
            assert segment.release(message)
            print(message.n, text, flush=True)
        elif not segment.sending:
            print("-", flush=True)
"""


class Sender(FaultTest):
    """Senders that die, beside a script of one's own that receives."""

    def receiver(self, schema: str = "") -> subprocess.Popen:
        script = self.start([HOST[0], "-c", SCRIPT, os.path.join(ROOT, "src"), self.name, schema])
        self.wait_live()
        return script

    def next_line(self, script: subprocess.Popen) -> str:
        line = "-"
        while line == "-":
            line = script.stdout.readline().strip()
        return line

    def until_alone(self, script: subprocess.Popen) -> None:
        while script.stdout.readline().strip() not in ("-", ""):
            pass

    def test_killed(self) -> None:
        """a sender killed with -9 while a script receives | the next one is in at once"""
        script = self.receiver()
        for i in range(3):
            client = self.client("-s", "-", "-q", stdin=subprocess.PIPE)
            client.stdin.write(f"line {i}\n")
            client.stdin.flush()
            self.assertEqual(self.next_line(script), f"{i + 1} line {i}")
            if i == 1:
                self.one_line(self.finish(self.client("-s", "-", "-t", 1), 5)[1], self.name,
                              "another client sends")
            client.kill()
            client.wait()  # its lock is free before that
        last = self.client("-s", self.file("last", b"the last"), "-q")
        self.assertEqual(self.next_line(script), "4 the last")
        self.assertEqual(self.next_line(script), "5")  # the end of its stream
        self.finish(last)
        self.assertIsNone(script.poll())

    def test_driver(self) -> None:
        """the driver of tests/teach killed with -9 while a script receives | the same"""
        driver = os.path.join(BUILD, "tests", "teach_driver")
        require(os.path.exists(driver), f"{driver} is not built")
        with open(os.path.join(ROOT, "tests", "teach", "driver.c")) as source:
            schema = next(line for line in source if line.startswith("#define TRADE")).split('"')[1]
        script = self.receiver(schema)
        for count in (1 << 40, 1 << 40, 100):
            sender = self.start([driver, self.name, str(count)])
            for _ in range(50):
                self.assertRegex(self.next_line(script), r"^[0-9]+ [0-9a-f]+$")
            if count > 100:
                sender.kill()
                self.until_alone(script)
        self.finish(sender)

    def test_killed_in_a_message(self) -> None:
        """a sender killed in the middle of a message | the next one's is whole, has its number"""
        script = self.receiver()
        for n in range(1, 4):
            role = self.hold(SENDER)
            stride = self.peek_word(28, 4)
            slots = self.peek_word(24, 4)
            slot = SLOTS + slots * stride + n % slots * stride
            self.poke_word(slot, 2 * n - 1)
            self.poke(slot + 32, b"half of")
            role.close()
            self.until_alone(script)
            client = self.client("-s", "-", "-q", stdin=subprocess.PIPE)
            client.stdin.write("whole\n")
            client.stdin.flush()
            self.assertEqual(self.next_line(script), f"{n} whole")
            client.kill()
            self.until_alone(script)


class OneClient(FaultTest):
    """--echo, --sink and --input serve one client and end with it."""
    JOBS: List[Tuple[List[object], List[object]]] = [
        (["--echo", "--rate", 2000], ["-e", "-n", 0]),
        (["--sink", os.devnull], ["-s", "/dev/zero"])]

    def begin(self, job: List[object], *host_options: object) -> subprocess.Popen:
        host = self.host(*job, "--json", *host_options)
        self.wait_live()
        return host

    def serve(self, job: List[object], options: List[object], *host_options: object):
        """(host, its client), and messages flow."""
        host = self.begin(job, *host_options)
        client = self.client(*options, "-q", "-t", 60)
        self.until(lambda: self.head(UP) > 50, "messages flow")
        return host, client

    def test_killed(self) -> None:
        """client of --echo or --sink killed with -9 | host exit 6, and why"""
        for job, options in self.JOBS:
            with self.subTest(job=job):
                host, client = self.serve(job, options, *PATIENT)
                client.kill()
                out, err = self.finish(host, 6)
                self.assertEqual(json.loads(out)["dropped_clients"], int("--echo" in job))
                self.happened = self.one_line(err, self.name, "died")

    def test_killed_with_nothing_to_send(self) -> None:
        """a --source client whose FILE is quiet is killed with -9 | host exit 6, and why"""
        host = self.begin(self.JOBS[1][0])
        client = self.client("-s", "-", "-q", stdin=subprocess.PIPE)
        self.until(lambda: self.is_held(SENDER), "it is the sender")
        # Only the sleep for its first message sets wish: the host has seen it.
        self.until(lambda: self.peek_word(UP + WISH) > 0, "the host has seen it")
        client.kill()
        self.one_line(self.finish(host, 6)[1], self.name, "died")

    def test_says_it_was_dropped(self) -> None:
        """somebody writes that the client was dropped | that one: exit 6; the host ends with it"""
        host, client = self.serve(*self.JOBS[0], *PATIENT)
        self.poke_word(DOWN + DROPPED, self.wait_consumer(client))
        self.last_line(self.finish(client, 6)[1], self.name, "dropped this client")
        _, err = self.finish(host, None)
        self.assertIn(host.returncode, (0, 6), err)
        self.assertNotIn("Traceback", err)

    def test_stopped(self) -> None:
        """client of --echo stopped for longer than --stall-timeout | both exit 6"""
        host, client = self.serve(*self.JOBS[0], "--stall-timeout", 2)
        self.freeze(client)
        self.one_line(self.finish(host, 6)[1], self.name, f"client pid {client.pid} did not answer")
        self.thaw(client)
        self.last_line(self.finish(client, 6)[1], self.name, "dropped this client")

    def test_sender_stopped(self) -> None:
        """client of --sink stopped for 3 s | the host waits, exit 0, nothing is lost"""
        source = self.file("source", bytes(range(256)) * 4096)
        fifo = self.path("fifo")
        os.mkfifo(fifo)
        end = os.open(fifo, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, end)
        os.set_blocking(end, True)
        host = self.begin(["--sink", fifo], "--slots", 4, "--stall-timeout", 1)
        self.until(lambda: os.stat(fifo) and self.is_held(RECEIVER), "it receives")
        client = self.client("-s", source, "-q", "-t", 60)
        got = os.read(end, 4096)
        self.freeze(client)
        self.pass_time(3)
        self.thaw(client)
        while len(got) < os.stat(source).st_size:
            more = os.read(end, 1 << 16)
            self.assertTrue(more, "the stream has ended early")
            got += more
        with open(source, "rb") as file:
            self.assertEqual(got, file.read())
        self.finish(client)
        self.finish(host)

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
                host, client = self.serve(job, options, *PATIENT)
                self.ended(client, number=signal.SIGINT)
                out, err = self.finish(host)
                self.assertEqual((json.loads(out)["dropped_clients"], err), (0, ""))
                if "--echo" in job:
                    self.assertEqual(json.loads(out)["echo_errors"], 0)

    def input_taken_halfway(self, *host_options: object):
        """(host --input, its client, which stands before a full pipe)"""
        host = self.begin(["--input", self.file("input", bytes(1 << 20)), "--slots", 16],
                          *host_options)
        client = self.client("-l", "-q", "-o", "-", "-t", 60, text=False)
        self.wait_consumer(client)
        self.wait_full(16, client)
        return host, client

    def test_input_ends_early(self) -> None:
        """client of --input killed, gone or dropped halfway | host exit 6, and how much it took"""
        for how, words in (("killed", "died"), ("left", "left"), ("dropped", "had not moved")):
            with self.subTest(how=how):
                patience = ["--stall-timeout", 1] if how == "dropped" else PATIENT
                host, client = self.input_taken_halfway(*patience)
                if how == "killed":
                    client.kill()
                elif how == "left":
                    client.send_signal(signal.SIGINT)
                out, err = self.finish(host, 6)
                taken = self.one_line(err, self.name, words).partition("it took ")[2].split()[0]
                self.assertTrue(0 < int(taken) < json.loads(out)["published"], err)
                client.kill()
                self.happened = err.split(": ", 2)[2].strip()


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
        host = self.begin("--stall-timeout", 6)
        client = self.client("--json", "-l", "-v", "-n", 0, "-t", 60)
        epoch = self.wait_consumer(client)
        self.wait_read(100)
        self.freeze(client)
        self.wait_dropped(epoch)
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
            self.assertEqual(self.epoch() % 2, 0)
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
        host = self.host("--rate", 40, "--json")
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
