"""Others read the segment, from its layout and the README alone: numpy, and plain C++ with a file
map. The host publishes as fast as it can. They accept 100,000 copies of the newest message: none
may be torn. Some that they refused must be torn, or nothing is proved."""
import os
import shutil
import subprocess
import unittest

from programs import TEACH, TeachTest, numpy_python, require
from support import CLIENT

COUNT = 100000


class Third(TeachTest):
    def setUp(self) -> None:
        super().setUp()
        require(os.path.isdir("/dev/shm"), "shared memory has no path here")
        require(not hasattr(os, "sched_getaffinity") or len(os.sched_getaffinity(0)) > 1,
                "with one CPU nobody writes while another reads")

    def prove(self, *reader: str) -> None:
        host = self.host("--rate", 0, "--size", 16384, "--slots", 8, "--quiet")
        self.until(lambda: self.head() > 0, "it publishes")
        layout = subprocess.run([*CLIENT, "--layout"], check=True, stdout=subprocess.PIPE).stdout
        with open(self.file("layout", layout)) as lines:
            out, err = self.finish(self.start([*reader, self.name, str(COUNT)], stdin=lines))
        self.assertEqual(err, "")
        accepted, different, refused, torn, wrong = map(int, out.split())
        print(f"accepted {accepted}, {different} different ones, refused {refused}, {torn} of them "
              f"torn; wrong {wrong}")
        self.assertEqual((accepted, wrong), (COUNT, 0))
        self.assertGreater(min(torn, different), 1, "no copy was torn: nothing is proved")
        self.interrupt(host)

    def test_numpy(self) -> None:
        self.prove(numpy_python(), os.path.join(TEACH, "third.py"))

    def test_cpp(self) -> None:
        compiler = next((found for found in map(shutil.which, ("c++", "g++", "clang++")) if found),
                        None)
        require(compiler, "no C++ compiler")
        program = self.path("third")
        out, err = self.finish(self.start([compiler, "-std=c++17", "-O2", "-Wall", "-Wextra", "-o",
                                           program, os.path.join(TEACH, "third.cpp")]))
        self.assertEqual(err, "")
        self.prove(program)


if __name__ == "__main__":
    unittest.main()
