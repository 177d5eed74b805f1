#!/usr/bin/env python3
"""What sleep_model.py must find, and that the machines of explore.py are what they are said to be.

    python3 tests/model/test_sleep.py
"""
import contextlib
import functools
import io
import os
import sys
import unittest
from typing import Dict, List, Sequence, Set, Tuple
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import explore  # noqa: E402  (the folder must be on the path first)
import sleep_model as sm  # noqa: E402

RIGHT, LOST, MISSED = 'right', 'lost', 'end missed'
CLAIMS: Dict[str, Dict[str, str]] = {
    'the chosen design': {'sc': RIGHT, 'tso': RIGHT, 'weak': RIGHT},
    'no sleeper': {'tso': RIGHT},
    'flag': {'sc': LOST, 'tso': LOST},
    'flag, cleared by exchange': {'sc': LOST, 'tso': LOST},
    'plain wish': {'sc': LOST},
    'plain wish, one sleeper': {'sc': RIGHT, 'tso': RIGHT, 'weak': RIGHT},
    'without producer fence': {'sc': RIGHT, 'tso': LOST},
    'without sleeper fence': {'tso': RIGHT, 'weak': RIGHT},
    'without sleeper fence, one sleeper': {'tso': RIGHT, 'weak': RIGHT},
    'the same, and the wait is no fence': {'tso': LOST},
    'membarrier': {'tso': RIGHT, 'weak': RIGHT},
    'membarrier, one thread after another': {'tso': RIGHT, 'weak': RIGHT},
    'membarrier, skipped if wish is high': {'tso': LOST},
    'membarrier, and the wake is no fence': {'tso': LOST},
    'woken = max(n, wish)': {'sc': LOST, 'tso': LOST},
    'no woken': {'sc': 'a third wake call'},
    'closing': {'sc': RIGHT, 'tso': RIGHT, 'weak': RIGHT},
    'closing without its fence': {'tso': RIGHT, 'weak': RIGHT},
    "closing without its fence and wake's": {'tso': RIGHT, 'weak': MISSED},
    'closing without the last look': {'sc': MISSED},
}


class Seen:
    """What happened in all the states of one search."""

    def __init__(self, design: sm.Design, machine: str) -> None:
        self.slept: Set[int] = set()        # messages that somebody slept for, was woken for
        self.woken: Set[int] = set()
        self.both = 0                       # states in which two sleepers slept
        self.most = 0                       # wake calls for one value of wish
        self.ends: Set[Tuple[str, ...]] = set()

        def look(state: explore.State) -> str:
            _, (maker, *sleepers), _ = state
            self.slept |= {x[1] for x in sleepers if x[0] == 'asleep'}
            self.woken |= {x[1] for x in sleepers if x[0] == 'woken'}
            self.both += sum(x[0] == 'asleep' for x in sleepers) == 2
            self.most = max(self.most, maker[4])
            self.ends.add(tuple(x[0] for x in (maker, *sleepers)))
            return wrong(state) or ''

        wrong = sm.wrong
        with mock.patch.object(sm, 'wrong', look):
            self.result = sm.check(design, machine)


@functools.lru_cache(maxsize=None)
def seen(name: str, machine: str) -> Seen:
    return Seen(next(row.design for row in sm.ROWS if row.name == name), machine)


class Claims(unittest.TestCase):

    def test_every_row(self) -> None:
        self.assertEqual({row.name: row.machines.split() for row in sm.ROWS},
                         {name: list(machines) for name, machines in CLAIMS.items()})
        for name, machines in CLAIMS.items():
            for machine, verdict in machines.items():
                with self.subTest(name=name, machine=machine):
                    self.assertEqual(seen(name, machine).result.verdict, verdict)

    def test_a_right_verdict_is_not_an_empty_one(self) -> None:
        for name, machines in CLAIMS.items():
            for machine in machines:
                with self.subTest(name=name, machine=machine):
                    found = seen(name, machine)
                    design = next(row.design for row in sm.ROWS if row.name == name)
                    count, last = design.sleepers, sm.MESSAGES + design.closing
                    if machines[machine] == RIGHT:
                        self.assertIn(('done',) * (1 + count), found.ends)
                        self.assertIn(('done',) + ('killed',) * count, found.ends)
                        self.assertEqual(found.woken, set(range(1, last + 1) if count else ()))
                        self.assertEqual(found.slept, set(range(1, last + 1) if count else ()))
                        self.assertEqual(found.both > 0, count == 2)

    def test_at_most_two_wake_calls_a_sleep_and_none_without(self) -> None:
        self.assertEqual(seen('the chosen design', 'sc').most, 2)
        self.assertEqual(seen('no sleeper', 'tso').most, 0)

    def test_a_sleeper_killed_before_its_wish_costs_no_wake_call(self) -> None:
        self.assertIn(('done', 'killed', 'killed'), seen('the chosen design', 'sc').ends)
        with mock.patch.object(sm, 'sleeper', return_value=[]):     # it never takes a step
            self.assertEqual(Seen(sm.Design(), 'tso').most, 0)

    def test_the_way_to_a_loss_is_told(self) -> None:
        for name, machine, *steps in (
                ('flag', 'sc', 'wants 2: flag = 1', 'flag = 0', 'wakes whoever', 'it is 1'),
                ('flag, cleared by exchange', 'sc', 'wants 2: flag = 1', 'is 0 by exchange',
                 'wakes whoever', 'it is 1'),
                ('plain wish', 'sc', 'wish = 2', 'wish = 1', 'wish is 1, woken 1'),
                ('without producer fence', 'tso', 'head = 1 (in its store buffer)',
                 'wish is 0, woken 0', 'wish was 0, is 1', 'it is 0', 'head = 1 becomes visible'),
                ('the same, and the wait is no fence', 'tso', 'wish = 1 (in its store buffer)',
                 'it is 0', 'head = 1 becomes visible', 'wish is 0, woken 0'),
                ('membarrier, skipped if wish is high', 'tso', 'wish was 0', 'wish was 1, is 1',
                 'head is 0', 'it is 0', 'head = 1 becomes visible'),
                ('membarrier, and the wake is no fence', 'tso', 'its barrier reaches all',
                 'wakes whoever', 'it is 0', 'head = 1 becomes visible'),
                ('woken = max(n, wish)', 'sc', 'wish is 2, woken 0', 'wakes whoever', 'it is 1',
                 'head = 2', 'wish is 2, woken 2')):
            with self.subTest(name=name):
                told = seen(name, machine).result.traces[LOST]
                lines = iter(told)
                for step in steps:
                    self.assertTrue(any(step in line for line in lines), '\n'.join([step] + told))
                self.assertLessEqual(max(map(len, told)), 90)


WORDS = ('x', 'y')


def litmus(machine: str, *threads: str) -> Set[Tuple[int, ...]]:
    """Values read in all executions of `W x`, `R x`, `F R x` (full fence), `F W x` (release)."""
    def program(text: str, me: explore.Local) -> Sequence[explore.Op]:
        steps = text.split('; ')[me[0]:][:1]
        if not steps:
            return []
        *fence, kind, word = steps[0].split()
        if kind == 'W':
            return [explore.store('', WORDS.index(word), 1, (me[0] + 1,) + me[1:], bool(fence))]
        return [explore.load('', WORDS.index(word), lambda value: (me[0] + 1,) + me[1:] + (value,),
                             bool(fence))]

    ends: Set[Tuple[int, ...]] = set()

    def look(state: explore.State) -> None:
        if all(x[0] == 2 for x in state[1]):
            ends.add(tuple(value for x in state[1] for value in x[1:]))

    explore.Search(machine, WORDS, threads, [functools.partial(program, t) for t in threads]).run(
        [(0,)] * len(threads), look)
    return ends


class Machines(unittest.TestCase):
    """Against shapes whose answers are published."""

    def test_litmus(self) -> None:
        for outcome, threads, allowed in (
                ((0, 0), ('W x; R y', 'W y; R x'), ['tso', 'weak']),
                ((0, 0), ('W x; F R y', 'W y; R x'), ['tso', 'weak']),
                ((0, 0), ('W x; F R y', 'W y; F R x'), []),
                ((1, 0), ('W x; W y', 'R y; R x'), ['weak']),
                ((1, 0), ('W x; F W y', 'R y; R x'), []),
                ((1, 1), ('R x; W y', 'R y; W x'), []),
                ((0,), ('W x; R x',), [])):
            self.assertEqual([m for m in ('sc', 'tso', 'weak') if outcome in litmus(m, *threads)],
                             allowed, threads)


class CommandLine(unittest.TestCase):

    def run_main(self, *names: str) -> Tuple[int, List[str]]:
        out = io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
            status = explore.report(sm.ROWS, sm.check, names)
        return status, out.getvalue().splitlines()

    def test_status_and_trace(self) -> None:
        status, lines = self.run_main('flag')
        self.assertEqual(status, 1)
        self.assertIn('    lost:', lines)
        self.assertEqual(self.run_main('plain wish, one sleeper')[0], 0)
        self.assertEqual(self.run_main('flg')[0], 2)

    def test_the_table_fails_if_the_design_is_bad(self) -> None:
        for name, status in (('flag', 1), ('plain wish, one sleeper', 0)):
            with mock.patch.object(sm, 'check', return_value=seen(name, 'sc').result):
                self.assertEqual(self.run_main()[0], status)


if __name__ == '__main__':
    unittest.main()
