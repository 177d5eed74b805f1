"""The two programs as a user runs them."""
import base64
import fcntl
import json
import os
import pty
import random
import re
import signal
import subprocess
import sys
import termios
import time
import unittest
from typing import List

from support import CLIENT, HOST, WEAK_HOST, PairTest


class Smoke(PairTest):
    CLIENT_KEYS = {"messages", "lost", "retries", "crc_errors", "verify_errors", "bytes", "elapsed_s",
                   "rate_hz", "session", "host_pid", "wait", "host_state", "attach_us", "latency_ns",
                   "due_latency_ns", "clock", "cpu", "reattached"}
    HOST_KEYS = {"published", "bytes", "elapsed_s", "rate_hz", "stalls", "dropped_clients",
                 "publish_ns"}

    def test_two_terminals(self) -> None:
        host = self.host("--json")
        self.wait_live()
        client = self.finish_json(self.client("--count", 200, "--json", "--verify"))
        self.assertLessEqual(self.CLIENT_KEYS, set(client))
        self.assertEqual((client["messages"], client["lost"], client["verify_errors"]), (200, 0, 0))
        self.assertEqual(client["bytes"], 200 * 64)
        self.assertEqual(client["host_pid"], host.pid)
        self.assertEqual(client["host_state"], "live")
        self.assertEqual(set(client["attach_us"]),
                         {"open", "stat", "map", "check", "first", "total"})
        for key in ("latency_ns", "due_latency_ns"):
            figures = client[key]
            order = [figures[name] for name in ("min", "p50", "p90", "p99", "p99_9", "max")]
            self.assertEqual(order, sorted(order))
            self.assertTrue(figures["min"] <= figures["mean"] <= figures["max"])
        self.assertGreater(client["clock"]["resolution_ns"], 0)
        self.assertEqual(set(client["cpu"]), {"user_s", "system_s", "percent", "minor_faults",
                                              "voluntary_switches", "involuntary_switches"})
        self.assertEqual(client["session"], self.peek_word(40))
        host.send_signal(2)
        out = self.finish_json(host)
        self.assertLessEqual(self.HOST_KEYS, set(out))
        self.assertGreaterEqual(out["published"], 200)
        self.assertEqual(set(out["publish_ns"]), {"mean", "p50", "p99"})
        self.assertFalse(self.segment_exists())
        self.assertEqual(os.listdir(self.folder.name), [])  # the lock file went, too

    def test_what_is_printed(self) -> None:
        out, err = self.finish(self.pair(["--count", "50", "--wait-client"], ["--count", "0"]))
        self.assertEqual(err, "")
        for words in ("host.py  created /" + self.name, "1024 slots of 64 B", "attached", "open ",
                      "first message", "n 1 ", "accel", "messages     50   lost 0", "publish -> seen",
                      "due -> seen", "p99.9", "resolution", "of a core", "host         closed",
                      "published 50 messages", "####"):
            self.assertIn(words, out)
        self.assertNotIn("\033", out)  # no terminal, no colour
        self.assertNotIn("\r", out)

    def test_on_a_terminal(self) -> None:
        """A live line that counts, from each; colour from the client, and not with NO_COLOR."""
        def on_terminal(words, stderr=subprocess.PIPE, **env):
            main, terminal = pty.openpty()
            process = self.start(words, stdout=terminal, stderr=stderr, env={"TERM": "xterm", **env})
            os.close(terminal)
            shown = b""
            while True:
                try:
                    shown += os.read(main, 4096)
                except OSError:  # how Linux says that the other end is closed
                    break
            os.close(main)
            self.finish(process)
            return shown.decode()

        host = self.host("--quiet", "--rate", 1000)
        self.wait_live()
        shown = on_terminal([*CLIENT, "--count", "1500", self.name], NO_COLOR="")
        self.assertRegex(shown, r"\r +[0-9]+ s  [1-9][0-9]* messages .*accel")
        self.assertIn("\033[1mattached", shown)
        shown = on_terminal([*CLIENT, "--count", "5", self.name], NO_COLOR="1")
        self.assertNotIn("\033[1m", shown)
        host.terminate()
        self.finish(host)
        shown = on_terminal(self.host_words("--count", "1500"))
        self.assertRegex(shown, r"\r +[0-9]+ s  [1-9][0-9]* messages .*no client")
        long = self.name + 20 * "x"  # has a warning; which is clean when it goes elsewhere
        with open(self.path("err"), "w+") as err:
            on_terminal(HOST + ["--name", long, "--count", "5"], stderr=err)
            err.seek(0)
            self.one_line(err.read(), f"host.py: /{long}: ", "macOS")
            err.seek(0)
            self.assertTrue(err.read().startswith("host.py: "))

    def test_quiet_is_quiet(self) -> None:
        self.assertEqual(self.finish(self.pair(["--count", "5", "--wait-client", "--quiet"],
                                               ["--quiet"])), ("", ""))

    def test_nohup(self) -> None:
        if "pypy" in os.path.basename(HOST[0]):
            self.skipTest("PyPy does not tell which signals were ignored on entry")
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
        client = self.client("--count", 5, "--json", "--timeout", 20)
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
        for count in (1000, 400000):
            result = self.finish_json(self.host(
                "--rate", 0, "--quiet", "--", "sh", "-c", shell, "8192" if "qemu" not in CLIENT[0]
                else "unlimited", *CLIENT, "--json", "--count", str(count), self.name)
                if not os.environ.get("SANITIZED") else
                self.pair(["--rate", "0", "--quiet"], ["--json", "--count", str(count)]))
            self.assertEqual(result["messages"], count)


class Copies(PairTest):
    def copy(self, content: bytes, host_options=(), client_options=("--lossless",)) -> None:
        source, target = self.file("in", content), self.path("out")
        self.finish(self.pair(["--input", source, "--quiet", *map(str, host_options)],
                              ["--quiet", "--output", target, *client_options]))
        with open(target, "rb") as copy:
            self.assertTrue(copy.read() == content, "the copy differs")

    def test_sizes(self) -> None:
        for length, options in ((0, ()), (1, ()), (64, ()), (100_001, ()), (100_000, ("--slots", 2)),
                                (1_000_003, ("--size", 4096)), (999, ("--size", 1, "--slots", 2)),
                                (3_000_001, ("--size", 1 << 20, "--slots", 2)),
                                (100_001, ("--crc",)), (30_001, ("--rate", 20000))):
            with self.subTest(length=length, options=options):
                self.copy(random.Random(length).randbytes(length) if hasattr(random, "randbytes")
                          else os.urandom(length), options)

    def test_large(self) -> None:
        self.copy(os.urandom(1 << 20) * 200, ("--size", 65536, "--slots", 16))

    def test_every_wait_mode(self) -> None:
        for mode in ("adaptive", "spin", "yield", "sleep", "block"):
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

    def test_live_stream_is_not_held_back(self) -> None:
        process = self.pair(["--input", "-", "--size", "4096", "--quiet"],
                            ["--quiet", "--output", "-"], stdin=subprocess.PIPE, text=False,
                            bufsize=0)
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
        content = os.urandom(150)
        out, _ = self.finish(self.pair(["--input", self.file("in", content), "--quiet"],
                                       ["--quiet", "--lossless", "-o", "-", "-f", "ndjson"]))
        parts = [base64.b64decode(json.loads(line)["payload"]) for line in out.splitlines()]
        self.assertEqual([len(part) for part in parts], [64, 64, 22])
        self.assertEqual(b"".join(parts), content)


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
        host = self.host("--crc", "--slots", 64, "--rate", 50, "--quiet", "--wait-client")
        self.wait_live()
        client = self.client("--verify", "--json", "--count", 20)
        self.until(lambda: self.peek_word(256) >= 3, "three messages")
        client.send_signal(signal.SIGSTOP)
        seen = self.peek_word(256)
        self.until(lambda: self.peek_word(256) >= seen + 5, "five more that it does not see yet")
        self.poke(1024 + (seen + 3) % 64 * 128 + 32 + 20, b"\xff")
        client.send_signal(signal.SIGCONT)
        out, err = self.finish(client, 6)
        result = json.loads(out)
        self.one_line(err, "failed the CRC", "/" + self.name)
        self.assertEqual((result["crc_errors"], result["verify_errors"]), (1, 1))
        host.terminate()
        self.finish(host)


class Stress(PairTest):
    def test_two_slots_and_a_large_payload(self) -> None:
        """Retries are certain here; not one wrong byte may be accepted, nor one message lost count
        of. A run that saw no retry has proved nothing."""
        for program in (HOST, WEAK_HOST):
            with self.subTest(program=program):
                self.two_slots(program)

    def two_slots(self, program: List[str]) -> None:
        host = self.start(program + ["--name", self.name, "--slots", "2", "--size", "16384",
                                     "--rate", "0", "--count", "30000", "--wait-client", "--json",
                                     "--crc"])
        self.wait_live()
        client = self.finish_json(self.client("--count", 0, "--verify", "--json", "--wait", "spin"))
        published = self.finish_json(host)["published"]
        self.assertEqual(published, 30000)
        self.assertEqual(client["messages"] + client["lost"], published)
        self.assertEqual((client["verify_errors"], client["crc_errors"]), (0, 0))
        self.assertGreater(client["retries"], 0, "no contention: nothing was proved")
        self.assertGreater(client["messages"], 0)

    def test_slow_reader_is_lapped_exactly(self) -> None:
        host = self.host("--slots", 8, "--rate", 0, "--count", 200000, "--wait-client", "--json")
        self.wait_live()
        with open(self.path("out"), "wb") as out:
            client = self.client("--count", 0, "--output", "-", "--format", "ndjson", "--quiet",
                                 stdout=out)
        observer = self.client("--observe", "--count", 0, "--json")
        published = self.finish_json(host)["published"]
        self.finish(client)
        with open(self.path("out")) as out:
            numbers = [json.loads(line)["n"] for line in out]
        self.assertEqual(numbers, sorted(set(numbers)))
        self.assertLess(len(numbers), published)  # it was lapped
        result = self.finish_json(observer, None)
        self.assertGreater(result["messages"] + result["lost"], 0)

    def test_slow_reader_counts(self) -> None:
        result = self.finish_json(self.pair(
            ["--slots", "8", "--rate", "0", "--count", "200000", "--wait-client", "--quiet"],
            ["--count", "0", "--verify", "--wait", "sleep", "--json"]))
        self.assertEqual(result["messages"] + result["lost"], 200000)
        self.assertGreater(result["lost"], 0)
        self.assertEqual(result["verify_errors"], 0)


class BothWays(PairTest):
    def test_echo(self) -> None:
        for size, slots, count, program in ((64, 1024, 3000, HOST), (1 << 20, 2, 50, HOST),
                                            (1, 2, 500, HOST), (64, 2, 3000, WEAK_HOST)):
            with self.subTest(size=size, program=program):
                host = self.finish_json(self.start(program + [
                    "--name", self.name, "--echo", "--size", str(size), "--slots", str(slots),
                    "--count", str(count), "--rate", "0", "--json", "--crc",
                    "--", *CLIENT, "--echo", "--count", "0", "--quiet", self.name]))
                self.assertEqual((host["published"], host["echo_errors"]), (count, 0))
                self.assertEqual(set(host["round_trip_ns"]),
                                 {"min", "p50", "p90", "p99", "p99_9", "max", "mean"})

    def test_echo_prints_a_histogram(self) -> None:
        out, _ = self.finish(self.pair(["--echo", "--count", 300, "--rate", 0],
                                       ["--echo", "--count", "0", "--quiet"]))
        bars = re.findall(r"^  below [0-9.]+ us +(\d+) #*$", out, re.M)
        self.assertEqual(sum(map(int, bars)), 300)

    def test_echo_with_every_wait_mode(self) -> None:
        for host_mode in ("spin", "yield", "sleep", "block"):
            for mode in ("adaptive", "spin", "yield", "sleep", "block"):
                with self.subTest(host=host_mode, client=mode):
                    host = self.finish_json(self.host(
                        "--echo", "--count", 60, "--rate", 2000, "--wait", host_mode, "--json",
                        "--", *CLIENT, "--echo", "--count", "0", "--wait", mode, "--quiet",
                        self.name))
                    self.assertEqual((host["received"], host["echo_errors"]), (60, 0))

    def test_echo_client_gone(self) -> None:
        host = self.host("--echo", "--rate", 500, "--count", 400, "--json")
        self.wait_live()
        first = self.client("--echo", "--count", 0, "--quiet")
        self.until(lambda: self.peek_word(512) > 20, "echoes")
        first.kill()
        self.finish(first, -9)
        second = self.client("--echo", "--count", 0, "--quiet")
        out, err = self.finish(host)
        self.assertEqual(json.loads(out)["echo_errors"], 0)
        self.assertIn("the client is gone", err)
        self.finish(second)

    def test_echo_nobody_echoes(self) -> None:
        host = self.host("--echo", "--rate", 500, "--count", 2, "--stall-timeout", 0.2, "--json")
        self.wait_live()
        client = self.client("--count", 0, "--quiet")
        out, err = self.finish(host, 6)
        self.assertEqual((json.loads(out)["received"], json.loads(out)["echo_errors"]), (0, 2))
        self.assertIn("2 messages did not come back", err)
        self.finish(client)

    def test_echo_nobody_comes_back(self) -> None:
        host = self.host("--echo", "--rate", 500, "--quiet")
        self.wait_live()
        self.finish(self.client("--echo", "--count", 20, "--quiet"))
        _, err = self.finish(host, 3)
        self.assertIn("no client came within 5 s", err)

    def test_source_to_sink(self) -> None:
        for length, options in ((0, ()), (1, ()), (300_001, ()), (100_000, ("--slots", 2)),
                                (5_000_001, ("--size", 65536, "--slots", 4)), (100_001, ("--crc",)),
                                (50_000, ("--wait", "spin")), (50_000, ("--wait", "sleep"))):
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
        self.finish(host)

    def test_source_ends_its_stream_at_count(self) -> None:
        host = self.host("--sink", self.path("out"), "--size", 10, "--quiet")
        self.wait_live()
        self.finish(self.client("--source", self.file("in", bytes(range(250))), "--count", 7, "-q"))
        self.finish(host)
        with open(self.path("out"), "rb") as copy:
            self.assertEqual(copy.read(), bytes(range(70)))
        for count in ((), ("--count", "7")):  # the host counts, and does not look for the end
            source = self.file("in", bytes(range(70)))
            self.finish(self.host("--sink", self.path("out"), "--size", 10, "--count", 7, "--quiet",
                                  "--", *CLIENT, "--source", source, *count, "-q", self.name))

    def test_source_killed_and_command_gone(self) -> None:
        """The client and COMMAND end at once: it is still told that the stream has no end."""
        os.mkfifo(self.path("fifo"))
        source = os.open(self.path("fifo"), os.O_RDWR)  # stays open: the file does not end
        self.addCleanup(os.close, source)
        for mode in ("sleep", "block"):
            host = self.host("--sink", self.path("out"), "--wait", mode, "--quiet", "--", "sh", "-c",
                             '"$@" & sleep 0.3; kill -9 $!', "sh", *CLIENT, "-q", "--source",
                             self.path("fifo"), self.name)
            os.write(source, b"begin")
            _, err = self.finish(host, 6)
            self.one_line(err, "is incomplete")

    def test_source_leaves_in_the_middle(self) -> None:
        """Who only reads does not end a sink; a source that leaves without the end of its stream
        does, and that is said."""
        host = self.host("--sink", self.path("out"), "--quiet")
        self.wait_live()
        self.finish(self.client("-t", 0.1, "-q"), 3)
        client = self.client("--source", "-", "--quiet", stdin=subprocess.PIPE, text=False,
                             bufsize=0)
        client.stdin.write(b"begin")
        self.until(lambda: os.path.getsize(self.path("out")) == 5, "the begin is there")
        client.send_signal(signal.SIGINT)
        client.wait()  # before its standard input ends
        self.finish(client)
        _, err = self.finish(host, 6)
        self.one_line(err, "left before the end of its stream", "is incomplete")

    def test_sink_and_a_command_that_fails(self) -> None:
        for options in ((), ("--wait-client",)):
            self.finish(self.host("--sink", self.path("out"), "--quiet", *options, "--", "sh", "-c",
                                  "exit 7"), 7)

    def test_source_without_sink(self) -> None:
        host = self.host("--quiet")
        self.wait_live()
        for option in (["--source", "/dev/null"], ["--echo"]):
            _, err = self.finish(self.client(*option), 3)
            self.one_line(err, "does not receive")
        host.terminate()
        self.finish(host)

    def test_source_killed(self) -> None:
        host = self.host("--sink", self.path("out"), "--quiet")
        self.wait_live()
        client = self.client("--source", "-", "--quiet", stdin=subprocess.PIPE)
        self.wait_attached()
        time.sleep(0.1)
        client.kill()
        _, err = self.finish(host, 6)
        self.assertIn("is incomplete", err)


class Blocking(PairTest):
    def wake_calls(self, mode: str) -> int:
        trace = self.path("trace-" + mode)
        host = self.start(["strace", "-f", "-qq", "-e", "trace=futex", "-o", trace, *self.host_words(
            "--rate", "200", "--count", "60", "--wait-client", "--quiet")])
        self.wait_live()
        self.finish(self.client("--count", 0, "--quiet", "--wait", mode))
        self.finish(host)
        with open(trace) as lines:
            # glibc's own futexes are FUTEX_PRIVATE_FLAG or wait for joins; ours is the plain wake.
            return sum("FUTEX_WAKE, 2147483647" in line for line in lines)

    def test_no_wake_call_when_nobody_sleeps(self) -> None:
        if subprocess.run(["sh", "-c", "command -v strace >/dev/null && strace -qq true"],
                          stderr=subprocess.DEVNULL).returncode:
            self.skipTest("no strace, or it may not trace here")
        self.assertEqual(self.wake_calls("spin"), 0)
        self.assertGreater(self.wake_calls("block"), 30)

    def test_no_wake_up_is_lost(self) -> None:
        """Both sides block, at random gaps; no wait ran into its time-out with the message there."""
        count = int(os.environ.get("BLOCKING_MESSAGES", "20000"))
        # On a busy machine PyPy's compiler may pause between the store of head and the wake call for
        # longer than the client sleeps.
        jit = ["--jit", "off"] if "pypy" in os.path.basename(HOST[0]) else []
        host = self.start(HOST[:1] + jit + HOST[1:] + [
            "--name", self.name, "--echo", "--wait", "block", "--rate", "0", "--count", str(count),
            "--json"])
        self.wait_live()
        client = self.client("--echo", "--wait", "block", "--count", 0, "--json")
        host_result, client_result = self.finish_json(host), self.finish_json(client)
        self.assertEqual((host_result["received"], host_result["echo_errors"]), (count, 0))
        self.assertEqual((host_result["missed_wakeups"], client_result["missed_wakeups"]), (0, 0))


if __name__ == "__main__":
    unittest.main()
