"""Two machines with a broker between them, on one: the README's two lines with a real mosquitto."""
import json
import os
import shlex
import shutil
import signal
import socket
import subprocess
import time
import unittest

from programs import PairTest, marked, require
from support import CLIENT, HOST

PATH = os.environ.get("PATH", "") + ":/usr/sbin:/usr/local/sbin"  # where Debian has the broker


class Machines(PairTest):
    """host -> cliente_c | mosquitto_pub -> broker -> mosquitto_sub | host -> cliente_c"""

    def setUp(self) -> None:
        super().setUp()
        for tool in ("mosquitto", "mosquitto_pub", "mosquitto_sub", "bash", "tee"):
            require(shutil.which(tool, path=PATH), f"{tool} is not installed")
        self.there = self.name + "b"
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        self.lines = marked("machines").splitlines()

    def broker(self) -> subprocess.Popen:
        conf = self.file("conf", f"listener {self.port} 127.0.0.1\nallow_anonymous true\n"
                         "persistence false\nlog_type all\nmax_queued_messages 0\n".encode())
        with open(self.path("broker.log"), "w") as log:
            broker = self.start([shutil.which("mosquitto", path=PATH), "-c", conf], stdout=log,
                                stderr=log)
        self.until(self.answers, "the broker listens")
        return broker

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def logged(self, text: str) -> bool:
        with open(self.path("broker.log")) as log:
            return text in log.read()

    def shell(self, line: str, *changes: tuple) -> subprocess.Popen:
        """A line of the README, with these changes, each of which must find its place."""
        for old, new in (("-h BROKER", f"-h 127.0.0.1 -p {self.port}"), *changes):
            self.assertIn(old, line)
            line = line.replace(old, new)
        return self.start(["bash", "-c", line + "; echo ${PIPESTATUS[*]}"], env={"PATH": PATH})

    @staticmethod
    def quoted(words: list) -> str:
        """A path may have a space."""
        return " ".join(map(shlex.quote, words))

    def here(self, qos: int = 1) -> subprocess.Popen:
        """The sending machine's line; what the client wrote is in `sent`, too."""
        return self.shell(self.lines[0], ("./build/cliente_c", self.quoted(CLIENT)),
                          ("-q 1", f"-q {qos}"),
                          ("ndjson |", f"ndjson {self.name} | "
                           f"tee {shlex.quote(self.path('sent'))} |"))

    def far_side(self, qos: int = 1) -> None:
        """The receiving machine: its line, and a client whose output is `got`."""
        self.sub = self.shell(self.lines[1], ("python3 host.py", self.quoted(HOST)),
                              ("-q 1", f"-q {qos}"),
                              ("--input -", "--input - --quiet --stall-timeout 60 "
                               f"--name {self.there}"))
        self.until(lambda: self.logged("Sending SUBACK"), "it has subscribed")
        self.until(lambda: os.path.exists("/dev/shm/" + self.there), "the second host is there")
        self.last = self.start([*CLIENT, "-l", "-q", "-n", "0", "-t", "60", "-o", self.path("got"),
                                self.there])

    def read(self, name: str) -> bytes:
        try:
            with open(self.path(name), "rb") as file:
                return file.read()
        except FileNotFoundError:
            return b""

    def child(self, shell: subprocess.Popen, name: str) -> int:
        """The pid of what this shell has started under this name."""
        found = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/stat") as stat:
                    text = stat.read()
            except OSError:
                continue
            if (text.partition("(")[2].rpartition(")")[0] == name[:15]
                    and int(text.rpartition(")")[2].split()[1]) == shell.pid):
                found.append(int(pid))
        self.assertEqual(len(found), 1, f"{name} of {shell.args}")
        return found[0]

    def end_far_side(self) -> None:
        """The subscriber ends: the end of the second host's input, and of its client."""
        os.kill(self.child(self.sub, "mosquitto_sub"), signal.SIGTERM)
        out, err = self.finish(self.sub)
        self.assertEqual(out.split()[-1], "0", f"the second host: {out} {err}")
        self.finish(self.last)

    def first_host(self, count: int) -> subprocess.Popen:
        host = self.host("--count", count, "--rate", 1000, "--wait-client", "--json",
                         "--stall-timeout", 60)
        self.wait_live()
        return host

    def test_every_message_once_and_in_order(self) -> None:
        broker = self.broker()
        self.far_side()
        host = self.first_host(10000)
        here = self.here()
        self.assertEqual(self.finish_json(host)["published"], 10000)
        self.assertEqual(self.finish(here), ("0 0 0\n", ""))
        sent = self.read("sent")
        self.assertEqual([json.loads(line)["n"] for line in sent.splitlines()],
                         list(range(1, 10001)))
        self.until(lambda: len(self.read("got")) >= len(sent), "all of it has arrived", 120)
        self.end_far_side()
        self.assertTrue(self.read("got") == sent, "what arrived is not what was sent")
        broker.terminate()
        self.finish(broker, None)

    def broken(self, qos: int) -> None:
        """The broker is killed in the middle and started again. The hosts do not notice. The losses
        depend on the QoS, and on the moment: they are measured here, not asserted."""
        broker = self.broker()
        self.far_side(qos)
        host = self.first_host(8000)
        here = self.here(qos)
        self.until(lambda: len(self.read("sent").splitlines()) > 2000, "it runs")
        broker.kill()
        broker.wait()
        killed_at = self.head()
        self.until(lambda: self.head() > killed_at + 1000, "a second without")
        broker = self.broker()
        back_at = self.head()
        report = self.finish_json(host)
        self.assertEqual((report["published"], report["dropped_clients"]), (8000, 0))
        out, err = self.finish(here)
        codes = out.split()[-3:]
        sent = self.read("sent").splitlines()
        self.until(lambda: self.settled(), "nothing comes any more")
        self.end_far_side()
        got = self.read("got").splitlines()
        came = [json.loads(line)["n"] for line in got]  # each line is whole
        self.assertTrue(set(got) <= set(sent))
        lost = sorted({json.loads(line)["n"] for line in set(sent) - set(got)})
        print(f"QoS {qos}: killed at {killed_at}, back at {back_at}, "
              f"lost {lost[:3]} ... {lost[-3:]}")
        print(f"QoS {qos}: {len(sent)} sent, {len(sent) - len(set(came))} lost, "
              f"{len(came) - len(set(came))} twice, "
              f"{sum(b < a for a, b in zip(came, came[1:]))} out of order; "
              f"exit codes {codes} {err!r}")
        broker.terminate()
        self.finish(broker, None)

    def test_mosquitto_pub_ends(self) -> None:
        """Its client says so and exits 1; the host is unharmed, and a new line goes on."""
        broker = self.broker()
        host = self.host("--rate", 1000, "--json", "--stall-timeout", 60)
        self.wait_live()
        line = self.lines[0]
        for number in (1, 2):
            here = self.shell(line, ("./build/cliente_c", self.quoted(CLIENT)),
                              ("ndjson |", f"ndjson {self.name} |"))
            self.wait_attached(number)
            at = self.until(lambda: self.position() > 0 and self.position(), "it reads")
            self.until(lambda: self.position() > at + 500, "it is carried on")
            os.kill(self.child(here, "mosquitto_pub"), signal.SIGKILL)
            out, err = self.finish(here)
            self.assertEqual(out.split()[-2:], ["1", "137"])
            said = [text for text in err.splitlines() if text.startswith("cliente_c")]
            self.assertEqual(len(said), 1, err)
            self.one_line(said[0] + "\n", self.name, "write -", "Broken pipe")
            head = self.head()
            self.until(lambda: self.head() > head + 100, "the host goes on")
        host.send_signal(signal.SIGINT)
        report = self.finish_json(host)
        self.assertEqual((report["clients"], report["dropped_clients"]), (2, 0))
        broker.terminate()
        self.finish(broker, None)

    def settled(self) -> bool:
        before = len(self.read("got"))
        time.sleep(2)
        return len(self.read("got")) == before


for _qos in (0, 1, 2):
    setattr(Machines, f"test_the_broker_is_killed_qos_{_qos}",
            lambda self, qos=_qos: self.broken(qos))


if __name__ == "__main__":
    unittest.main()
