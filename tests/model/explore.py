"""Tries every execution of a few small threads over shared words.  All models but one use this.

A thread is a function.  It takes the thread's own state (a tuple, the step's name first) and
returns the operations that the thread may do next; any one of them is taken.  The next state comes
from one step of one thread, or from one store that leaves a thread's store buffer.  All are tried,
breadth first, equal states once.  So a search is exhaustive, and the first execution that goes
wrong is a shortest one.

Machines
    sc      a store is visible at once
    tso     (x86) a store waits in its thread's buffer; later loads may be performed before it; the
            thread itself sees it
    weak    (towards ARMv8, not all of it) as tso, but stores to different words leave the buffer in
            any order, unless a release fence stands between them; and a program may offer a load
            early, where the fence that would prevent it is missing

An atomic operation, a full fence and a system call first empty their thread's buffer.  A lock is a
word that only atomic operations touch.  A crash is an ordinary step to a state from which the
kernel takes the next one: it frees the lock, after the buffer is empty.
"""
import gc
import sys
from functools import lru_cache
from typing import Any, Callable, Dict, Iterator, List, NamedTuple
from typing import Optional, Sequence, Tuple

Local = Tuple[Any, ...]
Memory = Tuple[int, ...]
Entry = Optional[Tuple[int, int]]       # of a buffer: (word, value), or None for a release fence
State = Tuple[Memory, Tuple[Local, ...], Tuple[Tuple[Entry, ...], ...]]
Program = Callable[[Local], Sequence['Op']]     # memory, the threads' states, their buffers


class Op(NamedTuple):
    """One operation of a thread: make them by the functions below."""
    kind: str
    text: str                           # in plain words; {} stands for the value that was read
    then: Callable[[int], Local]        # the thread's next state, from the value read
    word: int = -1
    value: Any = 0                      # store: the value; atomic: from the old value to the new;
                                        # call: from memory and threads to value read and memory
    full: bool = False                  # a full fence before it: waits until the buffer is empty
    release: bool = False               # a release fence before it


def load(text: str, word: int, then: Callable[[int], Local], fence: bool = False) -> Op:
    return Op('load', text, then, word, full=fence)


def store(text: str, word: int, value: int, then: Local, release: bool = False,
          fence: bool = False) -> Op:
    return Op('store', text, lambda _: then, word, value, fence, release)


def atomic(text: str, word: int, new: Callable[[int], int], then: Callable[[int], Local]) -> Op:
    return Op('atomic', text, then, word, new, full=True)


def lock(text: str, word: int, holder: int, yes: Local, no: Local) -> Op:
    """Take a lock that is free (0), or be refused."""
    return atomic(text, word, lambda now: now or holder, lambda was: no if was else yes)


def unlock(text: str, word: int, then: Local) -> Op:
    return atomic(text, word, lambda _: 0, lambda _: then)


def call(text: str, act: Callable[[Memory, Sequence[Local]], Tuple[int, Memory]],
         then: Callable[[int], Local]) -> Op:
    """A system call: one step that may look at everything and change several words."""
    return Op('call', text, then, value=act, full=True)


def other(kind: str, text: str, then: Local, word: int = -1, fence: bool = False) -> Op:
    """reach: a barrier reaches thread `word`, or all threads at once if that is -1; wake: all
    sleepers go on; any other name: nothing that other threads see."""
    return Op(kind, text, lambda _: then, word, full=fence)


class Result(NamedTuple):
    states: int
    traces: Dict[str, List[str]]        # each kind of mistake, with a shortest way to it

    @property
    def verdict(self) -> str:
        return ', '.join(sorted(self.traces)) or 'right'


class Row(NamedTuple):
    """A variant: a design with something removed or replaced, and the machines to try it on."""
    name: str
    design: Any
    machines: str


class Search:

    def __init__(self, machine: str, words: Sequence[str], names: Sequence[str],
                 programs: Sequence[Program],
                 show: Callable[[int, int], str] = lambda word, value: str(value)) -> None:
        self.machine, self.words, self.names, self.show = machine, words, names, show
        self.programs = [lru_cache(maxsize=None)(program) for program in programs]

    def leaving(self, buffer: Tuple[Entry, ...]) -> Iterator[int]:
        """The places in a buffer from which a store may become visible next."""
        if self.machine == 'tso':
            yield 0
            return
        words = set()
        for place, entry in enumerate(buffer):
            if entry is None:
                return
            if entry[0] not in words:
                words.add(entry[0])
                yield place

    def steps(self, state: State) -> Iterator[Tuple[int, Any, int, State]]:
        """Thread, its operation (or the entry that leaves its buffer), value read, state after."""
        memory, threads, buffers = state
        for t, buffer in enumerate(buffers):
            if buffer:
                for place in self.leaving(buffer):
                    word, value = entry = buffer[place]
                    rest = buffer[:place] + buffer[place + 1:]
                    while rest and rest[0] is None:
                        rest = rest[1:]
                    yield t, entry, value, (memory[:word] + (value,) + memory[word + 1:], threads,
                                            buffers[:t] + (rest,) + buffers[t + 1:])
            for op in self.programs[t](threads[t]):
                kind, _, then, word, act, full, release = op
                if full and buffer:
                    continue
                memory2, buffer2, others, value = memory, buffer, threads, 0
                if kind == 'load':
                    value = memory[word]
                    for entry in buffer:
                        if entry and entry[0] == word:
                            value = entry[1]
                elif kind == 'store' and self.machine != 'sc':
                    fence = (None,) if release and buffer and self.machine == 'weak' else ()
                    buffer2 = buffer + fence + ((word, act),)
                elif kind in ('store', 'atomic'):
                    value = memory[word]
                    new = act if kind == 'store' else act(value)
                    memory2 = memory[:word] + (new,) + memory[word + 1:]
                elif kind == 'call':
                    value, memory2 = act(memory, threads)
                elif kind == 'reach':
                    if any(buffers) if word < 0 else buffers[word]:
                        continue
                elif kind == 'wake':
                    others = tuple(('woken',) + x[1:] if x[0] == 'asleep' else x for x in threads)
                threads2 = others[:t] + (then(value),) + others[t + 1:]
                yield t, op, value, (memory2, threads2, buffers if buffer2 is buffer else
                                     buffers[:t] + (buffer2,) + buffers[t + 1:])

    def run(self, start: Sequence[Local], wrong: Callable[[State], Optional[str]],
            alive: Sequence[Tuple[Sequence[int], Callable[[State], bool]]] = ()) -> Result:
        """Visit all states.  `wrong` names what is wrong with a state; nothing after it is tried.
        `alive`: some threads, and an end that these threads alone must be able to reach from every
        state, else the state is stuck (checked only if nothing else is wrong)."""
        collects = gc.isenabled()
        gc.disable()        # it would walk over all the states again and again, and find nothing
        try:
            return self.explore(start, wrong, alive)
        finally:
            if collects:
                gc.enable()

    def explore(self, start: Sequence[Local], wrong: Callable[[State], Optional[str]],
                alive: Sequence[Tuple[Sequence[int], Callable[[State], bool]]]) -> Result:
        first: State = ((0,) * len(self.words), tuple(start), ((),) * len(start))
        number, states, parents = {first: 0}, [first], [0]
        before: List[List[int]] = [[]]      # each state's origins: state * len(start) + thread
        traces: Dict[str, List[str]] = {}
        for at, state in enumerate(states):             # grows as it goes
            what = wrong(state)
            if what:
                if what not in traces:
                    traces[what] = self.tell(states, parents, at)
                continue
            for thread, _, _, after in self.steps(state):
                to = number.setdefault(after, len(states))
                if to == len(states):
                    states.append(after)
                    parents.append(at)
                    before.append([])
                if alive:
                    before[to].append(at * len(start) + thread)
        for threads, end in () if traces else alive:
            good = [at for at, state in enumerate(states) if end(state)]
            seen = bytearray(len(states))
            for at in good:
                seen[at] = 1
            for at in good:                             # grows as it goes
                for place in before[at]:
                    origin, thread = divmod(place, len(start))
                    if thread in threads and not seen[origin]:
                        seen[origin] = 1
                        good.append(origin)
            stuck = seen.find(0)
            if stuck >= 0:
                traces.setdefault('stuck', self.tell(states, parents, stuck))
        return Result(len(states), traces)

    def tell(self, states: Sequence[State], parents: Sequence[int], at: int) -> List[str]:
        """The way to a state in plain words."""
        way = [at]
        while way[0]:
            way.insert(0, parents[way[0]])
        lines = []
        for a, b in zip(way, way[1:]):
            thread, op, value = next((t, op, value) for t, op, value, after in self.steps(states[a])
                                     if after == states[b])
            if not isinstance(op, Op):
                text = f'{self.words[op[0]]} = {self.show(*op)} becomes visible'
            elif op.kind == 'store' and self.machine != 'sc':
                text = op.text + ' (in its store buffer)'
            else:
                text = op.text.format(self.show(op.word, value))
            lines.append(f'{len(lines) + 1:2}. {self.names[thread]:10} {text}')
        return lines


def report(rows: Sequence[Row], check: Callable[[Any, str], Result], names: Sequence[str]) -> int:
    """Print the verdict on the rows of these names (without names: on all), and an execution for
    each mistake.  Return 1 if a row that was named is wrong, or the first one: that is the design
    as it is."""
    known = [row.name for row in rows]
    if any(name not in known for name in names):
        print('variants: ' + '; '.join(known), file=sys.stderr)
        return 2
    status = 0
    for row in rows:
        told: Dict[str, List[str]] = {}
        for machine in row.machines.split() if not names or row.name in names else ():
            result = check(row.design, machine)
            print(f'{row.name:40} {machine:4} {result.states:7} states   {result.verdict}')
            told = told or result.traces
        for kind, lines in told.items():
            print(f'    {kind}:', *lines, sep='\n    ')
        status |= bool(told) and (bool(names) or row is rows[0])
    return status
