"""Something happens before each line of shmprueba.py in turn, while a host starts or ends.

    steps.py NAME CLIENT killed | held | unlinked

A forked child makes a Segment (killed, held), or makes and closes one (killed, unlinked), under a
trace function that counts lines. Its parent judges what is left. Prints how many lines there were,
and what was seen. Not a test by itself: test_start_faults.py runs it.
"""
import contextlib
import os
import signal
import subprocess
import sys
from collections import Counter

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../src"))
import shmprueba  # noqa: E402

SIZES = {"size": 64, "slots": 4}
# Python's resource tracker: all of these processes would share one, or start one each.
shmprueba.resource_tracker.register = lambda *_: None
shmprueba.resource_tracker.unregister = lambda *_: None


def before_line(number: int, action) -> None:
    """Lets action happen before the number-th line of the library that is executed from now on,
    each counted twice at most: what goes round a loop again may start over."""
    lines: Counter = Counter()

    def trace(frame, event, _argument):
        if frame.f_code.co_filename != shmprueba.__file__:
            return None
        if event == "line" and lines[frame.f_lineno] < 2:
            lines[frame.f_lineno] += 1
            if sum(lines.values()) == number:
                action()
        return trace
    sys.settrace(trace)


def forked(run) -> int:
    """The pid of a child that runs it: exit 0; an exception is printed: exit 1."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            run()
            code = 0
        except BaseException:  # noqa: B902
            sys.settrace(None)
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    return pid


def begin_and_end(name: str) -> None:
    with shmprueba.Segment(name, receive=True, **SIZES) as segment:
        segment.send(b"1")


def killed(name: str, client: str, number: int) -> str:
    """It is killed; the next host starts. "": there are fewer lines."""
    def run() -> None:
        before_line(number, lambda: os.kill(os.getpid(), signal.SIGKILL))
        begin_and_end(name)

    status = os.waitpid(forked(run), 0)[1]
    if status == 0:
        return ""
    assert os.WIFSIGNALED(status), f"line {number}: status {status}"
    found = subprocess.run([client, "-t", "0", name], stderr=subprocess.PIPE, text=True)
    assert found.returncode in (3, 4) and found.stderr.count("\n") == 1, (number, found)
    with shmprueba.Segment(name, **SIZES) as segment:
        assert shmprueba.is_named(segment.name, segment._shm._fd), number
        segment.send(b"1")
    return f"exit {found.returncode}"


def held(name: str, _client: str, number: int) -> str:
    """It stands still while another host starts: exactly one of them lives."""
    gate, close_gate = os.pipe()
    words, say = os.pipe()
    stood = []

    def stand() -> None:
        stood.append(True)
        os.kill(os.getpid(), signal.SIGSTOP)

    def run() -> None:
        os.close(close_gate)
        before_line(number, stand)
        try:
            with shmprueba.Segment(name, receive=True, **SIZES):
                sys.settrace(None)
                if stood:
                    os.write(say, b"lives")
                    os.read(gate, 1)  # until the parent closes its end
        except shmprueba.Error as error:
            os.write(say, error.kind.encode())

    pid = forked(run)
    ours, second = None, "lives"
    if not os.WIFSTOPPED(os.waitpid(pid, os.WUNTRACED)[1]):
        return ""
    try:
        ours = shmprueba.Segment(name, **SIZES)
    except shmprueba.Error as error:
        second = error.kind
        assert "pid 0" not in str(error), (number, error)  # it has written no header yet
    os.kill(pid, signal.SIGCONT)
    first = os.read(words, 99).decode()
    assert {first, second} == {"lives", "in_use"}, (number, first, second)
    with shmprueba.Reader(name, timeout=5) as reader:  # the name leads to the one that lives
        assert ours is None or reader.session == ours.session, number
    if ours:
        ours.close()
    os.close(close_gate)
    assert os.waitpid(pid, 0)[1] == 0, number
    for end in (gate, words, say):
        os.close(end)
    return "the first lives" if first == "lives" else "the second lives"


def unlinked(name: str, _client: str, number: int) -> str:
    """Its name goes: no exception but that it is gone, and no step less at its end."""
    gone = []

    def unlink() -> None:
        with contextlib.suppress(FileNotFoundError):
            os.unlink("/dev/shm/" + name)
        gone.append(True)

    def run() -> None:
        before_line(number, unlink)
        with contextlib.suppress(*([shmprueba.Error] if number else [])):
            begin_and_end(name)
        sys.settrace(None)
        os._exit(0 if gone else 7)

    status = os.waitpid(forked(run), 0)[1]
    assert os.WIFEXITED(status) and os.WEXITSTATUS(status) in (0, 7), (number, status)
    return "" if os.WEXITSTATUS(status) else "goes on"


def main(name: str, client: str, what: str) -> None:
    seen: Counter = Counter()
    for number in range(1, 10000):
        if what != "killed":  # over a stale one: then there are all steps
            stale = forked(lambda: (shmprueba.Segment(name, **SIZES),
                                    os.kill(os.getpid(), signal.SIGKILL)))
            os.waitpid(stale, 0)
        result = {"killed": killed, "held": held, "unlinked": unlinked}[what](name, client, number)
        if not result:
            break
        seen[result] += 1
    print(f"{number - 1} lines: " + ", ".join(f"{n} times {result}" for result, n in seen.items()))
    assert number > 100, "too few to be true"


main(*sys.argv[1:])
