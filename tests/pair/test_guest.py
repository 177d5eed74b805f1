"""A program of one's own: the library leaves its guest's process as it found it, and says in words
what it does not take."""
import copy
import os
import pickle
import platform
import re
import shlex
import shutil
import signal
import subprocess
import unittest

from support import HOST, ROOT, PairTest, require
from shmprueba import Error, Reader, Segment


class Guest(PairTest):
    """Scripts that a user could write, each in a process of its own, with -W error."""

    def script(self, text: str, *options: str, **popen) -> subprocess.Popen:
        return self.start([HOST[0], "-W", "error", *options, "-c",
                           "import shmprueba, sys\nNAME = sys.argv[1]\n" + text, self.name],
                          env={"PYTHONPATH": os.path.join(ROOT, "src")}, **popen)

    def test_another_personality(self) -> None:
        """setarch(8) renames the machine, not its instructions and calls: nothing changes."""
        other = {"x86_64": "i686", "aarch64": "armv8l"}.get(platform.machine())
        require(other and shutil.which("setarch"), "no setarch, or no other name for this machine")
        script = ("import platform, shmprueba as s; "
                  "print(s.FUTEX, s.PROVED, s.WEAK, platform.machine())")
        said = [self.finish(self.start([*setarch, HOST[0], "-c", script], env={
            "PYTHONPATH": os.path.join(ROOT, "src")}))[0].split()
            for setarch in ([], ["setarch", other])]
        self.assertEqual(said[0][:3], said[1][:3])
        self.assertEqual([words[3] for words in said], [platform.machine(), other])

    def test_what_is_given_wrongly(self) -> None:
        for words, options in (
                ("size 0: 1 to", {"size": 0}), ("size -1:", {"size": -1}),
                ("size 1073741825:", {"size": (1 << 30) + 1}),
                ("slots 1000: a power of two", {"slots": 1000}), ("slots 1:", {"slots": 1}),
                ("slots 0:", {"slots": 0}), ("slots 131072:", {"slots": 131072}),
                ("slots -4:", {"slots": -4}), ("stall_timeout 0:", {"stall_timeout": 0}),
                ("stall_timeout -1:", {"stall_timeout": -1}),
                ("stall_timeout nan:", {"stall_timeout": float("nan")}),
                ("wait 'yield': spin or block", {"wait": "yield"}),
                ("schema 'x': 'x' is not name:type", {"schema": "x"}),
                ("size 4: the schema has 8 bytes", {"size": 4, "schema": "a:Q"}),
                ("give a text or a ctypes.Structure", {"schema": 5}),
                ("is empty", {"name": ""}), ("only a slash", {"name": "/"}),
                ("a slash inside", {"name": "a/b"}), ("is a folder", {"name": ".."}),
                ("a colon", {"name": "a:b"}), ("too long", {"name": "a" * 256}),
                ("other than printable ASCII", {"name": "caf\xe9"}),
                ("other than printable ASCII", {"name": "a\0b"}),
                ("is not a string", {"name": None}),
                ("is not a string", {"name": b"x"}), ("size '1'", {"size": "1"}),
                ("slots 2.0", {"slots": 2.0}), ("stall_timeout '1'", {"stall_timeout": "1"}),
                ("idle 5: a function", {"idle": 5})):
            with self.subTest(options=options), self.assertRaisesRegex(Error, re.escape(words)) as (
                    refused):
                Segment(**{"name": self.name, **options})
            self.assertEqual(refused.exception.kind, "usage")
            self.assertFalse(self.segment_exists())
            if "name" in options:
                with self.assertRaisesRegex(Error, re.escape(words)):
                    Reader(options["name"], timeout=0)

        with self.assertRaisesRegex(Error, "lane 2: DOWN or UP"):
            Reader(self.name, lane=2)

    def test_errors_travel(self) -> None:
        """To another process, say from a worker of multiprocessing to the pool's owner."""
        with self.assertRaises(Error) as raised:
            Reader(self.name, timeout=0)
        for same in (raised.exception, pickle.loads(pickle.dumps(raised.exception)),
                     copy.copy(raised.exception)):
            self.assertIs(type(same), Error)
            self.assertEqual(same.kind, "absent")
            self.assertIn("no host: there is no such segment", str(same))

    def test_any_whole_number(self) -> None:
        class Number:  # as numpy.int64
            def __index__(self) -> int:
                return 8
        with Segment(self.name, size=Number(), slots=Number()) as segment:
            self.assertEqual((segment.capacity, segment.slot_count), (8, 8))

    def test_with_slash_or_without(self) -> None:
        for name in (self.name, "/" + self.name):
            with Segment(name) as segment, Reader(self.name), Reader("/" + self.name):
                self.assertEqual(segment.name, "/" + self.name)
                self.assertTrue(self.segment_exists())

    def test_the_process_is_left_as_it_was(self) -> None:
        """Signals, handlers, affinity, umask, timer slack, and the standard library's own names."""
        self.finish(self.script('''
import os, signal
from multiprocessing import resource_tracker, shared_memory
def state():
    slack = open("/proc/self/timerslack_ns").read() if os.path.exists(
        "/proc/self/timerslack_ns") else ""
    os.umask(old := os.umask(0))
    return (signal.pthread_sigmask(signal.SIG_BLOCK, ()), os.sched_getaffinity(0), slack, old,
            [signal.getsignal(n) for n in range(1, 32)], sys.excepthook, sys.unraisablehook,
            resource_tracker.register, resource_tracker.unregister, shared_memory.SharedMemory,
            vars(shared_memory.SharedMemory).copy(), sys.stdout, sys.argv, os.getcwd())
for mask in ({signal.SIGHUP}, set(), {signal.SIGHUP, signal.SIGINT, signal.SIGTERM}):
    signal.pthread_sigmask(signal.SIG_SETMASK, mask)
    before = state()
    with shmprueba.Segment(NAME, receive=True) as segment:
        assert state() == before, "a segment"
        with shmprueba.Reader(NAME) as reader:
            segment.send(b"x")
            reader.confirm(reader.receive())
            segment.receive(0)
            for wrong in ({}, {"name": "a:b"}, {"slots": 3}):
                try:
                    shmprueba.Segment(**{"name": NAME, **wrong})
                except shmprueba.Error:
                    pass
            assert state() == before, "its use"
    assert state() == before, "its end"
'''))

    ENDS = {  # how a script ends: (its last lines, exit code, last line on standard error)
        "by itself": ("pass", 0, ""),
        "exit": ("sys.exit(7)", 7, ""),
        "exception": ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        "the library's": ("segment.send(bytes(65))", 1, "shmprueba.Error: 65 bytes: this segment's "
                          "messages have 64 at most"),
        "Ctrl-C": ("import os, signal; os.kill(os.getpid(), signal.SIGINT); import time; "
                   "time.sleep(60)", -signal.SIGINT, "KeyboardInterrupt")}
    VIEWS = {  # what it still holds then
        "nothing": "pass",
        "a reserved view": "view = segment.reserve()",
        "a message": "segment.send(b'x'); view = reader.receive()",
        "a copy of a view": "view = segment.reserve()[3:].cast('B'); other = memoryview(view)",
        "ctypes": "import ctypes; view = (ctypes.c_char * 64).from_buffer(segment.reserve())",
        "numpy": "import numpy; view = numpy.frombuffer(segment.reserve(), numpy.uint8)"}

    def test_ends(self) -> None:
        """The user's own traceback, and nothing else; nothing is left in /dev/shm."""
        try:
            import numpy  # noqa: F401
        except ImportError:
            self.VIEWS.pop("numpy", None)
        for end, (last, code, words) in self.ENDS.items():
            for held, view in self.VIEWS.items():
                if held not in ("numpy", "a message") and end not in ("by itself", "exception"):
                    continue
                with self.subTest(end=end, held=held):
                    _, err = self.finish(self.script(
                        "with shmprueba.Segment(NAME) as segment, shmprueba.Reader(NAME) as reader:"
                        f"\n    {view}\n    {last}\n"), code)
                    self.assertEqual(err.splitlines()[-1:], [words] if words else [], err)
                    self.assertEqual(err.count("Traceback"), int(bool(words)), err)
                    for word in ("BufferError", "leaked", "tracker", "ignored", "Warning"):
                        self.assertNotIn(word, err)
                    self.assertFalse(self.segment_exists())

    def test_ends_without_with(self) -> None:
        """It never closes: nothing is printed but its own, and nothing is left behind."""
        for last, code in (("", 0), ("1 / 0", 1)):
            _, err = self.finish(self.script(
                "segment = shmprueba.Segment(NAME); reader = shmprueba.Reader(NAME)\n"
                f"view = segment.reserve()\nsegment.send(b'x'); message = reader.receive()\n{last}"
            ), code)
            self.assertEqual((err.count("Traceback"), err.count("Error")), (code, code), err)
            self.assertNotIn("leaked", err)
            self.assertFalse(self.segment_exists())

    def test_views_stay_valid(self) -> None:
        """Each keeps the memory until it goes; another segment of that name is not in it."""
        segment = Segment(self.name)
        segment.send(b"x")
        view = segment.reserve()
        view[:5] = b"alive"
        segment.close()
        with Segment(self.name) as other:
            other.send(b"other" * 9)
            other.send(b"other" * 9)
            self.assertEqual(bytes(view[:5]), b"alive")
            view[:5] = b"write"
            self.assertEqual(bytes(view[:5]), b"write")

    def test_a_file_size_limit(self) -> None:
        """SharedMemory itself is refused: one line, or one Error; nothing of the tracker's."""
        limit = ["sh", "-c", 'ulimit -f 100 && exec "$@"', "sh"]
        _, err = self.finish(self.start([*limit, *self.host_words("--size", 1_000_000)]), 1)
        self.one_line(err, "/" + self.name, "cannot create", "File too large")
        self.assertFalse(self.segment_exists())
        _, err = self.finish(self.start(
            [*limit, HOST[0], "-W", "error", "-c", "import sys, shmprueba\n"
             "try:\n    shmprueba.Segment(sys.argv[1], 1000000)\n"
             "except shmprueba.Error as error:\n    sys.exit(f'{error.kind}: {error}')", self.name],
            env={"PYTHONPATH": os.path.join(ROOT, "src")}), 1)
        self.one_line(err, "system: cannot create", "File too large")
        self.assertFalse(self.segment_exists())

    def test_a_32_bit_python(self) -> None:
        """linux32 does not make one: its own word for its size does."""
        for words in ("import host", "import runpy; sys.argv[0] = 'host.py'; "
                      f"runpy.run_path({HOST[1]!r}, run_name='__main__')", "import shmprueba"):
            process = self.start([HOST[0], "-c", f"import sys; sys.maxsize = (1 << 31) - 1; "
                                  f"sys.path[:0] = [{ROOT!r}, {ROOT + '/src'!r}]\n"
                                  f"try:\n    {words}\nexcept ImportError as error:\n"
                                  "    sys.exit(str(error))"])
            self.one_line(self.finish(process, 1)[1], "64-bit Python")

    def test_a_32_bit_compiler(self) -> None:
        compiler = shutil.which(os.environ.get("CC", "cc"))
        require(compiler, "no compiler")
        command = [compiler, "-std=c11", "-ffreestanding", "-fsyntax-only", "-x", "c"]
        empty = self.file("empty.h", b"#include <stdint.h>\nint x;\n")
        small = subprocess.run([*command, "-m32", empty], stderr=subprocess.DEVNULL)
        require(small.returncode == 0, "this compiler makes no 32-bit code")
        header = os.path.join(ROOT, "include", "shm_layout.h")
        self.finish(self.start([*command, header]))
        _, err = self.finish(self.start([*command, "-m32", header]), 1)
        self.assertIn("shmprueba needs a 64-bit build", err)

    def test_a_cpp_compiler(self) -> None:
        """One line says it, before the errors that follow from it."""
        require(shutil.which("g++"), "no g++")
        _, err = self.finish(self.start(["g++", "-fsyntax-only", "-x", "c++", os.path.join(
            ROOT, "include", "shm_waiter.h")]), 1)
        self.assertIn("these headers are for C", err.split("error:")[1])

    def test_an_odd_interpreter(self) -> None:
        """Python 3.6, and one that is not CPython: one line each."""
        for change, words in (("sys.version_info = (3, 6, 9)", "needs Python 3.8 or newer"),
                              ("sys.implementation.name = 'pypy'", "needs CPython, this is pypy")):
            process = self.start([HOST[0], "-c", f"import sys; {change}; import runpy; "
                                  f"runpy.run_path({HOST[1]!r}, run_name='__main__')"])
            self.one_line(self.finish(process, 1)[1], words)

    def test_threads(self) -> None:
        """One thread at a time may use it, whichever; a Reader of its own in each is fine."""
        self.finish(self.script('''
import threading
with shmprueba.Segment(NAME, slots=1024) as segment:
    def read(out):
        with shmprueba.Reader(NAME, timeout=60) as reader:
            ready.release()
            for message in reader:
                out.append(bytes(message.payload))
                assert reader.confirm(message)
    ready, found = threading.Semaphore(0), [[] for _ in range(3)]
    threads = [threading.Thread(target=read, args=[out], daemon=True) for out in found]
    for thread in threads:
        thread.start()
    for thread in threads:
        ready.acquire()
    for n in range(4):  # a sender after another, each in a thread of its own
        sender = threading.Thread(target=lambda: [segment.send(b"%d" % i) for i in range(50)])
        sender.start()
        sender.join()
for thread in threads:
    thread.join()
assert found == [[b"%d" % i for i in range(50)] * 4] * 3, found
'''))


class Project(PairTest):
    """Another CMake project builds on the C half, from the source tree or as it is installed."""

    MAIN = b"""#include "shm_waiter.h"
#include <stdio.h>
int main(void)
{
    struct shm_segment segment = {0};
    printf("%d\\n", (int)shm_segment_attach(&segment, "no-such-host", NULL, 0) == SHM_ABSENT);
    shm_segment_detach(&segment);
    return 0;
}
"""

    def cmake(self, *words: str, cwd: str = "", code: int = 0) -> str:
        out, err = self.finish(self.start(["cmake", *words], cwd=cwd or self.folder.name), code)
        return out + err

    def setUp(self) -> None:
        super().setUp()
        require(shutil.which("cmake"), "no cmake")

    def foreign(self, lines: str) -> str:
        """Builds a project of this CMakeLists.txt. @return its build folder"""
        for name in ("foreign project", "foreign project/build"):
            os.mkdir(self.path(name))
        self.file("foreign project/main.c", self.MAIN)
        self.file("foreign project/CMakeLists.txt", (
            "cmake_minimum_required(VERSION 3.10)\nproject(foreign C)\nenable_testing()\n"
            "add_compile_options(-D_GNU_SOURCE -Werror)\n" + lines + "\nadd_executable(mine main.c)"
            "\ntarget_link_libraries(mine PRIVATE shmprueba)\n").encode())
        build = self.path("foreign project/build")
        self.cmake("..", cwd=build)  # as CMake 3.10 has it
        self.cmake("--build", ".", cwd=build)
        self.assertEqual(self.finish(self.start([build + "/mine"]))[0], "1\n")
        return build

    def test_add_subdirectory(self) -> None:
        """The target shmprueba, and nothing else: no program, no test."""
        build = self.foreign(f'add_subdirectory("{ROOT}" shm)')
        made = [name for _, _, names in os.walk(build) for name in names
                if name in ("cliente_c", "cliente_c.exe") or name.startswith("test_")]
        self.assertEqual(made, [])
        targets = self.cmake("--build", ".", "--target", "help", cwd=build)
        for target in ("cliente_c", "check", "demo", "test_programs", "test_lane"):
            self.assertNotRegex(targets, rf"(?m)[ :.]{target}\b")
        self.assertRegex(targets, r"(?m)\bshmprueba\b")
        out, err = self.finish(self.start(["ctest", "-N"], cwd=build), None)
        self.assertIn("Total Tests: 0", out + err)

    def test_install(self) -> None:
        """The client, headers, the static library and shmprueba.py; a plain compiler call."""
        build, prefix = self.path("build folder"), self.path("prefix")
        os.mkdir(build)
        self.cmake(ROOT, f"-DCMAKE_INSTALL_PREFIX={prefix}", "-DCMAKE_INSTALL_LIBDIR=lib",
                   cwd=build)
        self.cmake("--build", ".", "--target", "cliente_c", cwd=build)
        self.cmake("--build", ".", "--target", "install", cwd=build)
        found = sorted(os.path.relpath(os.path.join(path, name), prefix)
                       for path, _, names in os.walk(prefix) for name in names)
        headers = sorted(os.path.join("include", name)
                         for name in os.listdir(os.path.join(ROOT, "include")))
        self.assertEqual(found, sorted(["bin/cliente_c", *headers, "lib/libshmprueba.a",
                                        "share/shmprueba/shmprueba.py"]))
        source, program = self.file("main.c", self.MAIN), self.path("mine")
        self.finish(self.start(["cc", "-std=c11", source, "-I", prefix + "/include", "-L",
                                prefix + "/lib", "-lshmprueba",
                                *shlex.split(os.environ.get("SHM_LIBS", "-lrt")), "-o", program]))
        self.assertEqual(self.finish(self.start([program]))[0], "1\n")
        self.finish(self.start([HOST[0], "-c", "import shmprueba; shmprueba.Segment(size=0)"],
                               env={"PYTHONPATH": prefix + "/share/shmprueba"}), 1)
        self.finish(self.start([prefix + "/bin/cliente_c", "--version"]))

    def test_ctest_builds_what_it_needs(self) -> None:
        """cmake .. && ctest, in a folder with a space; what make alone does not build."""
        build = self.path("build folder")
        os.mkdir(build)
        self.cmake(ROOT, "-DCMAKE_BUILD_TYPE=Debug", cwd=build)
        out, err = self.finish(self.start(["ctest", "-R", "^unit_name$"], cwd=build))
        self.assertRegex(out + err, r"unit_name .*Passed")


if __name__ == "__main__":
    unittest.main()
