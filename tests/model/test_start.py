#!/usr/bin/env python3
"""What start_model.py must find.

    python3 tests/model/test_start.py
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
import start_model as st  # noqa: E402

LOSES = 'a live host loses its name'
CLAIMS: Dict[str, str] = {
    'the chosen design': 'right',
    'a starter does not check the name': 'two live hosts',
    'a judge only asks, takes no lock': LOSES,
    'a judge does not check the name': LOSES,
    'a judge unlocks, then unlinks': LOSES,
    'a host that ends unlocks, then unlinks': LOSES,
}


@functools.lru_cache(maxsize=None)
def result_of(name: str) -> explore.Result:
    return st.check(next(row.design for row in st.ROWS if row.name == name), 'sc')


class Claims(unittest.TestCase):

    def test_every_row(self) -> None:
        self.assertEqual([row.name for row in st.ROWS], list(CLAIMS))
        for name, verdict in CLAIMS.items():
            with self.subTest(name=name):
                self.assertEqual(result_of(name).verdict, verdict)

    def test_a_right_verdict_is_not_an_empty_one(self) -> None:
        live: Set[int] = set()                      # each host is live in some state
        steps: Set[str] = set()
        judged: Set[str] = set()                    # what an owner did while it was judged

        def look(state: explore.State) -> None:
            memory, hosts, _ = state
            live.update(k for k, x in enumerate(hosts) if x[0] == 'live')
            steps.update(x[0] for x in hosts)
            for step, o in hosts:
                judged.update(x[0] for x in hosts if x[1] == o and step == 'judge: unlink')
            self.assertLessEqual(len({o for _, o in hosts} | {memory[st.NAME]}), 5)

        with mock.patch.object(st, 'wrong', look):
            st.check(st.Design(), 'sc')
        self.assertEqual(live, set(range(st.HOSTS)))
        self.assertEqual(steps, {'create', 'lock', 'check', 'live', 'end: unlink', 'open', 'judge',
                                 'judge: check', 'judge: unlink', 'close', 'dying'})
        self.assertEqual(judged, {'judge: unlink', 'judge', 'lock', 'dying'})

    def test_a_new_object_is_unlocked(self) -> None:
        make = st.new_object

        def looks(memory: explore.Memory, hosts: Tuple[explore.Local, ...]) -> Tuple:
            new, after = make(memory, hosts)
            self.assertFalse(new and memory[st.LOCK + new - 1])
            return new, after

        with mock.patch.object(st, 'new_object', looks):
            st.check(st.Design(), 'sc')

    def test_the_way_to_a_mistake_is_told(self) -> None:
        for name, *steps in (
                ('a starter does not check the name', 'host 1     creates object 1',
                 'host 2     locks object 1', 'host 2     unlinks', 'host 1     is live without',
                 'host 2     is live'),
                ('a judge only asks, takes no lock', 'host 2     asks', 'host 1     locks its',
                 'is live', 'host 2     unlinks'),
                ('a judge does not check the name', 'host 2     opens the name: object 1',
                 'host 1     creates object 2', 'is live', 'host 2     locks object 1',
                 'host 2     unlinks'),
                ('a judge unlocks, then unlinks', 'host 2     unlocks', 'host 1     locks its',
                 'is live', 'host 2     unlinks'),
                ('a host that ends unlocks, then unlinks', 'host 1     unlocks object 1',
                 'host 2     locks object 1', 'is live', 'host 2     unlinks')):
            with self.subTest(name=name):
                told = result_of(name).traces[CLAIMS[name]]
                lines = iter(told)
                for step in steps:
                    self.assertTrue(any(step in line for line in lines), '\n'.join([step, *told]))
                self.assertLessEqual(max(map(len, told)), 90)

    def test_two_may_start_over_for_ever(self) -> None:
        """But only if each judges the other's new object before its owner locks it."""
        search = st.search(st.Design())
        memory: explore.Memory = (0,) * len(st.WORDS)
        begin: explore.State = (memory, (st.NEW,) * st.HOSTS, ((),) * st.HOSTS)
        state = begin
        for thread, text in (
                (0, 'creates'), (1, 'creates'), (1, 'opens'), (1, 'locks object'),
                (0, 'locks its object'),            # is refused, and starts over
                (1, 'the name leads'), (1, 'unlinks'), (1, 'closes'),
                (1, 'creates'), (0, 'creates'), (0, 'opens'), (0, 'locks object'),
                (1, 'locks its object'),            # is refused, and starts over
                (0, 'the name leads'), (0, 'unlinks'), (0, 'closes')):
            after = [x for t, op, _, x in search.steps(state) if t == thread
                     and op.text.startswith(text)]
            self.assertEqual(len(after), 1, (text, state))
            state = after[0]
            self.assertEqual(st.live(state), 0)
        self.assertEqual(state, begin)              # so this can go on for ever


class CommandLine(unittest.TestCase):

    def test_status_and_trace(self) -> None:
        for name, status in (('a judge unlocks, then unlinks', 1), ('the chosen design', 0)):
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                self.assertEqual(explore.report(st.ROWS, lambda *_: result_of(name), [name]),
                                 status)
            self.assertEqual(f'    {LOSES}:' in out.getvalue().splitlines(), status == 1)


if __name__ == '__main__':
    unittest.main()
