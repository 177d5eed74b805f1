"""Every exit code is one of the table, whatever the standard streams and the environment are.

What could not be written counts (exit 1) where it was the result, and not where it was a remark.
"""
import os
import pty
import unittest
from typing import Dict, List, Optional, Tuple

from support import CLIENT, HOST, PairTest

SYSTEM, USAGE, NO_HOST = 1, 2, 3
FINE, CLOSED, FULL, UNREAD, HUNG_UP = "fine", "closed", "/dev/full", "reader gone", "hung up"

# (how it ends, what stands on standard output then is the result?, options)
HOST_RUNS: List[Tuple[int, bool, List[str]]] = [
    (0, True, ["--count", "3"]),
    (0, True, ["--count", "3", "--json"]),
    (0, False, ["--count", "3", "--quiet"]),
    (0, True, ["--sink", "-", "--", *CLIENT, "-q", "--source", "/proc/version", "NAME"]),
    (0, True, ["--help"]),
    (SYSTEM, False, ["--count", "3", "--input", "/nowhere"]),
    (USAGE, False, ["--frobnicate"])]
CLIENT_RUNS: List[Tuple[int, bool, List[str]]] = [
    (0, True, ["-n", "3", "NAME"]),
    (0, True, ["-n", "3", "--json", "NAME"]),
    (0, False, ["-n", "3", "--quiet", "NAME"]),
    (0, True, ["-n", "3", "--output", "-", "NAME"]),
    (0, True, ["--layout"]),
    (NO_HOST, False, ["-t", "0", "-q", "NAME-not"]),
    (USAGE, False, ["--frobnicate"])]

# (variables, options of Python, umask). Nothing else is there: not what the developer has.
ENVIRONMENTS: List[Tuple[Dict[str, str], List[str], str]] = [
    ({}, [], "022"),
    ({"PYTHONUNBUFFERED": "1", "LANG": "C.UTF-8"}, [], "077"),
    ({"PYTHONIOENCODING": "ascii:strict", "LC_ALL": "xx_YY"}, ["-O"], "777"),
    ({"PYTHONIOENCODING": "utf-16", "PYTHONUTF8": "0", "LC_ALL": "C"}, [], "000"),
    ({"PYTHONWARNINGS": "error", "PYTHONUTF8": "1"}, ["-u"], "022"),
    ({"PYTHONDEVMODE": "1"}, [], "022"),
    ({"TERM": "xterm"}, ["-I"], "022")]

# In the first environment: each of them on standard output where the result stands there, and on
# standard error in turn. The others get the worst of it.
BAD = (CLOSED, FULL, UNREAD, HUNG_UP)


def end_of(kind: str, number: int) -> Tuple[Optional[int], str]:
    """(a descriptor or None, a redirection for the shell): standard stream `number`, that bad."""
    if kind == UNREAD:
        reader, writer = os.pipe()
        os.close(reader)
        return writer, ""
    if kind == HUNG_UP:
        terminal, writer = pty.openpty()
        os.close(terminal)
        return writer, ""
    return None, {FINE: "", CLOSED: f" {number}>&-", FULL: f" {number}>/dev/full"}[kind]


class Streams(PairTest):
    def run_one(self, program: List[str], run: Tuple[int, bool, List[str]], out: str, err: str,
                environment: Tuple[Dict[str, str], List[str], str]) -> None:
        code, is_result, options = run
        variables, _, mask = environment
        (out_fd, to), (err_fd, err_to) = end_of(out, 1), end_of(err, 2)
        command = ["env", "-i", "PATH=/usr/bin:/bin", "PYTHONDONTWRITEBYTECODE=1",
                   *(f"{key}={value}" for key, value in variables.items()),
                   "sh", "-c", f'umask {mask}; exec "$0" "$@"{to}{err_to}', *program,
                   *(option.replace("NAME", self.name) for option in options)]
        if code == 0 and is_result and out != FINE:
            code = SYSTEM
        with self.subTest(out=out, err=err, command=command[2:]):
            popen = {key: fd for key, fd in (("stdout", out_fd), ("stderr", err_fd)) if fd}
            process = self.start(command, text=False, **popen)
            for fd in popen.values():
                os.close(fd)
            _, said = self.finish(process, code)
            if err == FINE and "--sink" not in options and "--output" not in options:
                self.assertEqual(said.count(b"\n"), int(code != 0), said)  # one line, or none

    def table(self, program: List[str], runs: List[Tuple[int, bool, List[str]]]) -> None:
        for environment in ENVIRONMENTS:
            words = [program[0], *environment[1], *program[1:]] if program is HOST else program
            if environment != ENVIRONMENTS[0]:
                self.run_one(words, runs[1], FULL, FULL, environment)
                self.run_one(words, runs[1], FINE, FINE, environment)
                continue
            for i, run in enumerate(runs):
                for out in BAD if run[1] else ():
                    self.run_one(words, run, out, FINE, environment)
                for kind in (BAD[i % 4], BAD[(i + 1) % 4]):
                    self.run_one(words, run, FINE if run[1] else kind, kind, environment)

    def test_host(self) -> None:
        self.table(HOST, [(code, is_result, ["--name", self.name] + options)
                          for code, is_result, options in HOST_RUNS])
        self.assertFalse(self.segment_exists())

    def test_client(self) -> None:
        host = self.host("--quiet")
        self.wait_live()
        self.table(CLIENT, CLIENT_RUNS)
        host.terminate()
        self.finish(host)


if __name__ == "__main__":
    unittest.main()
