"""A process is charged only with time in which it was awake to be looked at.

Each of these is asserted by exit codes and counts, never by a rate.
"""
import os
import signal
import subprocess
import time
import unittest

from support import PairTest
from shmprueba import Segment

TIMEOUT_S, STOPPED_S = 3, 3.5  # of the client, more than a loaded machine takes; longer than that
COUNT = 6000  # messages, 1,000 a second, outlast the stop: LeakSanitizer hangs if it is stopped


class Stopped(PairTest):
    def counts(self, result: dict, published: int) -> None:
        """Nothing is missed but what was overwritten, and that is counted."""
        self.assertEqual(result["began"] + result["messages"] + result["lost"], published)

    def test_client_and_host_and_the_client_goes_on_first(self) -> None:
        for options in ([], ["--lossless"], ["--wait", "block"]):
            with self.subTest(options=options):
                host = self.host("--json")
                self.wait_live()
                client = self.client("-t", TIMEOUT_S, "-n", 0, "--json", *options)
                self.wait_attached()
                seen = self.head()
                self.until(lambda: self.head() > seen + 20, "they are under way")
                self.stop(client)
                self.stop(host)
                time.sleep(STOPPED_S)
                client.send_signal(signal.SIGCONT)
                time.sleep(.02)
                host.send_signal(signal.SIGCONT)
                seen = self.head()
                self.until(lambda: self.head() > seen + 20, "they go on")
                host.terminate()
                out = self.finish_json(host)
                self.assertEqual(out["dropped_clients"], 0)
                self.counts(self.finish_json(client), out["published"])

    def command_of(self, host: subprocess.Popen) -> int:
        """The pid of its COMMAND, once that runs; its other child is the resource tracker."""
        with open(f"/proc/{host.pid}/task/{host.pid}/children") as children:
            for pid in children.read().split():
                with open(f"/proc/{pid}/cmdline", "rb") as words:
                    if self.name.encode() in words.read().split(b"\0")[-2:]:
                        return int(pid)
        return 0

    def test_a_process_group(self) -> None:
        """Ctrl-Z, then fg: in whichever order its processes go on."""
        for options, client_first in (([], True), ([], False), (["--lossless"], True),
                                      (["--lossless"], False)):
            with self.subTest(options=options, client_first=client_first):
                host = self.pair(["--quiet", "--stall-timeout", TIMEOUT_S],
                                 ["-t", str(TIMEOUT_S), "-n", str(COUNT), "--json", *options])
                self.wait_attached()
                client = self.command_of(host)
                self.until(lambda: self.head() > 50, "they run")
                os.killpg(host.pid, signal.SIGSTOP)
                time.sleep(STOPPED_S)
                for pid in sorted([client, host.pid], key=lambda pid: (pid == client)
                                  ^ client_first):
                    os.kill(pid, signal.SIGCONT)
                    time.sleep(.02)
                os.killpg(host.pid, signal.SIGCONT)  # the resource tracker, too: it holds our pipes
                result = self.finish_json(host)
                self.assertEqual(result["messages"], COUNT)
                if options:
                    self.assertEqual(result["lost"], 0)

    def test_a_reader_between_two_looks_at_its_clock(self) -> None:
        """Stopped after so many messages, for longer than its time-out, and lapped meanwhile."""
        for before in (62, 63, 64):
            with self.subTest(before=before):
                with Segment(self.name, size=8, slots=8) as segment:
                    client = self.client("-t", TIMEOUT_S, "-n", 0, "--json", "-o",
                                         self.path("out"), "--wait", "spin")
                    self.until(lambda: segment.attached, "it has attached")
                    for n in range(1, before + 1):
                        segment.send(b"%8d" % n)
                        self.until(lambda: os.path.getsize(self.path("out")) == 8 * n, "it reads")
                    self.stop(client)
                    for n in range(before + 1, before + 101):
                        segment.send(b"%8d" % n)
                    end = time.monotonic() + STOPPED_S
                    while time.monotonic() < end:
                        segment.care()
                        time.sleep(.02)
                    client.send_signal(signal.SIGCONT)
                    self.until(lambda: os.path.getsize(self.path("out")) == 8 * (before + 4),
                               "it has read half a ring")
                    segment.send(b"%8d" % (before + 101))
                result = self.finish_json(client)
                self.assertEqual((result["messages"], result["lost"]), (before + 5, 96))
                with open(self.path("out"), "rb") as out:
                    self.assertEqual([int(n) for n in out.read().split()], [
                        *range(1, before + 1), *range(before + 97, before + 102)])


class Killed(PairTest):
    def test_a_host_that_dies_within_the_time_out(self) -> None:
        """It died: it does not live and send nothing. Also for a client that was stopped then."""
        for options in ([], ["--lossless"], ["--wait", "spin"]):
            for stopped in (False, True):
                with self.subTest(options=options, stopped=stopped):
                    host = self.host("--input", "-", *(["--rate", 100] if not options else []),
                                     "--quiet", stdin=subprocess.PIPE)
                    self.wait_live()
                    client = self.client("-q", "-n", 0, *options, "--timeout", 100)
                    self.wait_attached()
                    if stopped:
                        self.stop(client)
                    host.kill()
                    host.wait()
                    client.send_signal(signal.SIGCONT)
                    _, err = self.finish(client, 4)
                    self.one_line(err, "died", "/" + self.name)
                    self.finish(host, None)
                    os.unlink("/dev/shm/" + self.name)  # or the next one seems to live already


if __name__ == "__main__":
    unittest.main()
