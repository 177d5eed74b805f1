#!/usr/bin/env python3
"""What order_model.py must find: a verdict on each claim about a fence.  And the code must use the
names of the models.

    python3 tests/model/test_order.py

Independent model checkers (GenMC: RC11/IMM/TSO; herd7: AArch64) came to the same verdicts on this
protocol.  Claims about RISC-V, PPC and the rest of C11 cannot be expressed here.
"""
import contextlib
import functools
import io
import itertools
import os
import re
import sys
import unittest
from typing import Dict, Iterator, List, Sequence, Set, Tuple
from unittest import mock

HERE = os.path.dirname(os.path.abspath(__file__))
sys.path.insert(0, HERE)
import order_model as om  # noqa: E402  (the folder must be on the path first)
import place_model as pm  # noqa: E402
import sleep_model as sm  # noqa: E402

RIGHT, WRITING, OLDER, MIXED, LOST = 'right', 'sees 2n-1', 'sees older', 'mixed', 'lost'

# Each claim with the rows of the table that it is about, and what comes out of each.
CLAIMS: Sequence[Tuple[str, Dict[str, str]]] = (
    ('F1, F2, R4: right; without F3 (Python) the first look may be 2n-1, never older', {
        '': RIGHT,
        '--reader python': RIGHT,
        '--producer python': WRITING,
        '--producer python --reader python': WRITING,
        '--producer python --pair dmb': WRITING,
        '--without F3': WRITING}),
    ('without F1 bad: payload n+N shows before seq turns odd', {
        '--without F1': MIXED,
        '--producer python --without F1': MIXED}),
    ('without F2 bad: seq = 2n shows before the payload; F3, where there is one, stands in', {
        '--producer python --without F2': MIXED,
        '--without F2 F3': MIXED,
        '--without F2': RIGHT}),
    ('without R4 bad, even if the second look is acquire or seq_cst', {
        '--without R4': MIXED,
        '--without R4 --again acquire': MIXED,
        '--without R4 --again seq_cst': MIXED,
        '--producer python --without R4': MIXED,
        '--reader python --without R4': MIXED,
        '--producer python --reader python --without R4': MIXED}),
    ('the second look cannot be left out, the first can: it saves work, not messages', {
        '--without seq-again': MIXED,
        '--without seq-load': RIGHT,
        '--reader python --without seq-load': RIGHT,
        '--producer python --reader python --without seq-load': WRITING}),
    ('head relaxed, seq acquire: accepts rightly, but seq may be older than 2n-1', {
        '--without A': OLDER,
        '--producer python --without A': OLDER}),
    ('head acquire makes the acquire of seq unnecessary; one of the two must be there', {
        '--without B': RIGHT,
        '--producer python --without B': WRITING,
        '--without A B': MIXED}),
    ('Python reader: one lock pair between head and seq is enough; between seq and payload it '
     'accepts rightly but sees older; both add nothing; none is bad', {
         '--reader python --without A': MIXED,
         '--reader python --without A --fence-b': OLDER,
         '--reader python --fence-b': RIGHT,
         '--reader python --lossless --without A': MIXED,
         '--reader python --lossless --without A --fence-b': RIGHT,
         '--producer python --reader python --without A': MIXED,
         '--producer python --reader python --without A --fence-b': OLDER}),
    ('lossless lane as the code has it', {
        '--lossless': RIGHT,
        '--lossless --producer python': RIGHT,
        '--lossless --reader python': RIGHT,
        '--lossless --producer python --reader python': RIGHT}),
    ('lossless lane: F1, seq and the second look are not needed', {
        '--lossless --in-place': RIGHT,
        '--lossless --in-place --without F1': RIGHT,
        '--lossless --in-place --producer python --without F1': RIGHT,
        '--lossless --in-place --reader python': RIGHT}),
    ('lossless lane: a fence F2 is needed; in C, where F2 is on seq and nobody reads seq, F3 is', {
        '--lossless --in-place --producer python --without F2': MIXED,
        '--lossless --in-place --without F3': MIXED,
        '--lossless --in-place --without F2': RIGHT}),
    ('lossless lane: head acquire is needed', {
        '--lossless --in-place --without A': MIXED,
        '--lossless --in-place --reader python --without A': MIXED}),
    ('lossless lane: R4 or a release must keep the payload before the place store; what the '
     'release adds to R4 is that the second look at seq stays before it', {
        '--lossless --without R4': RIGHT,
        '--lossless --without place-release': RIGHT,
        '--lossless --without place-release R4': MIXED,
        '--lossless --without place-release --machine strict': LOST}),
    ('read in place, without R4 in C: the place store must be a release', {
        '--lossless --in-place --without place-release': MIXED,
        '--lossless --in-place --reader python --without R4': MIXED}),
    ('the load of place needs an acquire in strict C11, or F1; ARMv8 keeps the branch', {
        '--lossless --in-place --without F1 place-acquire --machine strict': MIXED,
        '--lossless --in-place --without place-acquire --machine strict': RIGHT,
        '--lossless --in-place --without F1 place-acquire': RIGHT}),
    ('nor does F1 do for a lossless reader that looks at seq: seq = 2n-1 is before F1', {
        '--machine strict --lossless --without place-acquire': LOST}),
    ('lock pair on ARMv8: a full fence as ldxr/stlxr ldaxr/stxr or casl casa (all rows above) or '
     'casal twice; not with LDAPR, not acquire before release, not one half alone', {
         **{f'--{side} python --pair {pair}': MIXED for side in ('producer', 'reader')
            for pair in ('stlxr+ldapr', 'ldaxr+stlxr', 'stlxr', 'ldaxr')},
         '--producer python --pair casal+casal': WRITING,
         '--reader python --pair casal+casal': RIGHT}),
    ('C11 promises nothing for the lock pair, and all that C needs for C', {
        '--machine strict': RIGHT,
        '--machine strict --lossless': RIGHT,
        '--machine strict --lossless --in-place --without F1': RIGHT,
        '--machine strict --producer python': MIXED,
        '--machine strict --reader python': MIXED}),
    ('x86 without any fence: right; ARMv8 without any: not', {
        '--without all --machine x86': RIGHT,
        '--without all --machine x86 --producer python --reader python': RIGHT,
        '--without all --machine x86 --lossless': RIGHT,
        '--without all --machine x86 --lossless --producer python': RIGHT,
        '--without all --machine x86 --lossless --in-place': RIGHT,
        '--without all': MIXED}),
)


@functools.lru_cache(maxsize=None)
def result_of(options: str) -> om.Result:
    return om.check(om.parse(options.split()))


def verdict(result: om.Result) -> str:
    if result.answers['mixed']:
        return MIXED
    if not result.right:
        return LOST
    return OLDER if result.answers['older'] else WRITING if result.answers['writing'] else RIGHT


class Claims(unittest.TestCase):

    def test_every_claim(self) -> None:
        for claim, cases in CLAIMS:
            for options, expected in cases.items():
                with self.subTest(claim=claim, options=options):
                    result = result_of(options)
                    self.assertEqual(verdict(result), expected)
                    self.assertEqual(result.right, expected not in (MIXED, LOST))
                    self.assertEqual(bool(result.trace), expected == MIXED)

    def test_the_table_has_these_rows_and_no_others(self) -> None:
        claimed = [options for _, cases in CLAIMS for options in cases]
        table = [f'{shared} {row}'.strip() for _, shared, row in om.rows()]
        self.assertEqual(sorted(claimed), sorted(table))

    def test_a_right_verdict_is_not_an_empty_one(self) -> None:
        """A reader that never accepts, or is never lapped, would be right for nothing."""
        for options in (o for _, cases in CLAIMS for o in cases):
            with self.subTest(options=options):
                answers = result_of(options).answers
                if '--lossless' in options:     # three messages in each of 6 executions or more
                    self.assertEqual(answers['lapped'] > 0, verdict(result_of(options)) == LOST)
                    self.assertGreaterEqual(answers['accepted'], 18)
                else:   # head seen with it: 1 or 2 with message 1, 2 or 3 with 2, 3 with 3
                    self.assertGreaterEqual(answers['accepted'], 5)
                    self.assertGreater(answers['lapped'], 0)

    def test_without_f1_every_mixture_is_found(self) -> None:
        """Message 1 with either word or both of message 3, while head is 1 or 2."""
        self.assertEqual(result_of('--without F1').answers['mixed'], 3 * 2)

    def test_verdicts_do_not_hang_on_three_messages(self) -> None:
        with mock.patch.object(om, 'MESSAGES', 5):
            for options in ('', '--producer python --reader python', '--lossless', '--without F3',
                            '--without F1', '--producer python --without F2', '--without R4',
                            '--lossless --in-place', '--lossless --in-place --without F3'):
                with self.subTest(options=options):
                    five = om.check(om.parse(options.split()), until_mixed=True)
                    self.assertEqual(verdict(five), verdict(result_of(options)))


class Traces(unittest.TestCase):
    """The mixed message comes about the way the claim says, and is told so."""

    def assert_told(self, options: str, step: str, ahead_of: str) -> None:
        lines = result_of(options).trace
        told = [line for line in lines[1:-1]
                if step == line[14:27].strip() and ahead_of in line[49:]]
        self.assertTrue(told, '\n'.join(lines))
        self.assertRegex(lines[-1], r'^The reader accepts message \d with a = \d+, b = \d+\.')
        self.assertLessEqual(max(map(len, lines)), 100)

    def test_traces(self) -> None:
        for options, step, ahead_of in (
                ('--without F1', 'payload', 'seq = 2n-1 (n=3)'),
                ('--producer python --without F1', 'payload', 'seq = 2n-1 (n=3)'),
                ('--producer python --without F2', 'seq = 2n', 'payload (n=1)'),
                ('--without R4', 'seq again', 'payload (n=1)'),
                ('--reader python --without A', 'payload', 'head load (n=1), seq load (n=1)'),
                ('--lossless --in-place --without F3', 'head = n', 'payload (n=1)'),
                ('--lossless --in-place --without place-release', 'place store',
                 'payload (n=1)')):
            with self.subTest(options=options):
                self.assert_told(options, step, ahead_of)


def litmus(machine: str, *threads: str) -> Set[Tuple[int, ...]]:
    """Values read in all executions.  `W x 1`, `R x`, `W.L x 1`, `R.Q x`, `F.full`; `R?` is a load
    with a branch behind it."""
    programs: List[List[om.Op]] = []
    for name, text in enumerate(threads):
        ops = []
        for words in (step.split() for step in text.split(';')):
            kind, _, order = words[0].replace('?', '').partition('.')
            ops.append(om.Op(str(name), words[0], 0, kind, ''.join(words[1:2]), order,
                             int(''.join(words[2:3]) or 0), branch='?' in words[0]))
        programs.append(ops)
    found: Set[Tuple[int, ...]] = set()
    om.search(om.prepare(programs, machine), lambda state, path: found.add(state[2]))
    return found


class Machines(unittest.TestCase):
    """The machines against shapes whose answers are published."""

    def check(self, outcome: Tuple[int, ...], threads: Sequence[str], allowed: str) -> None:
        for machine in ('armv8', 'x86', 'strict'):
            with self.subTest(threads=threads, machine=machine):
                self.assertEqual(outcome in litmus(machine, *threads), machine in allowed)

    def test_message_passing(self) -> None:
        for writer, reader, allowed in (
                ('W x 1; W y 1', 'R y; R x', 'armv8 strict'),
                ('W x 1; F.full; W y 1', 'R y; R x', 'armv8 strict'),
                ('W x 1; F.full; W y 1', 'R? y; R x', 'armv8 strict'),  # a branch holds no load
                ('W x 1; W y 1', 'R y; F.acquire; R x', 'armv8 strict'),
                ('W x 1; F.release; W y 1', 'R y; F.acquire; R x', ''),
                ('W x 1; W.L y 1', 'R.Q y; R x', ''),
                ('W.L x 1; W y 1', 'R.Q y; R x', 'armv8 strict'),
                ('W x 1; W.L y 1', 'R y; R.A x', 'armv8 strict')):
            self.check((1, 0), (writer, reader), allowed)

    def test_store_buffering(self) -> None:
        for fence, allowed in (('', 'armv8 x86 strict'), ('F.full; ', ''),
                               ('F.release; ', 'x86 strict'), ('F.acquire; ', 'armv8 x86 strict')):
            self.check((0, 0), (f'W x 1; {fence}R y', f'W y 1; {fence}R x'), allowed)
        self.check((0, 0), ('W.L x 1; R.A y', 'W.L y 1; R.A x'), 'x86 strict')  # x86: C adds xchg
        self.check((0, 0), ('W.L x 1; R.Q y', 'W.L y 1; R.Q x'), 'armv8 x86 strict')

    def test_the_lock_pair_on_x86_is_a_full_fence(self) -> None:
        setup = om.parse('--machine x86 --producer python --reader python'.split())
        for thread in om.programs(setup):
            fences = [op.order for op in thread if op.kind == 'F']
            self.assertEqual(set(fences), {'full'})

    def test_load_buffering(self) -> None:
        self.check((1, 1), ('R x; W y 1', 'R y; W x 1'), 'armv8 strict')
        self.check((1, 1), ('R? x; W y 1', 'R? y; W x 1'), 'strict')
        self.check((1, 1), ('R.Q x; W y 1', 'R.Q y; W x 1'), '')

    def test_one_location(self) -> None:
        self.check((1, 0), ('W x 1', 'R x; R x'), '')
        self.check((2, 1), ('W x 1; W x 2', 'R x; R x'), '')
        self.check((1,), ('R x; W x 1',), '')
        self.check((0,), ('W x 1; R x',), '')

    def test_forwarding(self) -> None:
        """A load may see its own thread's store, and so run ahead of it."""
        self.check((1, 0, 1, 0), ('W x 1; R x; R y', 'W y 1; R y; R x'), 'armv8 x86 strict')
        self.check((1, 0, 1, 0), ('W x 1; R.A x; R y', 'W y 1; R.A y; R x'), 'armv8 x86 strict')
        self.check((1, 0, 1, 0), ('W.L x 1; R.A x; R y', 'W.L y 1; R.A y; R x'), 'x86 strict')

    def test_stores_reach_all_at_once(self) -> None:
        """IRIW: two readers never disagree on the order of two stores."""
        self.check((1, 0, 1, 0), ('W x 1', 'W y 1', 'R.Q x; R y', 'R.Q y; R x'), '')
        self.check((1, 0, 1, 0), ('W x 1', 'W y 1', 'R x; R y', 'R y; R x'), 'armv8 strict')


def by_the_axioms(accesses: Sequence[om.Access]) -> Iterator[Tuple[int, ...]]:
    """The same executions without performing anything: choose what each load reads from and keep
    the choices in which nothing comes before itself.  For locations with one writer.  Two loads of
    a location need no order here as long as neither goes back in time."""
    number = {x.bit: k for k, x in enumerate(accesses)}
    kept = [(number[y.bit], number[x.bit]) for x in accesses for y in accesses
            if x.before & y.bit and not (x.op.kind == y.op.kind == 'R' and x.loc == y.loc)]
    loads = [x for x in accesses if x.op.kind == 'R']
    stores = {x.loc: [s for s in accesses if s.op.kind == 'W' and s.loc == x.loc] for x in loads}
    choices = []
    for x in loads:     # -1 is the initial value; coherence leaves no choice among own stores
        own = sum(1 for s in stores[x.loc] if s.bit & x.earlier)
        low, high = (0, len(stores[x.loc])) if x.rivals else (own, own)
        choices.append([k - 1 for k in range(low, high + 1)
                        if (stores[x.loc][k - 1].op.value if k else 0) >= x.op.at_least])
    for picks in itertools.product(*choices):
        # A load of a location may not see an older store than an earlier load did.
        if any(x.loc == y.loc and x.bit & y.earlier and picks[x.index] > picks[y.index]
               for x in loads for y in loads):
            continue
        after: Dict[int, Set[int]] = {k: set() for k in range(len(accesses))}
        for a, b in kept:
            after[a].add(b)
        for x, pick in zip(loads, picks):
            if x.rivals:
                if pick >= 0:
                    after[number[stores[x.loc][pick].bit]].add(number[x.bit])
                if pick + 1 < len(stores[x.loc]):
                    after[number[x.bit]].add(number[stores[x.loc][pick + 1].bit])
        waiting = {k: 0 for k in after}
        for k in itertools.chain(*after.values()):
            waiting[k] += 1
        ready = [k for k, count in waiting.items() if not count]
        for k in ready:     # grows as it goes
            for later in after[k]:
                waiting[later] -= 1
                if not waiting[later]:
                    ready.append(later)
        if len(ready) == len(accesses):
            yield tuple(stores[x.loc][pick].op.value if pick >= 0 else 0
                        for x, pick in zip(loads, picks))


class Search(unittest.TestCase):

    def executions(self, options: str, reduce: bool = True) -> Set[Tuple[int, ...]]:
        setup = om.parse(options.split())
        found: Set[Tuple[int, ...]] = set()
        accesses = om.prepare(om.programs(setup, [1]), setup.machine)
        om.search(accesses, lambda state, path: found.add(state[2]), reduce)
        return found

    def test_the_axioms_give_the_same_executions(self) -> None:
        for options in ('', '--producer python --reader python', '--without F1', '--without A B',
                        '--without F2 F3', '--without R4', '--without all',
                        '--reader python --pair stlxr+ldapr', '--without all --machine x86',
                        '--producer python --pair ldaxr+stlxr'):
            with self.subTest(options=options):
                setup = om.parse(options.split())
                accesses = om.prepare(om.programs(setup, [1]), setup.machine)
                self.assertEqual(self.executions(options), set(by_the_axioms(accesses)))

    def test_what_is_skipped_would_have_changed_nothing(self) -> None:
        for options in ('', '--without F1', '--without F3', '--lossless --in-place'):
            with self.subTest(options=options):
                self.assertEqual(self.executions(options), self.executions(options, reduce=False))


SOURCES = os.path.join(HERE, '..', '..', 'src')


class Code(unittest.TestCase):
    """The comments `SYNC name` in the code have the names of the models' steps."""

    @staticmethod
    def names() -> Set[str]:
        setups = (om.Setup(lossless=True), om.Setup('python', 'python', lossless=True))
        found = {op.step for setup in setups for thread in om.programs(setup) for op in thread}
        # A and B are the order of the loads beside them; the payload has no comment.
        return found - {'A', 'B', 'payload'} | {'F2', *pm.SYNC, *sm.SYNC}

    def check_file(self, name: str, elsewhere: Set[str]) -> None:
        """`elsewhere`: names of steps that only the other language has."""
        path = os.path.join(SOURCES, name)
        if not os.path.exists(path):
            self.fail(f'src/{name} does not exist. Its comments "SYNC name" are checked here.')
        with open(path, encoding='utf-8') as file:
            text = file.read()
        told = [part.strip() for names in re.findall(r'SYNC ([^(:;.*\n]+)', text)
                for part in names.split(',')]
        missing = self.names() - elsewhere - set(told)
        self.assertEqual(sorted(missing), [], f'src/{name}: no comment "SYNC name" for these')
        self.assertLessEqual(set(told), self.names(), f'src/{name}: no model has such a step')
        partners = {part for line in re.findall(r'SYNC [^\n]*pairs with ([^;.\n]*)', text)
                    for part in re.findall(r'"([^"]*)"|\b(F[123]|R4)\b', line) for part in part}
        self.assertLessEqual(partners - {''}, self.names(),
                             f'src/{name}: "pairs with" names a step that no model has')

    def test_c(self) -> None:
        self.check_file('lane.c', elsewhere=set())

    def test_python(self) -> None:
        self.check_file('shmprueba.py', elsewhere={'claim'})    # only clients claim

    def test_the_names(self) -> None:
        self.assertEqual(self.names(), {
            'seq = 2n-1', 'F1', 'F2', 'seq = 2n', 'head = n', 'wake', 'head load', 'seq load', 'R4',
            'seq again', 'place store', 'claim', 'room', 'place load', 'dropped', 'sleep'})


class CommandLine(unittest.TestCase):

    def run_main(self, line: str) -> Tuple[int, List[str]]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            try:
                status = om.main(line.split())
            except SystemExit as stop:
                status = int(stop.code or 0)
        return status, out.getvalue().splitlines()

    def test_a_case_says_whether_it_is_bad(self) -> None:
        status, lines = self.run_main('--without F1 --producer python')
        self.assertEqual(status, 1)
        self.assertIn('The reader accepts message 1', lines[-2])
        self.assertEqual(self.run_main('--without F2')[0], 0)

    def test_what_cannot_be_is_refused(self) -> None:
        for line in ('--without F9', '--without F3 --producer python', '--in-place',
                     '--without place-release', '--producer perl', '--without', '--fence-b',
                     '--pair ldaxr', '--without seq-again --again acquire'):
            with self.subTest(line=line):
                self.assertEqual(self.run_main(line)[0], 2)

    def test_the_table(self) -> None:
        status, lines = self.run_main('')
        self.assertEqual(status, 0)
        self.assertLessEqual(max(map(len, lines)), 100)
        self.assertEqual(len(lines), 1 + len(om.ROWS) + len(list(om.rows())))

    def test_the_table_fails_if_the_code_is_bad(self) -> None:
        with mock.patch.object(om, 'check', return_value=result_of('--without F1')):
            self.assertEqual(self.run_main('')[0], 1)


if __name__ == '__main__':
    unittest.main()
