"""Every Python of this machine runs host.py: a smoke test; the oldest and the newest more."""
import glob
import json
import os
import re
import shutil
import unittest
from typing import Dict, List, Tuple

from harness import ROOT, PortTest, record, require, run, suite

# What touches the interpreter most: ctypes, memoryview, signals, descriptors, the exit.
QUICK = {"pair": ["test_layout", "test_writer", "test_pair.Smoke"],
         "fault": ["test_host_faults.Memory"]}
FACTS = """
import json, platform, sys, sysconfig
print(json.dumps([platform.python_implementation(), list(sys.version_info[:3]),
                  bool(sysconfig.get_config_var("Py_GIL_DISABLED")), sys.executable]))
"""


def candidates() -> List[str]:
    """PATH first, then what pyenv has, in the order of their versions."""
    found = []
    for folder in os.environ.get("PATH", "").split(os.pathsep):
        names = os.listdir(folder) if os.path.isdir(folder) else []
        found += [os.path.join(folder, name) for name in sorted(names)
                  if re.fullmatch(r"python3(\.\d+)?t?|pypy3(\.\d+)?", name)]
    if shutil.which("pyenv"):
        code, root = run(["pyenv", "root"])
        if code == 0:
            found += sorted(glob.glob(root.strip() + "/versions/*/bin/python3"))
    return found


def interpreters() -> Dict[Tuple[str, Tuple[int, ...], bool], str]:
    """{(implementation, version, free-threaded): executable}, one of each."""
    result = {}
    for path in candidates():
        try:
            code, said = run([path, "-c", FACTS], 30)
            name, version, free, executable = json.loads(said)
        except (OSError, ValueError):
            continue  # a shim without its Python
        result.setdefault((name, tuple(version), free), executable)
    return dict(sorted(result.items()))


def label(key: Tuple[str, Tuple[int, ...], bool]) -> str:
    return f"{key[0]} {'.'.join(map(str, key[1]))}{' free-threaded' if key[2] else ''}"


class Pythons(PortTest):
    @classmethod
    def setUpClass(cls) -> None:
        cls.found = interpreters()

    def check(self, wanted: Dict[Tuple[str, Tuple[int, ...], bool], str]) -> None:
        ends = (min(wanted), max(wanted))
        for key, executable in wanted.items():
            with self.subTest(python=label(key)):
                suites = {"port": ["smoke"], **(QUICK if key in ends else {})}
                ran = [suite(self, folder, names, 300, HOST_PYTHON=executable)
                       for folder, names in suites.items()]
                record("; ".join(ran), "ran", python=label(key), compiler="default build")

    def refused(self, executable: str, *words: str) -> None:
        """One line, whatever was asked of it."""
        for arguments in ([], ["--help"]):
            process = self.start([executable, os.path.join(ROOT, "host.py"), *arguments])
            out, err = self.finish(process, 1)
            self.assertEqual(out, "")
            self.one_line(err, "host.py", *words)

    def test_cpython(self) -> None:
        wanted = {key: path for key, path in self.found.items()
                  if key[0] == "CPython" and key[1] >= (3, 8) and not key[2]}
        self.assertTrue(wanted, "no CPython found, though one runs this")
        self.check(wanted)

    def test_free_threaded(self) -> None:
        wanted = {key: path for key, path in self.found.items() if key[2]}
        require(wanted, "no free-threaded CPython on this machine")
        self.check(wanted)

    def test_other_interpreter_gives_one_line(self) -> None:
        others = {key: path for key, path in self.found.items() if key[0] != "CPython"}
        require(others, "no PyPy, nor another interpreter, on this machine")
        for key, executable in others.items():
            with self.subTest(python=label(key)):
                self.refused(executable, "needs CPython", key[0].lower())
                record("one line that says CPython is needed", "refused, as it should",
                       python=label(key))

    def test_too_old_gives_one_line(self) -> None:
        old = {key: path for key, path in self.found.items() if (3, 6) <= key[1] < (3, 8)}
        require(old, "no Python 3.6 or 3.7 on this machine")
        for key, executable in old.items():
            with self.subTest(python=label(key)):
                self.refused(executable, "3.8", "%d.%d" % key[1][:2])
                record("one line that names 3.8", "refused, as it should", python=label(key))


if __name__ == "__main__":
    unittest.main()
