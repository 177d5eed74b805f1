"""The two programs as a user runs them."""
import fcntl
import json
import os
import random
import signal
import subprocess
import sys
import termios
import time
import unittest
from typing import Callable, List

from support import CLIENT, HOST, SESSION, SLOTS, UP, WEAK_HOST, PairTest, require
import shmprueba

PERCENTILES = {"min", "p50", "p90", "p99", "p99_9", "max", "mean"}


class Smoke(PairTest):
    CLIENT_KEYS = {  # DESIGN, word for word
        "": set("messages lost skipped retries crc_errors verify_errors bytes elapsed_s rate_hz "
                "session host_pid wait host_state missed_wakeups began reconnects waits attach_us "
                "latency_ns due_latency_ns clock cpu".split()),
        "waits": {"ready", "spun", "slept", "displaced", "gap_ns", "lateness_ns", "off_cpu"},
        "attach_us": {"open", "stat", "map", "check", "first", "total"},
        "latency_ns": PERCENTILES, "due_latency_ns": PERCENTILES,
        "clock": {"id", "resolution_ns", "cost_ns"},
        "cpu": {"user_s", "system_s", "percent", "minor_faults", "voluntary_switches",
                "involuntary_switches"}}
    HOST_KEYS = set("published received clients bytes elapsed_s rate_hz stalls dropped_clients "
                    "publish_ns missed_wakeups".split())

    def test_two_terminals(self) -> None:
        host = self.host("--json", "--slots", 65536)
        self.wait_live()
        client = self.finish_json(self.client("--count", 200, "--json", "--verify"))
        for key, names in self.CLIENT_KEYS.items():
            self.assertEqual(set(client[key] if key else client), names, key)
        self.assertEqual((client["messages"], client["lost"], client["verify_errors"]), (200, 0, 0))
        self.assertEqual(client["bytes"], 200 * 64)
        self.assertEqual(client["host_pid"], host.pid)
        self.assertEqual(client["host_state"], "live")
        self.assertEqual(client["session"], str(self.peek_word(SESSION)))  # it exceeds 2^53
        self.assertLessEqual(client["began"] + 200, self.head())
        waits = client["waits"]
        self.assertEqual(waits["ready"] + waits["spun"] + waits["slept"], 200)
        for key in ("latency_ns", "due_latency_ns"):
            figures = client[key]
            order = [figures[name] for name in ("min", "p50", "p90", "p99", "p99_9", "max")]
            self.assertEqual(order, sorted(order))
            self.assertTrue(figures["min"] <= figures["mean"] <= figures["max"])
        self.assertGreater(client["clock"]["resolution_ns"], 0)
        host.send_signal(signal.SIGINT)
        out = self.finish_json(host)
        self.assertEqual(set(out), self.HOST_KEYS)
        self.assertGreaterEqual(out["published"], 200)
        self.assertEqual(out["clients"], 1)
        self.assertEqual(set(out["publish_ns"]), {"mean", "p50", "p99"})
        self.assertFalse(self.segment_exists())

    def test_what_is_printed(self) -> None:
        out, err = self.finish(self.pair(["--count", "50", "--wait-client"], ["--count", "0"]))
        self.assertEqual(err, "")
        for words in ("host.py  created /" + self.name, "1024 slots of 64 B", "attached",
                      "first message", "n 1,", "accel", "50 in ", "lost 0", "waited ",
                      "publish -> seen", "due -> seen", "p99.9", "of a core", "host closed",
                      "published 50 messages", "1 attached", "####"):
            self.assertIn(words, out)
        self.assertNotIn("\033", out)  # no terminal, no colour
        self.assertNotIn("\r", out)

    def test_quiet_is_quiet(self) -> None:
        self.assertEqual(self.finish(self.pair(["--count", "5", "--wait-client", "--quiet"],
                                               ["--quiet"])), ("", ""))

    def test_nohup(self) -> None:
        host = self.start(["nohup", *self.host_words("--json", "--rate", 100)])
        self.wait_live()
        client = self.start(["nohup", *CLIENT, "--count", "50", "--json", self.name])
        self.wait_attached()
        host.send_signal(signal.SIGHUP)
        client.send_signal(signal.SIGHUP)
        self.assertEqual(json.loads(self.finish(client)[0])["messages"], 50)
        host.terminate()
        self.assertGreaterEqual(json.loads(self.finish(host)[0])["published"], 50)

    def test_client_first_then_host(self) -> None:
        client = self.client("--count", 5, "--json", "--timeout", 100)
        time.sleep(0.1)
        host = self.host("--quiet")
        self.assertEqual(self.finish_json(client)["messages"], 5)
        host.terminate()
        self.finish(host)

    def test_command_status_is_passed_on(self) -> None:
        for command, code in ((["sh", "-c", "exit 7"], 7), (["sh", "-c", "kill -9 $$"], 137),
                              (["true"], 0)):
            self.finish(self.host("--quiet", "--", *command), code)
        self.assertFalse(self.segment_exists())

    def test_reads_what_was_published_before_closed(self) -> None:
        host = self.host("--count", 500, "--rate", 0, "--wait-client", "--json")
        self.wait_live()
        client = self.client("--count", 0, "--json", "--lossless")
        published = self.finish_json(host)["published"]
        result = self.finish_json(client)
        self.assertEqual((published, result["messages"], result["lost"]), (500, 500, 0))
        self.assertEqual(result["host_state"], "closed")

    def test_silent_host(self) -> None:
        host = self.host("--input", "-", "--quiet", stdin=subprocess.PIPE)
        self.wait_live()
        _, err = self.finish(self.client("--quiet", "--timeout", 0.3), 3)
        self.one_line(err, "sent nothing for 0.3 s")
        host.terminate()
        self.finish(host)

    def test_constant_memory(self) -> None:
        """The client's memory does not grow with --count."""
        shell = 'ulimit -v "$0" && exec "$@"'
        for count in (1000, 200000):
            result = self.finish_json(self.host(
                "--rate", 0, "--quiet", "--", "sh", "-c", shell, "8192" if "qemu" not in CLIENT[0]
                else "unlimited", *CLIENT, "--json", "--count", str(count), self.name)
                if not os.environ.get("SANITIZED") else
                self.pair(["--rate", "0", "--quiet"], ["--json", "--count", str(count)]))
            self.assertEqual(result["messages"], count)


class Clients(PairTest):
    """Any number of readers, one consumer."""

    def test_readers_beside_each_other(self) -> None:
        """Three readers and the consumer: each gets every message."""
        content = os.urandom(500 * 64)
        host = self.host("--input", "-", "--rate", 1e6, "--json", stdin=subprocess.PIPE, text=False,
                         bufsize=0)
        self.wait_live()
        options = (["--wait", "spin"], ["--wait", "block"], ["--wait", "adaptive"], ["--lossless"])
        clients = [self.client("--json", "--output", self.path(str(i)), *words)
                   for i, words in enumerate(options)]
        self.wait_attached(4)
        _, err = self.finish(self.client("--lossless"), 5)
        self.one_line(err, f"pid {clients[3].pid} is the one consumer already")
        host.stdin.write(content)
        host.stdin.close()
        host.stdin = None
        for i, client in enumerate(clients):
            result = self.finish_json(client)
            self.assertEqual((result["messages"], result["lost"], result["began"]), (500, 0, 0))
            waits = result["waits"]
            self.assertEqual(waits["ready"] + waits["spun"] + waits["slept"], 500)
            with open(self.path(str(i)), "rb") as copy:
                self.assertTrue(copy.read() == content, "the copy differs")
        result = self.finish_json(host)
        self.assertEqual((result["clients"], result["dropped_clients"]), (4, 0))

    def test_a_second_consumer_is_refused(self) -> None:
        """By the kernel's lock. A sender is not named: there is no pid of it."""
        sink = ["--sink", self.path("out")]
        consumes = "client pid {} is the one consumer already"
        sends = "refused: another client"
        for serving, first, second, words in (
                ([], ["--lossless"], ["--lossless"], consumes),
                (["--echo"], ["--echo"], ["--echo"], consumes),
                (["--echo"], ["--echo"], ["--lossless"], consumes),
                (["--echo"], ["--echo"], ["--source", "/dev/null"], sends),
                (sink, ["--source", "-"], ["--source", "/dev/null"], sends),
                (sink, ["--source", "-"], ["--echo"], sends)):
            with self.subTest(host=serving, first=first, second=second):
                host = self.host("--quiet", *serving)
                self.wait_live()
                holder = self.client("--count", 0, "--quiet", *first, stdin=subprocess.PIPE)
                if first[0] == "--source":
                    self.until(lambda: self.role_is_held(shmprueba.SENDER), "it sends")
                else:
                    self.wait_claimed()
                    self.assertEqual(self.consumer_pid(), holder.pid)
                place = self.epoch()
                out, err = self.finish(self.client(*second, "--quiet"), 5)
                self.one_line(err, words.format(holder.pid), "/" + self.name)
                self.assertEqual(self.epoch(), place)  # told before it claims
                host.terminate()
                self.finish(host)
                self.finish(holder, None)

    def test_one_consumer_after_another(self) -> None:
        """Each leaves its place and its role; the next one has both."""
        host = self.host("--json", "--slots", 16)
        self.wait_live()
        for i in range(3):
            result = self.finish_json(self.client("--lossless", "--count", 40, "--json"))
            self.assertEqual((result["messages"], result["lost"]), (40, 0))
            self.assertEqual((self.epoch(), self.position()), (2 * i + 2, result["began"] + 40))
            self.assertFalse(self.role_is_held(shmprueba.CONSUMER))
        host.terminate()
        result = self.finish_json(host)
        self.assertEqual((result["clients"], result["dropped_clients"]), (3, 0))

    def test_the_place_of_a_dead_consumer_is_taken(self) -> None:
        """The next one waits until the host has dropped the dead: here the host is stopped."""
        host = self.host("--json", "--rate", 200)
        self.wait_live()
        first = self.client("--count", 0, "--quiet", "--lossless")
        self.wait_attached()
        self.stop(host)
        first.kill()
        first.wait()
        second = self.client("--count", 50, "--json", "--lossless", "--timeout", 100)

        def is_mapped() -> bool:
            with open(f"/proc/{second.pid}/maps") as maps:
                return self.name in maps.read()
        self.until(is_mapped, "the second has attached")
        time.sleep(0.1)
        self.assertEqual((self.epoch(), self.consumer_pid()), (1, first.pid))  # not its to decide
        host.send_signal(signal.SIGCONT)
        result = self.finish_json(second)
        self.assertEqual((result["messages"], result["lost"]), (50, 0))
        self.assertEqual(self.epoch(), 4)  # 1 was dropped, 3 has left
        host.terminate()
        out, err = self.finish(host)
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        self.one_line(err, f"client pid {first.pid} died: dropped")

    def test_a_dead_consumer_that_nobody_drops(self) -> None:
        """The host is stopped: a claim gives up when its time is over."""
        host = self.host("--quiet")
        self.wait_live()
        first = self.client("--count", 0, "--quiet", "--lossless")
        self.wait_attached()
        self.stop(host)
        first.kill()
        first.wait()
        _, err = self.finish(self.client("--lossless", "--quiet", "--timeout", 0.3), 3)
        self.one_line(err, "has not dropped it")
        self.assertEqual(self.epoch(), 1)


class Copies(PairTest):
    def copy(self, content: bytes, host_options=(), client_options=("--lossless",)) -> None:
        source, target = self.file("in", content), self.path("out")
        self.finish(self.pair(["--input", source, "--quiet", *map(str, host_options)],
                              ["--quiet", "--output", target, *client_options]))
        with open(target, "rb") as copy:
            self.assertTrue(copy.read() == content, "the copy differs")

    def test_sizes(self) -> None:
        for length, options in ((0, ()), (1, ()), (64, ()), (100_001, ()),
                                (100_000, ("--slots", 2)), (1_000_003, ("--size", 4096)),
                                (999, ("--size", 1, "--slots", 2)),
                                (3_000_001, ("--size", 1 << 20, "--slots", 2)),
                                (100_001, ("--crc",)), (30_001, ("--rate", 20000))):
            with self.subTest(length=length, options=options):
                self.copy(random.Random(length).randbytes(length) if hasattr(random, "randbytes")
                          else os.urandom(length), options)

    def test_large(self) -> None:
        self.copy(os.urandom(1 << 20) * 64, ("--size", 65536, "--slots", 16))

    def test_every_wait_mode(self) -> None:
        for mode in ("adaptive", "spin", "block"):
            self.copy(os.urandom(50_000), ("--slots", 4), ("--lossless", "--wait", mode))

    def test_ctrl_c_while_nobody_reads(self) -> None:
        host = self.host("--size", 1_000_000, "--slots", 4, "--rate", 0, "--quiet")
        self.wait_live()
        for options in ([], ["--lossless"]):
            client = self.client("--output", "-", "--quiet", *options, text=False)
            waiting = bytearray(4)

            def is_full() -> bool:
                fcntl.ioctl(client.stdout, termios.FIONREAD, waiting)
                return int.from_bytes(waiting, sys.byteorder) >= 1 << 16
            self.until(is_full, "the pipe is full")
            client.send_signal(signal.SIGINT)
            client.wait()  # without a byte read
            self.finish(client)
        host.terminate()
        self.finish(host)

    def pieces(self, stdin, writes: List[bytes], end: Callable, *options: object) -> List[bytes]:
        """What the messages are if a host of --size 100 has read each of these before the next."""
        host = self.host("--input", "-", "--size", 100, "--json", *options, stdin=stdin, text=False,
                         bufsize=0)
        file, waiting = host.stdin or self.terminal, bytearray(4)
        self.wait_live()

        def is_empty() -> bool:
            fcntl.ioctl(host.stdin or stdin, termios.FIONREAD, waiting)
            return not any(waiting)
        with shmprueba.Reader(self.name, timeout=60) as reader:
            client = self.client("--lossless", "--quiet", "--count", 0)
            self.wait_attached()
            for piece in writes:
                os.write(file.fileno(), piece)
                self.until(is_empty, "the host has read it")
            end(host)
            host.stdin = None
            out, _ = self.finish(host)
            self.assertEqual(json.loads(out)["bytes"], sum(map(len, writes)))
            self.finish(client)
            return [bytes(message.payload) for message in reader]

    def test_a_pipe_that_pauses_cuts_no_message(self) -> None:
        """With --size each message but the last has that size, however the pipe is written."""
        for options in ([], ["--rate", 1e6]):
            self.assertEqual(
                self.pieces(subprocess.PIPE, [b"a" * 42, b"b" * 58, b"c" * 192, b"d" * 8, b"e" * 7],
                            lambda host: host.stdin.close(), *options),
                [b"a" * 42 + b"b" * 58, b"c" * 100, b"c" * 92 + b"d" * 8, b"e" * 7])

    def test_ctrl_c_inside_a_message(self) -> None:
        """What has been read is published."""
        def end(host) -> None:
            host.send_signal(signal.SIGINT)
            host.wait()
            host.stdin.close()
        self.assertEqual(self.pieces(subprocess.PIPE, [b"a" * 150], end), [b"a" * 100, b"a" * 50])

    def test_an_end_of_file_inside_a_message(self) -> None:
        """Of a terminal, whose next read would wait again."""
        master, slave = os.openpty()
        self.terminal = open(master, "wb", buffering=0)
        self.addCleanup(self.terminal.close)

        def end(_host) -> None:
            os.close(slave)
            os.write(master, b"\4")
        self.assertEqual(self.pieces(slave, [b"a" * 41 + b"\n"], end, "--rate", 1e6),
                         [b"a" * 41 + b"\n"])

    def test_live_stream_is_not_held_back(self) -> None:
        """Without --size."""
        process = self.pair(["--input", "-", "--quiet"],
                            ["--quiet", "--lossless", "--output", "-"], stdin=subprocess.PIPE,
                            text=False, bufsize=0)
        for line in (b"one\n", b"two two\n", b"three\n"):
            process.stdin.write(line)
            self.assertEqual(process.stdout.read(len(line)), line)  # before the next is written
            time.sleep(0.15)
        process.stdin.close()
        process.stdin = None
        self.finish(process)

    def test_ndjson(self) -> None:
        out, _ = self.finish(self.pair(["--count", "3", "--wait-client", "--quiet"],
                                       ["--quiet", "--output", "-", "--format", "ndjson"]))
        lines = [json.loads(line) for line in out.splitlines()]
        self.assertEqual([line["n"] for line in lines], [1, 2, 3])
        self.assertEqual([line["index"] for line in lines], [1, 2, 3])
        self.assertEqual(lines[1]["time_s"], 0.002)
        self.assertEqual([len(lines[0][key]) for key in ("accel", "gyro")], [3, 3])
        self.assertTrue(9 < lines[0]["accel"][2] < 11 and 30 < lines[0]["temperature"] < 40)
        self.assertEqual(lines[0]["length"], 64)

    def test_raw_payloads_have_no_fields(self) -> None:
        for options in (["--size", 63], ["--input", "-"]):
            host = self.host("--quiet", *options, stdin=subprocess.PIPE)
            self.wait_live()
            out, err = self.finish(self.client("-q", "-l", "-o", "-", "-f", "ndjson"), 2)
            self.assertEqual(out, "")
            self.one_line(err, "raw payloads, which have no fields", "--format raw")
            self.assertEqual(self.place(), 0)  # told before it claims
            host.terminate()
            self.finish(host)


class Checks(PairTest):
    def test_verify_and_crc(self) -> None:
        for size in (1, 63, 64, 65, 1000):
            result = self.finish_json(self.pair(
                ["--size", str(size), "--crc", "--count", "2000", "--rate", "0", "--wait-client",
                 "--quiet"], ["--json", "--verify", "--lossless", "--count", "0"]))
            self.assertEqual((result["messages"], result["lost"], result["crc_errors"],
                              result["verify_errors"]), (2000, 0, 0, 0))

    def test_damage_is_seen(self) -> None:
        """A byte that changes in a slot is a CRC error and a verify error, and exit 6."""
        host = self.host("--crc", "--slots", 4096, "--rate", 50, "--quiet", "--wait-client")
        self.wait_live()
        client = self.client("--verify", "--json", "--count", 0)
        self.until(lambda: self.head() >= 3, "three messages")
        self.stop(client)
        seen = self.head()
        self.until(lambda: self.head() >= seen + 5, "five more that it does not see yet")
        self.poke(SLOTS + (seen + 3) % 4096 * 128 + 32 + 20, b"\xff")
        client.send_signal(signal.SIGCONT)
        host.terminate()
        out, err = self.finish(client, 6)
        result = json.loads(out)
        self.one_line(err, "failed the CRC", "/" + self.name)
        self.assertEqual((result["crc_errors"], result["verify_errors"]), (1, 1))
        self.finish(host)


class Stress(PairTest):
    def test_two_slots_and_a_large_payload(self) -> None:
        """Retries are certain here; not one wrong byte may be accepted, nor one message lost count
        of. A run that saw no retry has proved nothing."""
        for program in (HOST, WEAK_HOST):
            with self.subTest(program=program):
                self.two_slots(program)

    def two_slots(self, program: List[str]) -> None:
        host = self.start(self.host_words("--slots", 2, "--size", 16384, "--rate", 0, "--count",
                                          30000, "--wait-client", "--json", "--crc",
                                          program=program))
        self.wait_live()
        client = self.finish_json(self.client("--count", 0, "--verify", "--json", "--wait", "spin"))
        published = self.finish_json(host)["published"]
        self.assertEqual(published, 30000)
        self.assertEqual(client["messages"] + client["lost"], published)
        self.assertEqual((client["verify_errors"], client["crc_errors"]), (0, 0))
        self.assertGreater(client["retries"], 0, "no contention: nothing was proved")
        self.assertGreater(client["messages"], 0)

    def test_slow_reader_is_lapped_exactly(self) -> None:
        """Four messages, then 500 while it is stopped, through a ring of 8."""
        host = self.host("--input", "-", "--rate", 1e6, "--slots", 8, "--json",
                         stdin=subprocess.PIPE, bufsize=0, text=False)
        self.wait_live()
        client = self.client("--output", self.path("out"), "--json")
        self.wait_attached()

        def publish(first: int, last: int) -> None:
            host.stdin.write(b"".join(b"%64d" % n for n in range(first, last + 1)))
        publish(1, 4)  # no more than it could be late for
        self.until(lambda: os.path.getsize(self.path("out")) == 4 * 64, "it has read them")
        self.stop(client)
        publish(5, 504)
        self.until(lambda: self.head() == 504, "all are published")
        client.send_signal(signal.SIGCONT)
        host.stdin.close()
        host.stdin = None
        result = self.finish_json(client)
        # Half a ring behind head: the oldest of the eight would be overwritten next.
        self.assertEqual((result["messages"], result["lost"]), (4 + 4, 496))
        with open(self.path("out"), "rb") as out:
            self.assertEqual([int(n) for n in out.read().split()], [1, 2, 3, 4, *range(501, 505)])
        self.assertEqual(self.finish_json(host)["published"], 504)

    def test_slow_reader_counts(self) -> None:
        """At full rate, stopped in between: what it has and what it missed is all there was."""
        host = self.host("--slots", 8, "--rate", 0, "--wait-client", "--json")
        self.wait_live()
        client = self.client("--count", 0, "--verify", "--wait", "block", "--json")
        self.until(lambda: self.head() > 1000, "the host is under way")
        for _ in range(3):
            self.stop(client)
            seen = self.head()
            self.until(lambda: self.head() > seen + 1000, "it is lapped")
            client.send_signal(signal.SIGCONT)
            time.sleep(0.02)
        host.terminate()
        result, published = self.finish_json(client), self.finish_json(host)["published"]
        self.assertEqual(result["began"] + result["messages"] + result["lost"], published)
        self.assertGreater(result["lost"], 0)
        self.assertGreater(result["messages"], 0)
        self.assertEqual(result["verify_errors"], 0)


class BothWays(PairTest):
    ROUND_TRIP = {"round_trip_ns", "echo_errors"}

    def test_echo(self) -> None:
        for size, slots, count, program in ((64, 1024, 3000, HOST), (1 << 20, 2, 50, HOST),
                                            (1, 2, 500, HOST), (64, 2, 3000, WEAK_HOST)):
            with self.subTest(size=size, program=program):
                host = self.finish_json(self.start(self.host_words(
                    "--echo", "--size", size, "--slots", slots, "--count", count, "--rate", 0,
                    "--json", "--crc", "--", *CLIENT, "--echo", "--count", 0, "--quiet",
                    self.name, program=program)))
                self.assertEqual((host["published"], host["received"], host["echo_errors"]),
                                 (count, count, 0))
                self.assertEqual(set(host), Smoke.HOST_KEYS | self.ROUND_TRIP)
                self.assertEqual(set(host["round_trip_ns"]), PERCENTILES)

    def test_echo_prints_the_round_trip(self) -> None:
        out, _ = self.finish(self.pair(["--echo", "--count", 300, "--rate", 0],
                                       ["--echo", "--count", "0", "--quiet"]))
        self.assertRegex(out, r"(?m)^  round trip +p50 [0-9.]+ [num]?s .* p99\.9 [0-9.]+ .*"
                              r"max [0-9.]+ [num]?s$")

    def test_echo_with_every_wait_mode(self) -> None:
        for host_mode in ("spin", "block"):
            for mode in ("adaptive", "spin", "block"):
                with self.subTest(host=host_mode, client=mode):
                    host = self.finish_json(self.host(
                        "--echo", "--count", 60, "--rate", 2000, "--wait", host_mode, "--json",
                        "--", *CLIENT, "--echo", "--count", "0", "--wait", mode, "--quiet",
                        self.name))
                    self.assertEqual((host["received"], host["echo_errors"]), (60, 0))

    def echo_host(self, *options: str) -> subprocess.Popen:
        host = self.host("--echo", "--rate", 500, "--json", *options)
        self.wait_live()
        return host

    def test_echo_client_leaves(self) -> None:
        """The host serves one client, and ends with it."""
        host = self.echo_host()
        client = self.finish_json(self.client("--echo", "--count", 20, "--json"))
        out, err = self.finish(host)
        self.assertEqual(client["messages"], 20)
        self.assertEqual(json.loads(out)["received"], 20)
        self.assertEqual((json.loads(out)["echo_errors"], err), (0, ""))

    def test_echo_client_killed(self) -> None:
        host = self.echo_host()
        client = self.client("--echo", "--count", 0, "--quiet")
        self.until(lambda: self.head(UP) > 20, "echoes")
        client.kill()
        out, err = self.finish(host, 6)
        self.one_line(err, f"client pid {client.pid} died: dropped")
        self.assertEqual(json.loads(out)["dropped_clients"], 1)

    def test_echo_client_stopped(self) -> None:
        host = self.echo_host("--stall-timeout", "3")
        client = self.client("--echo", "--count", 0, "--quiet")
        self.until(lambda: self.head(UP) > 20, "echoes")
        self.stop(client)
        out, err = self.finish(host, 6)
        self.one_line(err, f"client pid {client.pid} did not answer for 3 s: dropped")
        self.assertEqual(json.loads(out)["dropped_clients"], 1)
        client.send_signal(signal.SIGCONT)
        _, err = self.finish(client, 6)
        self.one_line(err, "the host dropped this client")

    def test_echo_after_another_sender(self) -> None:
        """What an earlier sender left on the up lane is not taken for the client's answers."""
        host = self.echo_host("--count", 50)
        self.finish(self.client("--source", self.file("in", b"x" * 300), "--timeout", 0.5), 3)
        client = self.client("--echo", "--count", 0, "--quiet")
        self.assertEqual(self.finish_json(host)["echo_errors"], 0)
        self.finish(client)

    def test_echo_nobody_echoes(self) -> None:
        """Whoever reads and does not echo is found out at once, not after --stall-timeout."""
        host = self.echo_host("--stall-timeout", "1000")
        reader = self.client("--quiet", "--count", 1, "--timeout", 100)  # plain: is not asked
        self.wait_attached()
        self.assertEqual(self.head(), 0)
        client = self.client("--lossless", "--count", 0, "--quiet")
        out, err = self.finish(host, 6)
        self.one_line(err, "message 1 did not come back", "does not echo", "cliente_c --echo")
        result = json.loads(out)
        self.assertEqual((result["published"], result["received"]), (1, 0))
        self.assertEqual(result["echo_errors"], 1)
        self.finish(client)
        self.finish(reader)

    def test_source_to_sink(self) -> None:
        for length, options in ((0, ()), (1, ()), (300_001, ()), (100_000, ("--slots", 2)),
                                (5_000_001, ("--size", 65536, "--slots", 4)), (100_001, ("--crc",)),
                                (50_000, ("--wait", "spin"))):
            with self.subTest(length=length, options=options):
                content = os.urandom(length)
                source, target = self.file("in", content), self.path("out")
                self.finish(self.host("--sink", target, "--quiet", *options, "--", *CLIENT,
                                      "--source", source, "--quiet", self.name))
                with open(target, "rb") as copy:
                    self.assertTrue(copy.read() == content, "the copy differs")

    def test_source_live_to_standard_output(self) -> None:
        host = self.host("--sink", "-", "--quiet", text=False)
        self.wait_live()
        client = self.client("--source", "-", "--quiet", stdin=subprocess.PIPE, text=False,
                             bufsize=0)
        for line in (b"one\n", b"two two\n"):
            client.stdin.write(line)
            self.assertEqual(os.read(host.stdout.fileno(), 100), line)
        client.stdin.close()
        client.stdin = None
        self.finish(client)
        self.assertEqual(self.finish(host), (b"", b""))

    def test_source_ends_its_stream_at_count(self) -> None:
        host = self.host("--sink", self.path("out"), "--size", 10, "--quiet")
        self.wait_live()
        self.finish(self.client("--source", self.file("in", bytes(range(250))), "--count", 7, "-q"))
        self.assertEqual(self.finish(host), ("", ""))
        with open(self.path("out"), "rb") as copy:
            self.assertEqual(copy.read(), bytes(range(70)))
        for count in ((), ("--count", "7")):  # the host counts, and does not look for the end
            source = self.file("in", bytes(range(70)))
            self.finish(self.host("--sink", self.path("out"), "--size", 10, "--count", 7, "--quiet",
                                  "--", *CLIENT, "--source", source, *count, "-q", self.name))

    def begun_stream(self, *options: str):
        """A --sink host that has got the begin of a stream, and the --source client."""
        host = self.host("--sink", self.path("out"), "--quiet", *options)
        self.wait_live()
        self.finish(self.client("-t", 0.1, "-q"), 3)  # who only reads does not end it
        client = self.client("--source", "-", "--quiet", stdin=subprocess.PIPE, text=False,
                             bufsize=0)
        client.stdin.write(b"begin")
        self.until(lambda: os.path.getsize(self.path("out")) == 5, "the begin is there")
        return host, client

    def test_source_leaves_in_the_middle(self) -> None:
        host, client = self.begun_stream()
        client.send_signal(signal.SIGINT)
        client.wait()  # before its standard input ends
        self.finish(client)
        self.assertEqual(self.finish(host), ("", ""))  # it has said that there is no more
        with open(self.path("out"), "rb") as out:
            self.assertEqual(out.read(), b"begin")

    def test_source_killed(self) -> None:
        host, client = self.begun_stream()
        client.kill()
        _, err = self.finish(host, 6)
        self.one_line(err, "died before the end of its stream", "out is incomplete")

    def test_source_killed_and_command_gone(self) -> None:
        """The client and COMMAND end at once: it is still told that the stream has no end."""
        for mode in ("spin", "block"):  # with files of its own
            fifo, out = self.path("fifo " + mode), self.path("out " + mode)
            os.mkfifo(fifo)
            source = os.open(fifo, os.O_RDWR)  # stays open: the file does not end
            self.addCleanup(os.close, source)
            shell = ('"$@" & until [ -s "$OUT" ]; do sleep 0.01; done; kill -9 $!')
            host = self.host("--sink", out, "--wait", mode, "--quiet", "--", "sh", "-c", shell,
                             "sh", *CLIENT, "-q", "--source", fifo, self.name, env={"OUT": out})
            os.write(source, b"begin")
            _, err = self.finish(host, 6)
            self.one_line(err, f"{out} is incomplete")

    def test_a_command_that_fails(self) -> None:
        for job in (["--sink", self.path("out")], ["--echo"], ["--input", "/proc/version"],
                    ["--wait-client"], []):
            with self.subTest(job=job):
                self.finish(self.host("--quiet", *job, "--", "sh", "-c", "exit 7"), 7)

    def test_a_command_that_ends_before_a_client_came(self) -> None:
        """Nothing was delivered: that is no success, whatever COMMAND says."""
        for job, words in ((["--sink", self.path("out")], "out is empty"),
                           (["--echo"], "no message was sent"),
                           (["--input", "/proc/version"], "nothing was taken")):
            with self.subTest(job=job):
                out, err = self.finish(self.host("--quiet", *job, "--", "true"), 6)
                self.assertEqual(out, "")
                self.one_line(err, "/" + self.name, "COMMAND ended before any cliente_c", words)

    def test_source_without_sink(self) -> None:
        host = self.host("--quiet")
        self.wait_live()
        for option in (["--source", "/dev/null"], ["--echo"]):
            _, err = self.finish(self.client(*option, "--timeout", 0.2), 3)
            self.one_line(err, "does not receive")
            self.assertEqual(self.place(), 0)  # told before it claims
        host.terminate()
        self.finish(host)


class Blocking(PairTest):
    def calls(self, mode: str) -> List[int]:
        """[wake calls of the host, waits of the client]: 60 messages, 5 ms apart."""
        def traced(who: str, words: List[str]) -> subprocess.Popen:
            return self.start(["strace", "-f", "-qq", "-e", "trace=futex", "-o",
                               self.path(who + mode), *words],
                              env={"ASAN_OPTIONS": "detect_leaks=0"})  # that traces, too
        host = traced("host", self.host_words("--rate", "200", "--count", "60", "--wait-client",
                                              "--quiet"))
        self.wait_live()
        client = traced("client", [*CLIENT, "--count", "0", "--quiet", "--wait", mode, self.name])
        self.finish(client)
        self.finish(host)
        counts = []
        # glibc's own futexes are FUTEX_PRIVATE_FLAG or wait for joins; ours are plain.
        for who, call in (("host", "FUTEX_WAKE, 2147483647"), ("client", "FUTEX_WAIT, ")):
            with open(self.path(who + mode)) as lines:
                counts.append(sum(call in line for line in lines))
        return counts

    def test_wake_calls(self) -> None:
        """None when nobody sleeps, two a sleep at most; and one at the end in any case."""
        require(subprocess.run(["sh", "-c", "command -v strace >/dev/null && strace -qq true"],
                               stderr=subprocess.DEVNULL).returncode == 0,
                "no strace, or it may not trace here")
        require(len(CLIENT) == 1, "an emulator's calls are not the client's")
        self.assertEqual(self.calls("spin"), [1, 0])
        for mode in ("block", "adaptive"):
            wakes, waits = self.calls(mode)
            self.assertGreater(wakes, 1)
            self.assertLessEqual(wakes, 2 * waits + 1)

    def test_three_sleepers(self) -> None:
        """One of them lossless: nothing is missed."""
        count = int(os.environ.get("BLOCKING_MESSAGES", "2000"))
        rate = max(3000, count // 30)  # far enough apart to sleep: a blocking reader looks for 5 us
        host = self.host("--rate", rate, "--json")
        self.wait_live()
        modes = (["--lossless", "--wait", "block"], ["--wait", "block"], [])
        clients = [self.client("--json", "--count", 0, *mode) for mode in modes]
        self.wait_attached(3)
        begin = self.head()
        self.until(lambda: self.head() > begin + count, f"they get {count} messages")
        host.terminate()
        published = self.finish_json(host)["published"]
        for mode, client in zip(modes, clients):
            result = self.finish_json(client)
            self.assertEqual(result["began"] + result["messages"] + result["lost"], published)
            self.assertEqual(result["missed_wakeups"], 0)
            if client == clients[0]:
                self.assertEqual(result["lost"], 0)
            waits = result["waits"]
            if mode:  # the default need not sleep where it falls behind
                self.assertGreater(waits["slept"], count // 1000)  # or it proves nothing
            self.assertEqual(waits["ready"] + waits["spun"] + waits["slept"], result["messages"])

    def test_no_wake_up_is_lost(self) -> None:
        """Both sides block and wake each other; no wait ran into its time-out with the message
        there."""
        count = 5000
        for program in (HOST, WEAK_HOST):
            host = self.start(self.host_words("--echo", "--wait", "block", "--rate", 0, "--count",
                                              count, "--json", program=program))
            self.wait_live()
            client = self.client("--echo", "--wait", "block", "--count", 0, "--json")
            host_result, client_result = self.finish_json(host), self.finish_json(client)
            self.assertEqual((host_result["received"], host_result["echo_errors"]), (count, 0))
            self.assertEqual([result["missed_wakeups"] for result in (host_result, client_result)],
                             [0, 0])


if __name__ == "__main__":
    unittest.main()
