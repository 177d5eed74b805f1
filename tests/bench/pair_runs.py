"""Runs of the real pair for bench_wait.py: start, wait, read the JSON, leave nothing."""
import contextlib
import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from statistics import median
from typing import Dict, List, NamedTuple, Sequence, Tuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, os.path.join(ROOT, "src"))
from shmprueba import libc  # noqa: E402

READER = os.environ.get("BENCH_READER", os.path.join(ROOT, "build", "tests", "bench_reader"))
PR_SET_PDEATHSIG, LONGEST_S = 1, 60
NAME = f"shmwait-{os.getpid()}"
TIMER_SLACK = """import ctypes, json, time
ctypes.CDLL(None).prctl(29, 1, 0, 0, 0)
now = time.monotonic_ns
"""
NOISE = TIMER_SLACK + """while True:
    time.sleep(250e-6)
    end = now() + 250_000
    while now() < end:
        pass"""
SLEEPS = TIMER_SLACK + """late = []
for _ in range(600):
    begin = now()
    time.sleep(1e-3)
    late.append(now() - begin - 1_000_000)
late.sort()
print(json.dumps({f"p{p}": late[6 * p] for p in (50, 90, 97, 99)}))"""


class Failed(Exception):
    """A run did not do what it must."""


class Version(NamedTuple):
    host: str
    client: str


NOW = Version(os.path.join(ROOT, "host.py"),
              os.environ.get("CLIENTE_C", os.path.join(ROOT, "build", "cliente_c")))


def build(revision: str, folder: str) -> Version:
    """Both programs as they were at this revision, in a folder that the caller removes."""
    packed = subprocess.run(["git", "-C", ROOT, "archive", revision], stdout=subprocess.PIPE,
                            check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as tree:
        tree.extractall(folder)
    for command in (["cmake", "-S", folder, "-B", folder + "/build"],
                    ["cmake", "--build", folder + "/build", "--target", "cliente_c"]):
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return Version(folder + "/host.py", folder + "/build/cliente_c")


class Runs:
    """Processes of one measurement; all of them end with it, however it ends."""

    def __init__(self, cpus: Sequence[int]) -> None:
        self.cpus, self.processes = list(cpus), []
        self.others = self.cpus[1:] or self.cpus  # CPUs for readers; the first is the host's

    def start(self, command: List[str], cpus: Sequence[int], **pipes: object) -> subprocess.Popen:
        def prepare() -> None:
            libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
            os.sched_setaffinity(0, cpus)

        process = subprocess.Popen(command, preexec_fn=prepare, text=True, **pipes)
        self.processes.append(process)
        return process

    def __enter__(self) -> "Runs":
        return self

    def __exit__(self, *_why: object) -> None:
        """Clients and hosts end by themselves where all went well; else they are asked to."""
        for process in reversed(self.processes):
            if process.poll() is None:
                process.terminate()
        for process in self.processes:
            try:
                process.wait(5)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
            for stream in (process.stdin, process.stdout):
                if stream:
                    stream.close()
        self.processes.clear()

    def figures(self, process: subprocess.Popen) -> dict:
        out = process.communicate(timeout=LONGEST_S)[0]
        if process.returncode:
            raise Failed(f"{' '.join(process.args)}: exit {process.returncode}")
        return json.loads(out.splitlines()[-1])

    def noise(self) -> Dict[str, int]:
        """Makes sleeps late until the next run has ended: a process on each CPU that wakes 2,000
        times a second, and works for 250 us each. @return by how much they are, in ns."""
        for cpu in self.cpus:
            self.start([sys.executable, "-c", NOISE], [cpu])
        command = [sys.executable, "-c", SLEEPS]
        return self.figures(self.start(command, self.others[:1], stdout=subprocess.PIPE))

    @staticmethod
    def wait_for_maps(processes: Sequence[subprocess.Popen]) -> None:
        """Until each of them has the segment, or has ended."""
        deadline = time.monotonic() + LONGEST_S
        for process in processes:
            while process.poll() is None and time.monotonic() < deadline:
                with open(f"/proc/{process.pid}/maps") as maps:
                    if NAME in maps.read():
                        break
                time.sleep(.005)

    def client(self, version: Version, arguments: Sequence[str],
               cpus: Sequence[int]) -> subprocess.Popen:
        return self.start([version.client, "--timeout", "30", "--count", "0", "--json", *arguments,
                           NAME], cpus, stdout=subprocess.PIPE)

    def pair(self, version: Version, host_arguments: Sequence[str],
             *clients: Sequence[str], seconds: float = 0, burn: bool = False,
             on: Sequence[int] = ()) -> Tuple[dict, List[dict]]:
        """(host's JSON, the clients'): the host on the first CPU, each client on one of the others,
        or all of them where these are. seconds: the host is ended then, else by its --count.
        burn: a process that does nothing else on each CPU."""
        if burn:
            for cpu in self.cpus:
                self.start(["sh", "-c", "while :; do :; done"], [cpu])
        server = self.start([sys.executable, version.host, "--name", NAME, "--json",
                             "--stall-timeout", "60",
                             *(["--wait-client"] if clients else []), *host_arguments],
                            on or self.cpus[:1], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        readers = [self.client(version, each, on or [self.others[i % len(self.others)]])
                   for i, each in enumerate(clients)]
        if seconds:
            self.wait_for_maps([server, *readers])
            time.sleep(seconds)
            server.send_signal(signal.SIGINT)
        found = self.figures(server), [self.figures(reader) for reader in readers]
        self.__exit__()
        first = found[1][0] if len(clients) == 1 else None  # of many, one may be late
        if first and first["messages"] + first["lost"] != found[0]["published"]:
            raise Failed(f"{first['messages']} messages and {first['lost']} lost of "
                         f"{found[0]['published']}")
        return found

    def rhythm(self, phases: Sequence[str], *modes: str, seed: int = 0, reader: str = "",
               host_on: Sequence[int] = (), on: Sequence[int] = ()) -> Tuple[dict, List[dict]]:
        """(JSON of rhythm.py, of a client for each mode), which are all there before it begins, and
        are cliente_c; reader: bench_reader with this job, "trace": its JSON has each age."""
        server = self.start([sys.executable, os.path.join(HERE, "rhythm.py"), NAME,
                             str(len(modes)), str(seed), *phases], host_on or self.cpus[:1],
                            stdout=subprocess.PIPE)
        if server.stdout.readline() != "live\n":
            raise Failed("rhythm.py did not start")
        readers = [self.start([READER, "shm", mode, "64", "0", reader, "-1", NAME],
                              on or self.others, stdout=subprocess.PIPE) if reader else
                   self.client(NOW, ["--wait", mode], on or self.others) for mode in modes]
        found = self.figures(server), [self.figures(reader) for reader in readers]
        self.__exit__()
        return found

    def attach_us(self, version: Version, times: int) -> float:
        """Open, stat, map and check: the median of some clients of one host."""
        self.start([sys.executable, version.host, "--name", NAME, "--quiet"], self.cpus[:1])
        took = []
        for _ in range(times):
            client = self.client(version, ["--count", "1"], self.others)
            steps: Dict[str, float] = self.figures(client)["attach_us"]
            took.append(sum(steps[step] for step in ("open", "stat", "map", "check")))
        self.__exit__()
        return median(took)
