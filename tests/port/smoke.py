"""A quick check of the pair, a few seconds. Each interpreter, compiler and emulator runs it."""
import json
import os
import sys
import unittest

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "pair"))

from support import CLIENT, HOST, PairTest, ROOT, SESSION

PATIENT = ["--stall-timeout", "30"]  # a busy machine is not a stalled client
LAYOUT = """
import json, sys
sys.path.insert(0, "src")
import shmprueba
print(json.dumps([[block, name, getattr(mirror, name).offset, getattr(mirror, name).size]
                  for block, mirror in [("shm_header", shmprueba.Header),
                                        ("shm_status", shmprueba.Status),
                                        ("shm_lane_block", shmprueba.LaneBlock),
                                        ("shm_slot", shmprueba.Slot)]
                  for name, _ in mirror._fields_ if not name.startswith("zero")]))
"""


class Smoke(PairTest):
    def same(self, one: str, other: str) -> None:
        with open(one, "rb") as a, open(other, "rb") as b:
            self.assertTrue(a.read() == b.read(), "the copy differs")

    def test_layout(self) -> None:
        out, _ = self.finish(self.start([HOST[0], "-c", LAYOUT], cwd=ROOT))
        mirrored = [tuple(row) for row in json.loads(out)]
        out, _ = self.finish(self.start(CLIENT + ["--layout"]))
        rows = [line.split() for line in out.splitlines() if line.startswith("shm_")]
        self.assertEqual(mirrored, [
            (block, field, int(offset), int(size)) for block, field, offset, size, _ in rows
            if field not in ("zero", "payload")])  # no field of the mirror has these names

    def test_default_run(self) -> None:
        host = self.host("--rate", 2000, "--wait-client", "--json", *PATIENT)
        self.wait_live()
        client = self.finish_json(self.client("-n", 300, "-l", "-v", "--json", "-t", 30))
        self.assertEqual(client["session"], str(self.peek_word(SESSION)))
        host.terminate()
        self.finish_json(host)
        self.assertEqual((client["messages"], client["lost"], client["verify_errors"]), (300, 0, 0))
        ages = client["latency_ns"]
        self.assertTrue(0 <= ages["min"] <= ages["p50"] <= ages["p99"] <= ages["max"] < 60e9, ages)
        self.assertFalse(self.segment_exists())

    def test_lossless_copy(self) -> None:
        # 8 slots for 800 messages: each slot is used a hundred times. The last message is shorter.
        source = self.file("in", os.urandom(800 * 4096 - 17))
        host = self.host("--input", source, "--size", 4096, "--slots", 8, "--crc", *PATIENT)
        self.wait_live()
        self.finish(self.client("-l", "-q", "-t", 30, "-o", self.path("out")))
        self.finish(host)
        self.same(source, self.path("out"))

    def test_sink(self) -> None:
        source = self.file("in", os.urandom(300 * 4096 - 17))
        host = self.host("--sink", self.path("out"), "--size", 4096, "--slots", 8, *PATIENT)
        self.wait_live()
        self.finish(self.client("-s", source, "-q", "-t", 30))
        self.finish(host)
        self.same(source, self.path("out"))

    def echo(self, count: int, size: int, host_wait: str, client_wait: str) -> None:
        host = self.host("--echo", "--json", "--rate", 0, "--count", count, "--size", size,
                         "--slots", 4, "--wait", host_wait, *PATIENT)
        self.wait_live()
        client = self.client("-e", "-v", "-n", 0, "-t", 30, "-w", client_wait, "--json")
        ended, echoed = self.finish_json(host), self.finish_json(client)
        self.assertEqual((ended["published"], ended["echo_errors"]), (count, 0))
        self.assertEqual((echoed["messages"], echoed["lost"]), (count, 0))
        self.assertEqual(echoed["host_state"], "closed")

    def test_echo_large(self) -> None:
        self.echo(20, 1 << 20, "block", "adaptive")

    def test_echo_in_every_wait_mode(self) -> None:
        """Each mode of either side makes progress: 50 answers within the watchdog's time."""
        for host_wait in ("spin", "block"):
            for client_wait in ("adaptive", "spin", "block"):
                with self.subTest(host=host_wait, client=client_wait):
                    self.echo(50, 64, host_wait, client_wait)


if __name__ == "__main__":
    unittest.main()
