"""See it break: a reader without seq accepts mixed messages, the lane's reader does not."""
import os
import re
import unittest

from programs import HOST, ROOT, TORN, PairTest, require


class Torn(PairTest):
    def setUp(self) -> None:
        super().setUp()
        require(os.path.exists(TORN), "torn_reader is not built")
        require(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) > 1,
                "with one CPU nobody writes while another reads")

    def test_messages(self) -> None:
        """As the target `torn`, under a name of its own."""
        out, err = self.finish(self.host("--rate", 0, "--size", 262144, "--slots", 2,
                                         "--wait-client", "--quiet", "--", TORN, "/" + self.name))
        self.assertEqual(err, "")
        rows = {name: tuple(map(int, figures)) for name, *figures in
                re.findall(r"^(\w+) +reader +accepted +(\d+), +(\d+) of them mixed; "
                           r"refused +(\d+)$", out, re.M)}
        accepted, mixed, refused = rows["naive"]
        self.assertEqual(refused, 0)
        self.assertGreater(mixed, 0, "the naive reader met no mixture: nothing is proved")
        accepted, mixed, refused = rows["lane"]
        self.assertGreater(refused, 0, "nothing changed while the lane's reader read")
        self.assertGreater(accepted, 0)
        self.assertEqual(mixed, 0)
        self.assertFalse(self.segment_exists())

    def test_counters(self) -> None:
        out, err = self.finish(self.start([HOST[0], os.path.join(ROOT, "tests/torn/counter.py"),
                                           TORN]))
        self.assertEqual(err, "")
        rows = re.findall(r"moved +(\d+) times, to a zero +(\d+) times", out)
        (packed, zeros), (stored, none) = [tuple(map(int, row)) for row in rows]
        self.assertGreater(min(packed, stored), 0)
        self.assertGreater(zeros, 0, "pack_into was not caught: nothing is proved")
        self.assertEqual(none, 0)


if __name__ == "__main__":
    unittest.main()
