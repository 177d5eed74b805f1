#!/usr/bin/env python3
"""What place_model.py and sender_model.py must find.

    python3 tests/model/test_place.py
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
import place_model as pm  # noqa: E402
import sender_model  # noqa: E402

RIGHT: Set[str] = set()
LIVING, DROPPED, STUCK = 'garbage, living', 'garbage, dropped', 'producer stuck'
MUTE, MISSED = 'called mute', 'answer missed'
CLAIMS: Dict[str, Dict[str, Set[str]]] = {
    'the chosen design': {'sc': RIGHT, 'tso': RIGHT, 'weak': RIGHT},
    'five messages': {'sc': RIGHT},
    'three clients': {'sc': RIGHT},
    'only the dead are dropped': {'sc': RIGHT, 'tso': RIGHT},
    'echo': {'sc': RIGHT, 'tso': RIGHT, 'weak': RIGHT},
    'echo, only the dead are dropped': {'sc': RIGHT, 'tso': RIGHT},
    'no second store': {'sc': {STUCK}},
    'first (e, h), no second store': {'sc': {STUCK}},
    'first (e, h), and it begins there': {'sc': {LIVING, DROPPED}},
    'first (e, h)': {'sc': RIGHT, 'weak': RIGHT},
    'first (e, h), echo': {'sc': {MUTE}},
    'place not loaded again': {'sc': {'left, called dead'}},
    'place not loaded once it has the lock': {'sc': {'one epoch twice', 'left, called dead'}},
    'passes over the dead': {'sc': {'died, seems to have left'}},
    'without the claim fence': {'sc': RIGHT, 'tso': {LIVING}},
    'without the room fence': {'sc': RIGHT, 'tso': {LIVING}},
    'without the drop fence': {'tso': RIGHT, 'weak': {DROPPED}},
    'without R4': {'tso': RIGHT, 'weak': {DROPPED}},
    'place store not release': {'weak': RIGHT},
    'the same, without R4': {'weak': {LIVING, DROPPED}},
    'place store not release, echo': {'tso': RIGHT, 'weak': {MUTE, MISSED}},
    'unlock keeps no order': {'sc': RIGHT, 'tso': {'left, called dead', 'one epoch twice'}},
    'without the look at dropped': {'sc': {DROPPED}},
    'up lane not loaded again, echo': {'sc': {MUTE, MISSED}},
    'nobody is ever dropped': {'sc': {'stuck'}},
}


class Seen:
    """What happened in all the states of one search.  On sc: other machines only add to it."""

    def __init__(self, design: pm.Design) -> None:
        self.counted: Set[Tuple[int, ...]] = set()      # how many messages each client has counted
        self.ends: Set[Tuple[str, ...]] = set()
        self.dropped: Set[Tuple[int, ...]] = set()
        self.late: Set[str] = set()     # steps in which a client stood that had been dropped
        before: List[Tuple[explore.Local, ...]] = [()]

        def look(d: pm.Design, state: explore.State) -> str:
            maker, *clients = state[1]
            if clients != before[0]:
                before[0] = clients
                self.counted.add(tuple([n - h - 1 if n > h else 0 for _, _, n, h, _ in clients]))
                self.ends.add(tuple([x[0] for x in clients]))
            if maker[4]:
                self.dropped.add(maker[4])
                self.late.update([x[0] for x in clients if x[1] in maker[4]])
            return wrong(d, state) or ''

        wrong = pm.wrong
        with mock.patch.object(pm, 'wrong', look):
            self.result = pm.check(design, 'sc')


def design_of(name: str) -> pm.Design:
    return next(row.design for row in pm.ROWS if row.name == name)


@functools.lru_cache(maxsize=None)
def seen(name: str) -> Seen:
    return Seen(design_of(name))


@functools.lru_cache(maxsize=None)
def result_of(name: str, machine: str) -> explore.Result:
    if machine == 'sc' and not CLAIMS[name]['sc']:
        return seen(name).result
    return pm.check(design_of(name), machine)


class Claims(unittest.TestCase):

    def test_every_row(self) -> None:
        self.assertEqual({row.name: row.machines.split() for row in pm.ROWS},
                         {name: list(machines) for name, machines in CLAIMS.items()})
        for name, machines in CLAIMS.items():
            for machine, kinds in machines.items():
                with self.subTest(name=name, machine=machine):
                    result = result_of(name, machine)
                    self.assertEqual(set(result.traces), kinds)
                    self.assertEqual(result.verdict == 'right', not kinds)

    def test_a_right_verdict_is_not_an_empty_one(self) -> None:
        for name in (name for name, machines in CLAIMS.items() if machines.get('sc') == RIGHT):
            with self.subTest(name=name):
                found, design = seen(name), design_of(name)
                all_of, others = design.messages, (0,) * (design.clients - 1)
                self.assertIn((all_of,) + others, found.counted)
                self.assertIn((1, all_of - 1) + others[1:], found.counted)
                self.assertIn((all_of - 1, 1) + others[1:], found.counted)
                self.assertLessEqual({(1,), (3,), (1, 3)}, found.dropped)
                self.assertLessEqual({(a, b) + ('left',) * len(others[1:])
                                      for a in ('left', 'dead') for b in ('left', 'dead')},
                                     found.ends)
                if design.stalls:
                    self.assertLessEqual({'head', 'take', 'use', 'asks at last', 'count',
                                          'unlock', 'dying', 'dead'}, found.late)
        self.assertIn((1, 3, 5), seen('three clients').dropped)
        self.assertIn((1, 1, 1), seen('three clients').counted)

    def test_what_a_store_buffer_adds(self) -> None:
        states = [result_of('the chosen design', m).states for m in ('sc', 'tso', 'weak')]
        self.assertEqual(states, sorted(set(states)))

    def assert_told(self, told: Sequence[str], steps: Sequence[str]) -> None:
        lines = iter(told)
        for step in steps:
            self.assertTrue(any(step in line for line in lines), '\n'.join([step, *told]))
        self.assertLessEqual(max(map(len, told)), 90)

    def test_the_way_to_a_mistake_is_told(self) -> None:
        for name, machine, kind, *steps in (
                ('no second store', 'sc', STUCK, 'head = 2', 'place = (1, CLAIMING)',
                 'head is 2: begins after it'),
                ('first (e, h), no second store', 'sc', STUCK, 'head is 0', 'head = 2',
                 'place = (1, 0)', 'head is 2: begins after it'),
                ('first (e, h), and it begins there', 'sc', LIVING, 'head is 0', 'head = ',
                 'place is (0, 0)', 'payload of 3', 'place = (1, 0)', 'payload of 1 is 3',
                 'counts'),
                ('first (e, h), echo', 'sc', MUTE, 'place = (1, 0)', 'room? place is (1, 0)',
                 'head = 1', 'begins after it', 'place = (1, 1)', 'no answer; place is (1, 1)'),
                # The client leaves between the producer's load and its question.
                ('place not loaded again', 'sc', 'left, called dead', 'room? place is (1, ',
                 'leaves: place = (2, ', 'unlocks', 'byte 1 is held by 0'),
                ('place not loaded once it has the lock', 'sc', 'one epoch twice',
                 'client 2   place is (0, 0)', 'client 1   claims: place = (1, ',
                 'client 2   locks byte 1'),
                ('passes over the dead', 'sc', 'died, seems to have left',
                 'client 1   claims: place = (1, ', 'client 1   crashes',
                 'client 1   the kernel frees its lock', 'client 2   claims: place = (3, '),
                ('without the claim fence', 'tso', LIVING, 'CLAIMING) (in its store buffer)',
                 'head is 0: begins after it', 'room? place is (0, 0)', 'payload of 1 is 3',
                 'counts'),
                ('without the room fence', 'tso', LIVING, 'head = 1 (in its store buffer)',
                 'room? place is (0, 0)', 'head is 0', 'payload of 1 is 3', 'counts'),
                ('without the drop fence', 'weak', DROPPED, 'dropped = 1 (in its store buffer)',
                 'slot 1 = 3 becomes visible', 'payload of 1 is 3', 'dropped is 0', 'counts'),
                ('without R4', 'weak', DROPPED, 'dropped is 0 (a look before the payload)',
                 'dropped = 1 becomes visible', 'payload of 1 is 3', 'counts'),
                ('the same, without R4', 'weak', LIVING, 'a store before the payload is read',
                 'place = (1, 1) becomes visible', 'payload of 3', 'payload of 1 is 3'),
                ('place store not release, echo', 'weak', MUTE, 'up head = 1 (in its store buffer)',
                 'place = (1, 1) becomes visible', 'no answer; place is (1, 1)'),
                ('unlock keeps no order', 'tso', 'left, called dead', 'leaves: place = (2, ',
                 'unlocks', 'byte 1 is held by 0'),
                ('without the look at dropped', 'sc', DROPPED, 'drops 1', 'payload of 3',
                 'payload of 1 is 3', 'counts message 1'),
                ('up lane not loaded again, echo', 'sc', MUTE, 'the last answer is 0', 'answers',
                 'place = (1, 1)', 'no answer; place is (1, 1)'),
                ('nobody is ever dropped', 'sc', 'stuck', 'client 1   claims')):
            with self.subTest(name=name, kind=kind):
                self.assert_told(result_of(name, machine).traces[kind], steps)


class Sender(unittest.TestCase):

    def test_every_row(self) -> None:
        found = {(row.name, machine): sender_model.check(row.design, machine)
                 for row in sender_model.ROWS for machine in row.machines.split()}
        alone = 'the reader looks at seq alone'
        self.assertEqual({key: result.verdict for key, result in found.items()}, {
            **{('the chosen design', m): 'right' for m in ('sc', 'tso', 'weak')},
            **{(alone, m): 'mixed' for m in ('sc', 'tso', 'weak')},
            ('without F2', 'tso'): 'right', ('without F2', 'weak'): 'mixed'})
        lines = iter(found[alone, 'sc'].traces['mixed'])
        for step in ('sender 1   seq = 2', 'reader     a is 1', 'sender 1   crashes',
                     'sender 2   a = 2', 'reader     b is 2', 'reader     seq is 2'):
            self.assertTrue(any(step in line for line in lines), step)

    def test_a_right_verdict_is_not_an_empty_one(self) -> None:
        ends: Set[Tuple[int, int]] = set()

        def look(state: explore.State) -> None:
            step, a, b = state[1][0]
            if step == 'accepts':
                ends.add((a, b))

        with mock.patch.object(sender_model, 'wrong', look):
            sender_model.check(sender_model.Design(), 'weak')
        self.assertEqual(ends, {(1, 1), (2, 2)})


class CommandLine(unittest.TestCase):

    def test_status_and_trace(self) -> None:
        for names, status, line in ((['without R4'], 1, f'    {DROPPED}:'), (['R4'], 2, '')):
            out = io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(io.StringIO()):
                self.assertEqual(explore.report(
                    pm.ROWS, lambda _, machine: result_of(names[0], machine), names), status)
            lines: List[str] = out.getvalue().splitlines()
            self.assertEqual(bool(line), line in lines)
            self.assertLessEqual(max(map(len, lines), default=0), 100)


if __name__ == '__main__':
    unittest.main()
