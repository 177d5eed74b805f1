"""What the port tests share: tools, builds, a suite run elsewhere, and the rows of the table."""
import glob
import json
import os
import platform
import re
import shlex
import shutil
import signal
import subprocess
import sys
from typing import Dict, List, Optional, Sequence, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, os.path.join(os.path.dirname(HERE), "pair"))

import support  # noqa: E402  (tests/pair: programs, names, watchdog)
from support import ROOT, require  # noqa: E402,F401

SOURCES = sorted(path for folder in ("src", "src/cliente")
                 for path in glob.glob(os.path.join(ROOT, folder, "*.c")))
NATIVE_CLIENT = os.environ.get("CLIENTE_C", os.path.join(ROOT, "build", "cliente_c"))
BUILD_S = 300  # the watchdog of one compiler run


def project_warnings() -> List[str]:
    """The warnings that CMakeLists.txt asks for, so that the two cannot differ."""
    with open(os.path.join(ROOT, "CMakeLists.txt")) as text:
        options = re.search(r"set\(SHM_OPTIONS (-Wall[^)]*)\)", text.read())
    return options.group(1).split()


FLAGS = project_warnings() + ["-Werror", "-I", os.path.join(ROOT, "include")]


def run(command: Sequence[str], seconds: float = 60, **popen) -> Tuple[int, str]:
    """(exit code, what it said on both streams). A hang is an exception, and its group is ended."""
    process = subprocess.Popen(list(command), stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                               stderr=subprocess.STDOUT, text=True, errors="replace",
                               start_new_session=True, **popen)
    try:
        out, _ = process.communicate(timeout=seconds)
        return process.returncode, out
    except BaseException:
        end_session(process.pid)
        process.communicate()
        raise


def end_session(leader: int) -> None:
    """Kills what the session still runs, and removes the segments that it has mapped."""
    segments = set()
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            if os.getsid(pid) == leader:
                with open(f"/proc/{pid}/maps") as maps:
                    segments.update(re.findall(r"/dev/shm/t[0-9a-f]{12}", maps.read()))
                os.kill(pid, signal.SIGKILL)
        except OSError:
            pass  # it has ended meanwhile
    for path in segments:
        if os.path.exists(path):
            os.unlink(path)


def version_line(tool: str) -> str:
    return run([tool, "--version"])[1].split("\n")[0].strip()


def link_options(compiler: Sequence[str]) -> List[str]:
    """The library that has shm_open: as CMake found it for this system's libc; Zig has its own."""
    if "-c" in compiler:
        return []
    if "-target" in compiler:
        return ["-lrt"] if "gnu.2.27" in " ".join(compiler) else []
    return shlex.split(os.environ.get("SHM_LIBS", ""))


def build(test: support.PairTest, compiler: Sequence[str], output: str,
          sources: Optional[Sequence[str]] = None, env: Optional[Dict[str, str]] = None) -> str:
    """Compiles and links the client. Anything that the compiler says is a failure."""
    command = [*compiler, *FLAGS, *(sources or SOURCES), "-o", output]
    command += link_options(compiler)
    code, said = run(command, BUILD_S, env={**os.environ, **(env or {})})
    if code != 0 or said:
        test.fail(f"exit {code}: {shlex.join(command)}\n{said}")
    return output


def suite(test: support.PairTest, folder: str, names: Sequence[str], seconds: float,
          python: Sequence[str] = (sys.executable,), **env: str) -> str:
    """Runs unittest modules of tests/FOLDER with these environment variables: 'n tests'."""
    command = [*python, "-m", "unittest", "-v", *names]
    code, said = run(command, seconds, cwd=os.path.join(os.path.dirname(HERE), folder), env={
        **os.environ, "TMPDIR": test.folder.name, "PYTHONDONTWRITEBYTECODE": "1",
        "HOST_PYTHON": sys.executable,  # not a script that starts it: signals would end the script
        **env})
    ran = re.search(r"^Ran (\d+) tests?", said, re.M)
    skipped = re.search(r"skipped=(\d+)", said)
    count = (int(ran.group(1)) if ran else 0) - (int(skipped.group(1)) if skipped else 0)
    test.assertTrue(code == 0 and count > 0, f"{shlex.join(command)} {env}\n{said}")
    return f"{folder} {', '.join(n.replace('test_', '') for n in names)}: {count} tests"


def record(what: str, result: str, **columns: str) -> None:
    """One row for matrix.py. The columns: cpu, os, libc, python, compiler."""
    folder = os.environ.get("BUILD_DIR")
    if not folder:
        return
    row = {"os": system_name(), "libc": "-".join(platform.libc_ver()).replace("glibc-", "glibc "),
           "cpu": platform.machine(), "compiler": "",
           "python": f"{platform.python_implementation()} {platform.python_version()}",
           **columns, "what": what, "result": result}
    with open(os.path.join(folder, "port-results.jsonl"), "a") as out:
        out.write(json.dumps(row) + "\n")  # one write, so that tests may run side by side


def system_name() -> str:
    try:
        with open("/etc/os-release") as release:
            found = dict(line.rstrip().split("=", 1) for line in release if "=" in line)
        return found["PRETTY_NAME"].strip('"').split(" (")[0]
    except (OSError, KeyError):
        return platform.system()


def need(*tools: str) -> None:
    for tool in tools:
        require(shutil.which(tool), f"{tool} is not installed")


class PortTest(support.PairTest):
    """A PairTest that also builds clients, in its own temp folder."""

    def setUp(self) -> None:
        super().setUp()
        os.chmod(self.folder.name, 0o755)  # some tests run the client as another user

    def layout(self, command: Sequence[str]) -> str:
        code, said = run([*command, "--layout"])
        self.assertEqual(code, 0, said)
        return said

    def cmake(self, *options: str, **env: str) -> str:
        """The client as CMake builds it with these options and environment variables."""
        need("cmake")
        os.mkdir(self.path("b"))
        for command in (["cmake", "-DSHMPRUEBA_WERROR=ON", *options, ROOT],
                        ["cmake", "--build", ".", "--target", "cliente_c"]):
            code, said = run(command, BUILD_S, cwd=self.path("b"), env={**os.environ, **env})
            self.assertEqual(code, 0, said)
            self.assertNotIn("warning:", said)
        return os.path.join(self.path("b"), "cliente_c")

    @staticmethod
    def image(program: str) -> bytes:
        with open(program, "rb") as code:
            return code.read()

    def check_layout(self, *command: str) -> None:
        self.assertEqual(self.layout(command), self.layout([NATIVE_CLIENT]))
