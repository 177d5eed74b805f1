"""loaded.py busy|limited COMMAND ARG...  runs COMMAND under load, and exits with its status.

busy     a process that only computes runs on each CPU; they end with this script, however it ends
limited  COMMAND and all that it starts have a fifth of one CPU (Linux, a cgroup that we may make:
         root, and the cpu controller; else one line says why not, and the status is 0)
"""
import os
import subprocess
import sys
from typing import Callable, List, Optional

BUSY = "import os, sys\nwhile os.getppid() == int(sys.argv[1]):\n    pass"
# Folder of the cgroups, file of the limit, text to write there: version 2, then version 1.
LIMITS = [("/sys/fs/cgroup", "cpu.max", "20000 100000"),
          ("/sys/fs/cgroup/cpu", "cpu.cfs_quota_us", "20000")]


def run(command: List[str], begin: Optional[Callable[[], None]] = None) -> int:
    """Its exit code. begin: what the new process calls first."""
    try:
        with subprocess.Popen(command, preexec_fn=begin) as process:
            while True:
                try:
                    return process.wait()
                except KeyboardInterrupt:
                    pass  # COMMAND has got it, too, and is about to end
    except OSError as error:
        sys.exit(f"loaded.py: {command[0]}: {error.strerror}")


def busy(command: List[str]) -> int:
    pins = hasattr(os, "sched_setaffinity")
    cpus = sorted(os.sched_getaffinity(0)) if pins else range(os.cpu_count() or 1)
    spinners = [subprocess.Popen(
        [sys.executable, "-c", BUSY, str(os.getpid())],
        preexec_fn=(lambda cpu=cpu: os.sched_setaffinity(0, {cpu})) if pins else None)
        for cpu in cpus]
    try:
        return run(command)
    finally:
        for spinner in spinners:
            spinner.kill()
            spinner.wait()


def write(path: str, text: str) -> None:
    """open(path, "w") would make a file where there is no such cgroup."""
    file = os.open(path, os.O_WRONLY)
    try:
        os.write(file, text.encode())
    finally:
        os.close(file)


def limited(command: List[str]) -> int:
    why = []
    for folder, file, text in LIMITS:
        group = os.path.join(folder, f"shmprueba-{os.getpid()}")
        try:
            os.mkdir(group)
        except OSError as error:
            why.append(f"{folder}: {error.strerror}")
            continue
        try:
            write(os.path.join(group, file), text)
            return run(command, lambda: write(os.path.join(group, "cgroup.procs"), "0"))
        except FileNotFoundError as error:
            why.append(f"{error.filename}: {error.strerror}")
        finally:
            try:
                os.rmdir(group)
            except OSError as error:
                print(f"loaded.py: {group}: {error.strerror}: COMMAND has left a process there")
    print("skipped: no cgroup with a limit of the CPU can be made here:", "; ".join(why))
    return 0


if __name__ == "__main__":
    ways = {"busy": busy, "limited": limited}
    if len(sys.argv) < 3 or sys.argv[1] not in ways:
        sys.exit(__doc__)
    sys.exit(ways[sys.argv[1]](sys.argv[2:]))
