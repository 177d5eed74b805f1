#!/usr/bin/env python3
"""Every execution of the lane protocol that a machine allows, tried one by one.

One producer writes three messages into two slots; one reader reads.  Each thread is a list of
loads, stores and fences, under the names that the comments in the code carry:

    producer   [place load]  seq = 2n-1  F1  payload  F2  seq = 2n  F3  head = n
    reader     head load  A  seq load  B  payload  R4  seq again  [place store]

            in C                                   in Python
    F1      release fence                          lock pair
    F2      seq = 2n is a store-release            lock pair, then a plain store
    F3      head = n is a store-release            not there
    A       head load is an acquire                lock pair
    B       seq load is an acquire                 not there; or here, and none at A
    R4      acquire fence                          lock pair
    place   load-acquire; store-release            plain: the fences room, F1 and R4 are beside them

Steps in brackets: lossless lane only.  Here `place` is only a position.  place_model.py has the
rest of it, and the reason for the full fence (room) before the load.  The lock pair is
`lock.release(); lock.acquire()` on a private lock.  Length, timestamps and crc count as payload;
two words stand for all of it, b = a + 1000.  A message is *mixed* when the reader accepts n, and a
word that it read does not belong to message n.

How it works.  ARMv8 is multi-copy-atomic: a store becomes visible to all other threads at once.  So
one map of memory is enough.  An execution is an order in which the accesses of both threads are
performed on that map; each is performed as soon as all accesses have been that the architecture
keeps before it (`ordered`, after the published AArch64 axioms).  A branch holds back later stores,
never later loads: the reader's loads run ahead of its checks, so the checks are made at the end.  A
load sees its own thread's store before others do (forwarding).  All orders are tried, equal states
once.

Why one attempt is enough.  A lossy reader writes nothing that the producer reads, and its earlier
steps can only add order.  So each n is tried alone, and a second attempt needs no step of its own.
Of a wait (`head load` for n, `place load` for n - slots) only the last load is modelled.

Machines
    armv8
    x86     TSO: only a later load passes an earlier store.  C's acquire and release cost no
            instruction there (that the compiler may still reorder is not modelled)
    strict  armv8 without control dependencies, without the order from a store-release to a
            load-acquire, and with release fences that hold back stores only: what the text of C11
            leaves, as far as one map of memory can express it

Not expressed: RISC-V, PPC, the rest of C11; sleeping, and roles (see the other models).  For the
first three see the independent model checkers (GenMC: RC11/IMM/TSO; herd7: AArch64, RISC-V, x86,
PPC).  Nothing here ran on ARM hardware.
"""
import argparse
import heapq
import sys
from collections import Counter
from typing import Counter as CounterOf
from typing import Callable, Dict, Iterator, List, NamedTuple, Optional, Sequence, Set, Tuple

SLOTS, MESSAGES = 2, 3      # so message 3 overwrites message 1
# Orders of an access, by the letters of the AArch64 axioms.  Q is ldapr, A is ldar or ldaxr: C's
# acquire may be compiled to either, so the programs below say Q, the weaker.
RELAXED, ACQUIRE, SEQ_CST, RELEASE = '', 'Q', 'A', 'L'


class Op(NamedTuple):
    """One access or fence of a thread, in program order."""
    thread: str
    step: str               # its name in the code's comments
    message: int
    kind: str               # 'R' load, 'W' store, 'F' fence
    loc: str = ''
    order: str = RELAXED    # of a fence: 'full', 'acquire', 'release'
    value: int = 0          # W: no two stores to one location store the same value
    at_least: int = 0       # R: waits until the value is this large
    branch: bool = False    # R: whether to go on depends on the value


# --- what a machine keeps in order -----------------------------------------------------------

def ordered(a: Op, fences: Sequence[str], b: Op, machine: str) -> bool:
    """Is access `a` always performed before `b`, later in its thread, with `fences` between?"""
    if a.loc == b.loc and (a.kind == 'R' or b.kind == 'W'):
        return True     # two loads may swap if both see the same store: nothing here could tell
    if machine == 'x86':
        return a.kind == 'R' or b.kind == 'W' or 'full' in fences
    if a.order in (ACQUIRE, SEQ_CST) or b.order == RELEASE:
        return True
    if 'full' in fences or ('acquire' in fences and a.kind == 'R'):     # dmb ish, dmb ishld
        return True
    if machine == 'strict':
        return 'release' in fences and b.kind == 'W'
    return ('release' in fences                                 # compiled to dmb ish too
            or (a.order == RELEASE and b.order == SEQ_CST)      # stlr to ldar; not to ldapr
            or (a.branch and b.kind == 'W'))


# --- the two programs ------------------------------------------------------------------------

# What lock.release(); lock.acquire() may compile to: (load, store) of each read-modify-write.
PAIRS: Dict[str, Sequence[Tuple[str, str]]] = {
    'stlxr+ldaxr': ((RELAXED, RELEASE), (SEQ_CST, RELAXED)),    # with LSE casl+casa: the same
    'casal+casal': ((SEQ_CST, RELEASE), (SEQ_CST, RELEASE)),
    'stlxr+ldapr': ((RELAXED, RELEASE), (ACQUIRE, RELAXED)),
    'ldaxr+stlxr': ((SEQ_CST, RELAXED), (RELAXED, RELEASE)),    # acquire first, then release
    'stlxr': ((RELAXED, RELEASE),),
    'ldaxr': ((SEQ_CST, RELAXED),),
    'dmb': (),                                                  # a real fence, to compare with
}
AS_BUILT = 'stlxr+ldaxr'
LOOKS = {'relaxed': RELAXED, 'acquire': ACQUIRE, 'seq_cst': SEQ_CST}
FENCES = ('F1', 'F2', 'F3', 'A', 'B', 'R4', 'place-acquire', 'place-release')


class Setup(NamedTuple):
    """Two programs, what was taken out of them or put in, and the machine they run on."""
    producer: str = 'c'
    reader: str = 'c'
    machine: str = 'armv8'
    lossless: bool = False
    in_place: bool = False      # lossless: the reader never looks at seq
    without: Sequence[str] = ()
    fence_b: bool = False       # Python reader: a lock pair at B
    pair: str = AS_BUILT
    again: str = 'relaxed'      # order of the second look


class Program:
    """The steps of one thread, appended in program order."""

    def __init__(self, thread: str, language: str, setup: Setup) -> None:
        self.thread, self.c, self.setup, self.n, self.locks = thread, language == 'c', setup, 0, 0
        self.ops: List[Op] = []

    def load(self, step: str, loc: str, order: str = RELAXED, at_least: int = 0,
             branch: bool = True) -> None:
        self.ops.append(Op(self.thread, step, self.n, 'R', loc, order, 0, at_least, branch))

    def store(self, step: str, loc: str, value: int, order: str = RELAXED) -> None:
        self.ops.append(Op(self.thread, step, self.n, 'W', loc, order, value))

    def order(self, mark: str, order: str) -> str:
        """The order of the access that carries a mark: Python has plain accesses only."""
        return order if self.c and mark not in self.setup.without else RELAXED

    def fence(self, mark: str, c_order: str) -> None:
        if mark in self.setup.without:
            return
        if not self.c and self.setup.machine != 'x86' and PAIRS[self.setup.pair]:
            for load_order, store_order in PAIRS[self.setup.pair]:
                self.locks += 1     # no other thread reads the lock: all it can give is order
                self.load(mark, self.thread + "'s lock", load_order, branch=False)
                self.store(mark, self.thread + "'s lock", self.locks, store_order)
        elif not self.c or self.setup.machine != 'x86':     # pair on x86: lock-prefixed, so full
            order = c_order if self.c else 'full'
            self.ops.append(Op(self.thread, mark, self.n, 'F', order=order))


def producer_program(setup: Setup) -> List[Op]:
    p = Program('producer', setup.producer, setup)
    for n in range(1, MESSAGES + 1):
        p.n, slot = n, f'slot {n % SLOTS} '
        if setup.lossless and n > SLOTS:
            p.load('place load', 'place', p.order('place-acquire', ACQUIRE), n - SLOTS)
        p.store('seq = 2n-1', slot + 'seq', 2 * n - 1)
        p.fence('F1', 'release')
        p.store('payload', slot + 'a', n)
        p.store('payload', slot + 'b', n + 1000)
        if not p.c:
            p.fence('F2', 'release')
        p.store('seq = 2n', slot + 'seq', 2 * n, p.order('F2', RELEASE))
        p.store('head = n', 'head', n, p.order('F3', RELEASE))
    return p.ops


def reader_program(setup: Setup, messages: Sequence[int]) -> List[Op]:
    r = Program('reader', setup.reader, setup)
    for n in messages:
        r.n, slot = n, f'slot {n % SLOTS} '
        r.load('head load', 'head', r.order('A', ACQUIRE), at_least=n)
        if not r.c:
            r.fence('A', 'acquire')
        if not setup.in_place and 'seq-load' not in setup.without:
            # Lossless: it cannot be lapped, so it looks until it sees 2n.
            r.load('seq load', slot + 'seq', r.order('B', ACQUIRE),
                   at_least=2 * n if setup.lossless else 0)
        if setup.fence_b and not r.c:
            r.fence('B', 'acquire')
        r.load('payload', slot + 'a', branch=False)
        r.load('payload', slot + 'b', branch=False)
        if not (setup.in_place and r.c):
            r.fence('R4', 'acquire')
        if not setup.in_place and 'seq-again' not in setup.without:
            r.load('seq again', slot + 'seq', LOOKS[setup.again])
        if setup.lossless:
            r.store('place store', 'place', n, r.order('place-release', RELEASE))
    return r.ops


def programs(setup: Setup, messages: Sequence[int] = (1,)) -> Tuple[List[Op], List[Op]]:
    return producer_program(setup), reader_program(setup, messages)


# --- every order in which they can be performed ----------------------------------------------

class Access(NamedTuple):
    """A load or store with what the search asks of it.  Sets of accesses are bit masks."""
    op: Op
    bit: int
    loc: int                    # index into memory
    index: int                  # R: into the values read
    before: int                 # performed before it, always
    earlier: int                # earlier in its thread
    rivals: int                 # accesses of other threads to the same location
    forward: Tuple[int, int]    # R: the newest earlier store of its own thread: bit, value


State = Tuple[int, Tuple[int, ...], Tuple[int, ...]]    # performed, memory, values read
Path = Dict[State, Optional[Tuple[State, Access]]]      # every state seen, and how it came about


def prepare(threads: Sequence[Sequence[Op]], machine: str) -> List[Access]:
    place = [(t, i, op) for t, ops in enumerate(threads) for i, op in enumerate(ops)
             if op.kind != 'F']
    locs = sorted({op.loc for _, _, op in place})
    loads = [k for k, (_, _, op) in enumerate(place) if op.kind == 'R']
    accesses = []
    for k, (t, i, op) in enumerate(place):
        before = earlier = rivals = 0
        forward = (0, 0)
        for j, (u, h, other) in enumerate(place):
            if u != t:
                rivals |= (other.loc == op.loc) << j
            elif h < i:
                fences = [f.order for f in threads[t][h + 1:i] if f.kind == 'F']
                before |= ordered(other, fences, op, machine) << j
                earlier |= 1 << j
                if other.kind == 'W' and other.loc == op.loc:
                    forward = (1 << j, other.value)
        accesses.append(Access(op, 1 << k, locs.index(op.loc), loads.index(k) if k in loads else -1,
                               before, earlier, rivals, forward))
    return accesses


def perform(state: State, x: Access) -> Optional[State]:
    """The state after `x`, or None where it cannot be performed yet."""
    done, memory, reads = state
    if x.before & ~done:
        return None
    if x.op.kind == 'W':
        return done | x.bit, memory[:x.loc] + (x.op.value,) + memory[x.loc + 1:], reads
    own_store, value = x.forward
    if not own_store or done & own_store:
        value = memory[x.loc]
    if value < x.op.at_least:
        return None
    return done | x.bit, memory, reads[:x.index] + (value,) + reads[x.index + 1:]


def search(accesses: Sequence[Access], found: Callable[[State, Path], object],
           reduce: bool = True) -> int:
    """Call `found` once for each execution, that is, for each set of values read, beginning with
    those that leave program order least, until it returns true; return the number of states."""
    everything = sum(x.bit for x in accesses)
    start: State = (0, (0,) * (1 + max(x.loc for x in accesses)),
                    (-1,) * sum(x.op.kind == 'R' for x in accesses))
    # ((accesses out of order, changes of thread), serial number, state, how it came about)
    todo: List[Tuple[Tuple[int, int], int, State, Optional[Tuple[State, Access]]]]
    todo = [((0, 0), 0, start, None)]
    path: Path = {}
    executions: Set[Tuple[int, ...]] = set()
    serial = 0
    while todo:
        (late, switches), _, state, origin = heapq.heappop(todo)
        if state in path:
            continue
        path[state] = origin
        done, _, reads = state
        if done == everything and reads not in executions:
            executions.add(reads)
            if found(state, path):
                break
        steps = [(x, after) for x in accesses if not done & x.bit
                 for after in [perform(state, x)] if after is not None]
        # Where no other thread will touch the location any more, now or later is the same to
        # all, so now is enough: locks, slots that the reader does not look at, loose ends.
        alone = [step for step in steps if reduce and not step[0].rivals & ~done][:1]
        for x, after in alone or steps:
            serial -= 1     # of equals the latest first: runs one thread on, then the other
            overtaken = 0 if alone else bin(x.earlier & ~done).count('1')
            switch = origin is not None and origin[1].op.thread != x.op.thread
            heapq.heappush(todo, ((late + overtaken, switches + switch), serial, after, (state, x)))
    return len(path)


# --- what the reader makes of it -------------------------------------------------------------

ANSWERS = ('accepted', 'lapped', 'writing', 'older', 'mixed')


def judge(accesses: Sequence[Access], reads: Sequence[int], n: int) -> str:
    """The reader's answer to message n, given all that it has read."""
    value = {(x.op.step, x.op.loc[-1]): reads[x.index] for x in accesses
             if (x.op.thread, x.op.kind, x.op.message) == ('reader', 'R', n)}
    for look in (value.get(('seq load', 'q'), 2 * n), value.get(('seq again', 'q'), 2 * n)):
        if look != 2 * n:
            return 'lapped' if look > 2 * n else 'writing' if look == 2 * n - 1 else 'older'
    whole = (value['payload', 'a'], value['payload', 'b']) == (n, n + 1000)
    return 'accepted' if whole else 'mixed'


class Result(NamedTuple):
    states: int
    answers: CounterOf[str]     # executions by `judge`
    trace: List[str]            # of the mixed message that leaves program order least, or empty
    right: bool                 # nothing mixed, and nothing lost where nothing may be


def check(setup: Setup, until_mixed: bool = False) -> Result:
    """All messages: one attempt each on a lossy lane, all in turn on a lossless one."""
    numbers = list(range(1, MESSAGES + 1))
    states = 0
    answers: CounterOf[str] = Counter()
    trace: List[str] = []
    for messages in [numbers] if setup.lossless else [[n] for n in numbers]:
        accesses = prepare(programs(setup, messages), setup.machine)

        def found(state: State, path: Path) -> bool:
            for n in messages:
                answers[judge(accesses, state[2], n)] += 1
                if answers['mixed'] and not trace:
                    trace.extend(tell(accesses, state, path, n))
            return until_mixed and bool(trace)

        states += search(accesses, found)
        if until_mixed and trace:
            break
    lost = setup.lossless and answers['lapped']
    return Result(states, answers, trace, not answers['mixed'] and not lost)


def tell(accesses: Sequence[Access], state: State, path: Path, n: int) -> List[str]:
    """The way to a mixed message n, as a table of the accesses that both threads care for."""
    steps: List[Tuple[State, Access]] = []
    reads, origin = state[2], path[state]
    while origin:
        steps.insert(0, origin)
        origin = path[origin[0]]
    while (steps[-1][1].op.thread, steps[-1][1].op.message) != ('reader', n):
        steps.pop()
    lines = [f'    {"thread":9} {"step":13} n  {"performed":18} ahead of, in its own program']
    for (done, _, _), x in steps:
        if x.rivals:
            late = dict.fromkeys(f'{y.op.step} (n={y.op.message})' for y in accesses
                                 if y.bit & x.earlier & ~done and y.rivals)
            does = f':= {x.op.value}' if x.op.kind == 'W' else f'is {reads[x.index]}'
            lines.append(f'{len(lines):2}. {x.op.thread:9} {x.op.step:13} {x.op.message}  '
                         f'{x.op.loc + " " + does:18} {", ".join(late)}'.rstrip())
    a, b = (reads[x.index] for x in accesses
            if (x.op.thread, x.op.step, x.op.message) == ('reader', 'payload', n))
    return lines + [f'The reader accepts message {n} with a = {a}, b = {b}. '
                    f'Its words are {n} and {n + 1000}.']


# --- command line ----------------------------------------------------------------------------

# Heading, options that all its rows share, the rows.  Each row is a command line that prints the
# same case; what must come out of it stands in test_order.py.
ROWS: Sequence[Tuple[str, str, str]] = (
    ('As the code has it', '',
     '| --producer python | --reader python | --producer python --reader python '
     '| --lossless | --lossless --producer python | --lossless --reader python '
     '| --lossless --producer python --reader python'),
    ('C to C, something taken out', '',
     '--without F1 | --without F2 | --without F3 | --without F2 F3 | --without A | --without B '
     '| --without A B | --without R4 | --without R4 --again acquire '
     '| --without R4 --again seq_cst | --without seq-load | --without seq-again'),
    ('Python to C (there is no F3)', '--producer python',
     '--pair dmb | --without F1 | --without F2 | --without A | --without B | --without R4'),
    ('C to Python: where the first lock pair belongs', '--reader python',
     '--without A | --without A --fence-b | --fence-b | --without R4 | --without seq-load '
     '| --lossless --without A | --lossless --without A --fence-b'),
    ('Python to Python', '--producer python --reader python',
     '--without A | --without A --fence-b | --without R4 | --without seq-load'),
    ('Lossless', '--lossless',
     '--without R4 | --without place-release | --without place-release R4 '
     '| --without place-release --machine strict'),
    ('Lossless, read in place: no look at seq, in C no R4', '--lossless --in-place',
     '| --without F1 | --without F2 | --without F3 | --without A | --without place-release '
     '| --without F1 place-acquire | --without F1 place-acquire --machine strict '
     '| --without place-acquire --machine strict | --producer python --without F1 '
     '| --producer python --without F2 | --reader python | --reader python --without A '
     '| --reader python --without R4'),
    ('What the lock pair may be compiled to', '',
     ' | '.join(f'--{side} python --pair {pair}' for side in ('producer', 'reader')
                for pair in PAIRS if pair not in (AS_BUILT, 'dmb'))),
    ('What the language alone promises: C right, lock pair no fence', '--machine strict',
     '| --lossless | --lossless --without place-acquire | --lossless --in-place --without F1 '
     '| --producer python | --reader python'),
    ('x86 hides every mistake', '--without all',
     '| --machine x86 | --machine x86 --producer python --reader python '
     '| --machine x86 --lossless | --machine x86 --lossless --producer python '
     '| --machine x86 --lossless --in-place'),
)


def rows() -> Iterator[Tuple[str, str, str]]:
    """Heading and options of each section with each of its rows."""
    for heading, shared, variants in ROWS:
        for variant in variants.split('|'):
            yield heading, shared, variant.strip()


def parse(words: Sequence[str]) -> Setup:
    """The setup that a command line asks for; an impossible one ends the program with status 2."""
    parser = argparse.ArgumentParser(
        description='Without options: the table.  With any: that one case, and the mixed message '
                    'step by step if there is one.  Status 1 if a case is bad (in the table: if '
                    'the code as it is is bad).')
    parser.add_argument('--producer', choices=('c', 'python'), default='c')
    parser.add_argument('--reader', choices=('c', 'python'), default='c')
    parser.add_argument('--machine', choices=('armv8', 'x86', 'strict'), default='armv8')
    parser.add_argument('--lossless', action='store_true')
    parser.add_argument('--in-place', action='store_true', help='lossless, no look at seq')
    parser.add_argument('--without', nargs='+', default=(), metavar='MARK',
                        choices=('all',) + FENCES + ('seq-load', 'seq-again'),
                        help='%(choices)s; all: every fence and order')
    parser.add_argument('--fence-b', action='store_true', help='Python reader: lock pair at B')
    parser.add_argument('--pair', choices=tuple(PAIRS), default=AS_BUILT)
    parser.add_argument('--again', choices=tuple(LOOKS), default='relaxed')
    setup = Setup(**vars(parser.parse_args(words)))
    if setup.in_place and not setup.lossless:
        parser.error('--in-place needs --lossless')
    if 'all' in setup.without:
        return setup._replace(without=FENCES)
    # What is asked for must make a difference: on armv8, as x86 has no instruction for most.
    there = setup._replace(machine='armv8')
    changes = {mark: there._replace(without=[m for m in setup.without if m != mark])
               for mark in setup.without}
    for option, default in (('fence_b', False), ('pair', AS_BUILT), ('again', 'relaxed')):
        if getattr(setup, option) != default:
            changes['--' + option.replace('_', '-')] = there._replace(**{option: default})
    for name, other in changes.items():
        if programs(there) == programs(other):
            parser.error(f'{name} makes no difference to these two programs')
    return setup


def table() -> int:
    """Print every row; 1 if the code as it is comes out bad."""
    status, section = 0, ''
    print(f'{"":52} states  good lapped writing older mixed')
    for heading, shared, row in rows():
        if heading != section:
            section = heading
            print(f'{heading}{":  " if shared else ""}{shared}')
        result = check(parse((shared + ' ' + row).split()))
        counts = [result.answers[a] for a in ANSWERS]
        print('  {:50} {:6} {:5} {:6} {:7} {:5} {:5}  {}'.format(
            row or '(as it is)', result.states, *counts, 'right' if result.right else 'BAD'))
        if heading == ROWS[0][0] and not result.right:
            status = 1
    return status


def main(words: Sequence[str]) -> int:
    if not words:
        return table()
    result = check(parse(words), until_mixed=True)
    for line in result.trace or ['Right.' if result.right else 'Lapped on a lossless lane.']:
        print(line)
    print(f'{result.states} states; executions: '
          + ', '.join(f'{result.answers[answer]} {answer}' for answer in ANSWERS))
    return 0 if result.right else 1


if __name__ == '__main__':
    sys.exit(main(sys.argv[1:]))
