#!/usr/bin/env python3
"""What place_model.py must find.

    python3 tests/model/test_place.py
"""
import contextlib
import functools
import io
import os
import sys
import unittest
from typing import Dict, Set, Tuple
from unittest import mock

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
import explore  # noqa: E402  (the folder must be on the path first)
import place_model as pm  # noqa: E402

RIGHT, GARBAGE, BROKEN = 'right', 'garbage counted', 'lossless broken'
CLAIMS: Dict[str, Dict[str, Set[str]]] = {
    'the chosen design': {'sc': set(), 'tso': set(), 'weak': set()},
    'five messages': {'sc': set()},
    'two words': {'sc': {GARBAGE, BROKEN, 'false drop', 'counted twice'}},
    'without the look at dropped': {'sc': {GARBAGE}},
    'without claim fence': {'tso': set(), 'weak': {BROKEN, GARBAGE}},
    'without room fence': {'sc': set(), 'tso': {BROKEN, GARBAGE}},
    'without drop fence': {'tso': set(), 'weak': {GARBAGE}},
    'without R4': {'tso': set(), 'weak': {GARBAGE}},
    'nobody is ever dropped': {'sc': {'stuck'}},
}


class Seen:
    """What happened in all the states of one search."""

    def __init__(self, design: pm.Design, machine: str) -> None:
        self.counted: Set[Tuple[int, ...]] = set()      # how many messages each client has counted
        self.ends: Set[Tuple[str, ...]] = set()
        self.dropped: Set[Tuple[int, ...]] = set()
        self.stale: Set[str] = set()    # steps in which a dropped client stood beside a successor

        def look(d: pm.Design, state: explore.State) -> str:
            _, (maker, *clients), _ = state
            self.counted.add(tuple(max(n - h - 1, 0) for _, _, n, h, _ in clients))
            self.ends.add(tuple(x[0] for x in clients))
            self.dropped.add(maker[4])
            self.stale |= {x[0] for x, other in (clients, clients[::-1])
                           if x[1] in maker[4] and other[1] > x[1] and other[0] != 'claim'}
            return wrong(d, state) or ''

        wrong = pm.wrong
        with mock.patch.object(pm, 'wrong', look):
            self.result = pm.check(design, machine)


@functools.lru_cache(maxsize=None)
def seen(name: str, machine: str) -> Seen:
    return Seen(next(row.design for row in pm.ROWS if row.name == name), machine)


class Claims(unittest.TestCase):

    def test_every_row(self) -> None:
        self.assertEqual({row.name: row.machines.split() for row in pm.ROWS},
                         {name: list(machines) for name, machines in CLAIMS.items()})
        for name, machines in CLAIMS.items():
            for machine, kinds in machines.items():
                with self.subTest(name=name, machine=machine):
                    result = seen(name, machine).result
                    self.assertEqual(set(result.traces), kinds)
                    self.assertEqual(result.verdict == RIGHT, not kinds)

    def test_a_right_verdict_is_not_an_empty_one(self) -> None:
        for name, machines in CLAIMS.items():
            for machine, kinds in machines.items():
                if not kinds:
                    with self.subTest(name=name, machine=machine):
                        found, all_of = seen(name, machine), 5 if name == 'five messages' else 4
                        self.assertIn((all_of, 0), found.counted)
                        self.assertIn((1, all_of - 1), found.counted)
                        self.assertIn((all_of - 1, 1), found.counted)
                        self.assertLessEqual({(), (1,), (3,), (1, 3)}, found.dropped)
                        self.assertLessEqual({(a, b) for a in ('left', 'dropped')
                                              for b in ('left', 'dropped')}, found.ends)
                        self.assertLessEqual({'head', 'take', 'wait', 'use', 'asks at last',
                                              'count', 'leave', 'dropped'}, found.stale)

    def test_what_a_store_buffer_adds(self) -> None:
        states = [seen('the chosen design', m).result.states for m in ('sc', 'tso', 'weak')]
        self.assertEqual(states, sorted(set(states)))

    def test_the_way_to_what_is_wrong_is_told(self) -> None:
        for name, machine, kind, *steps in (
                # The second drop hides the first.
                ('two words', 'sc', GARBAGE, 'drops 1', 'client 2   claims 2', 'drops 2',
                 'client 1   dropped is 2', 'client 1   counts'),
                # A late first store lands on the successor's cursor.
                ('two words', 'sc', 'false drop', 'client 1   claims 1', 'drops 1',
                 'client 2   claims 2', 'client 2   cursor = 4', 'client 1   cursor = '),
                # A late look at head moves the successor's cursor.
                ('two words', 'sc', BROKEN, 'client 1   claims 1', 'drops 1', 'client 2   claims 2',
                 'client 1   head is 4', 'client 1   cursor = 4', 'cursor is 4', 'payload of 5',
                 'payload of 3 is 5', 'client 2   counts'),
                ('without the look at dropped', 'sc', GARBAGE, 'drops 1', 'payload of 3',
                 'payload of 1 is 3', 'counts message 1'),
                ('without claim fence', 'weak', BROKEN, 'head is 0 (a look before its swap)',
                 'place is free (0)', 'payload of 3', 'claims 1', 'payload of 1 is 3', 'counts'),
                ('without room fence', 'tso', BROKEN, 'head = 1 (in its store buffer)',
                 'room? place is free (0)', 'claims 1', 'head is 0', 'payload of 1 is 3', 'counts'),
                ('without drop fence', 'weak', GARBAGE, 'dropped = 1 (in its store buffer)',
                 'slot 1 = 3 becomes visible', 'payload of 1 is 3', 'dropped is 0', 'counts'),
                ('without R4', 'weak', GARBAGE, 'dropped is 0 (a look before the payload)',
                 'dropped = 1 becomes visible', 'payload of 1 is 3', 'counts'),
                ('nobody is ever dropped', 'sc', 'stuck', 'client 1   claims 1')):
            with self.subTest(name=name, kind=kind):
                told = seen(name, machine).result.traces[kind]
                lines = iter(told)
                for step in steps:
                    self.assertTrue(any(step in line for line in lines), '\n'.join([step] + told))
                self.assertLessEqual(max(map(len, told)), 90)


class CommandLine(unittest.TestCase):

    def test_status_and_trace(self) -> None:
        for names, status, line in ((['without R4'], 1, '    garbage counted:'), (['R4'], 2, '')):
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                self.assertEqual(explore.report(
                    pm.ROWS, lambda _, machine: seen(names[0], machine).result, names), status)
            self.assertEqual(bool(line), line in out.getvalue().splitlines())


if __name__ == '__main__':
    unittest.main()
