"""host.py and its library under each Python that is found, and under two from trees of Debian."""
import glob
import json
import os
import re
import shutil
import tempfile
import unittest
from typing import Dict, List, NamedTuple, Tuple

from harness import NATIVE_CLIENT, ROOT, PortTest, need, record, require, run, suite
from support import CLIENT, HOST

# The library's own tests, each run by that Python; and a host with too little of everything.
THOROUGH = {"pair": ["test_layout", "test_library", "test_guest.Guest", "test_forks",
                     "test_pair.Smoke"],
            "fault": ["test_host_faults.Memory"]}
FACTS = """
import json, os, platform, sys, sysconfig
libc = "CS_GNU_LIBC_VERSION"
print(json.dumps([platform.python_implementation(), list(sys.version_info[:3]),
                  bool(sysconfig.get_config_var("Py_GIL_DISABLED")), sys.executable,
                  sys.maxsize > 1 << 32, os.confstr(libc) if libc in os.confstr_names else ""]))
"""


class Python(NamedTuple):
    name: str
    version: Tuple[int, ...]
    free_threaded: bool
    executable: str  # its own word for it
    wide: bool       # 64 bits
    libc: str
    path: str        # what runs it

    def __str__(self) -> str:
        return (f"{self.name} {'.'.join(map(str, self.version))}"
                + " free-threaded" * self.free_threaded + ", 32 bits" * (not self.wide))


def ask(path: str) -> Python:
    """OSError or ValueError: it does not run."""
    _, said = run([path, "-c", FACTS], 30)
    name, version, *facts = json.loads(said)
    return Python(name, tuple(version), *facts, path)


def candidates() -> List[str]:
    """Those of PATH first, then those of pyenv by version."""
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


def interpreters() -> List[Python]:
    """One of each kind and version."""
    result: Dict[tuple, Python] = {}
    for path in candidates():
        try:
            python = ask(path)
        except (OSError, ValueError):
            continue  # a version manager's shim without its Python
        result.setdefault(python[:3] + (python.wide,), python)
    return [result[key] for key in sorted(result)]


def debian_tree(folder: str, release: str, cpu: str) -> str:
    """A Debian with its Python in folder, from the mirror that this machine's apt uses."""
    tree = os.path.join(folder, f"{release}-{cpu}")
    require(os.geteuid() == 0, "needs root: mount and chroot")
    if not os.path.exists(tree + "/usr/bin/python3"):
        need("debootstrap", "apt-get")
        mirror = run(["apt-get", "indextargets", "--format", "$(SITE)", "Origin: Debian",
                      "Label: Debian"])[1].split("\n")[0]
        require("://" in mirror, "this machine's apt has no Debian mirror")
        shutil.rmtree(tree + ".new", ignore_errors=True)  # of a run that was ended
        os.makedirs(folder, exist_ok=True)
        code, said = run(["debootstrap", "--variant=minbase", "--arch=" + cpu, "--include=python3",
                          release, tree + ".new", mirror], 900)
        require(code == 0, f"no tree of {release}: {said.strip()[-200:]}")
        os.rename(tree + ".new", tree)
    return tree


# A Python that runs in a tree, as the same process, so signals reach it. It sees the same folders
# and the same /dev/shm as we do. The mounts end with it.
IN_TREE = """#!/bin/sh
exec unshare --mount sh -ec '
mount --bind "{tree}" "{tree}"
for folder in /tmp {folders}; do
    mkdir -p "{tree}$folder"
    mount --bind "$folder" "{tree}$folder"
done
mount --rbind /dev "{tree}/dev"
mount --bind /proc "{tree}/proc"
exec chroot "{tree}" env --chdir="$PWD" /usr/bin/python3 "$@"' sh "$@"
"""


class Pythons(PortTest):
    @classmethod
    def setUpClass(cls) -> None:
        cls.found = interpreters()
        cls.trees = tempfile.TemporaryDirectory(prefix="shmprueba-trees-")
        cls.addClassCleanup(cls.trees.cleanup)

    def check(self, python: Python, ends: bool, **columns: str) -> None:
        """A quick check of the pair with this host; of the oldest and the newest more than that."""
        with self.subTest(python=str(python)):
            ran = [suite(self, "port", ["smoke"], 300, HOST_PYTHON=python.path)]
            if ends:
                ran += [suite(self, folder, names, 600, [python.path],
                              HOST_PYTHON=python.executable) for folder, names in THOROUGH.items()]
                ran += [self.demo(python), self.many(python)]
            record("; ".join(ran), "ran", python=str(python), libc=python.libc,
                   compiler="default build", **columns)

    def command(self, python: Python, *words: str):
        return self.start([python.path, "-W", "error", HOST[1], "--name", self.name,
                           "--wait-client", *words])

    def quiet(self, err: str) -> None:
        """No warning, no traceback. A busy machine may make a host look stalled for a while."""
        for line in err.splitlines():
            self.assertRegex(line, "^cliente_c: .*: its host (is stalled|goes on)")

    def demo(self, python: Python) -> str:
        out, err = self.finish(self.command(python, "--", *CLIENT, "--count", "3000", self.name))
        self.quiet(err)
        for words in ("3000 in", "publish -> seen", "published"):
            self.assertIn(words, out)
        return "demo"

    def many(self, python: Python) -> str:
        out, err = self.finish(self.command(
            python, "--rate", "0", "--count", "200000", "--crc", "--quiet", "--stall-timeout", "30",
            "--", *CLIENT, "-l", "-v", "-n", "0", "--json", self.name))
        self.quiet(err)
        seen = json.loads(out)
        self.assertEqual([seen[key] for key in ("messages", "lost", "crc_errors", "verify_errors",
                                                "host_state")], [200000, 0, 0, 0, "closed"])
        return "200,000 messages with --crc, -W error"

    def refused(self, python: Python, what: str, *words: str, **columns: str) -> None:
        """One line with these words, whatever it is given."""
        with self.subTest(python=str(python)):
            for arguments in ([], ["--help"]):
                process = self.start([python.path, HOST[1], *arguments])
                out, err = self.finish(process, 1)
                self.assertEqual(out, "")
                self.one_line(err, "host.py", *words)
            record("one line that says " + what, "refused, as it should", python=str(python),
                   libc=python.libc, **columns)

    def in_tree(self, release: str, cpu: str) -> Python:
        tree = debian_tree(os.environ.get("SHMPRUEBA_TREES", self.trees.name), release, cpu)
        folders = {ROOT, os.path.dirname(NATIVE_CLIENT), tempfile.gettempdir()} - {"/tmp"}
        path = self.file("python", IN_TREE.format(tree=tree, folders=" ".join(
            f'"{folder}"' for folder in sorted(folders))).encode())
        os.chmod(path, 0o755)
        try:
            return ask(path)
        except ValueError as error:
            self.skipTest(f"not allowed here: unshare, mount, chroot: {error.doc[-200:]}")

    def test_cpython(self) -> None:
        wanted = [python for python in self.found if python.name == "CPython" and python.wide
                  and python.version >= (3, 8) and not python.free_threaded]
        self.assertTrue(wanted, "no CPython found, though one runs this")
        for python in wanted:
            self.check(python, python in (wanted[0], wanted[-1]))

    def test_newest_cpython(self) -> None:
        """That of Debian sid, which no machine at hand has."""
        self.check(self.in_tree("sid", "amd64"), True, os="Debian sid")

    def test_32_bits_give_one_line(self) -> None:
        """Its uname still says x86_64."""
        narrow = [python for python in self.found if not python.wide]
        for python in narrow or [self.in_tree("bookworm", "i386")]:
            self.refused(python, "64 bits are needed", "64-bit Python", "32-bit", cpu="i386")

    def test_free_threaded(self) -> None:
        wanted = [python for python in self.found if python.free_threaded]
        require(wanted, "no free-threaded CPython on this machine")
        for python in wanted:
            self.check(python, True)

    def test_other_interpreters_give_one_line(self) -> None:
        others = [python for python in self.found if python.name != "CPython"]
        require(others, "no PyPy, nor another interpreter, on this machine")
        for python in others:
            self.refused(python, "CPython is needed", "needs CPython", python.name.lower())

    def test_too_old_ones_give_one_line(self) -> None:
        old = [python for python in self.found if (3, 6) <= python.version < (3, 8)]
        require(old, "no Python 3.6 or 3.7 on this machine")
        for python in old:
            self.refused(python, "3.8 is needed", "3.8", "%d.%d" % python.version[:2])


if __name__ == "__main__":
    unittest.main()
