#!/usr/bin/env python3
"""Does a sender go on where a dead one stopped?  Every execution, tried one by one.

Two senders publish the up lane's next message, one after the other; the first may crash at any
step.  The role is a lock (byte 2), which the kernel then frees.  The second goes on from `head`: it
writes the same message, in the same slot, again.  The reader is the host.

    sender     lock byte 2  n = head + 1  seq = 2n-1  F1  payload  F2  seq = 2n  head = n  unlock
    reader     head load  seq load  payload  R4  seq again

One message, and one slot, that nobody wrote before; two words are the payload.

Mistake: `mixed`: the reader accepts a message with one word of each sender.  Without arguments:
every variant, and an execution for each mistake.  With names of variants: only these; status 1 if
any of them is wrong.
"""
import sys
from functools import partial
from typing import List, NamedTuple, Optional, Sequence

from explore import (Local, Op, Program, Result, Row, Search, State, load, lock, other, report,
                     store, unlock)

WORDS = ('head', 'seq', 'byte 2', 'a', 'b')
HEAD, SEQ, LOCK, A, B = range(5)
NAMES = ('reader', 'sender 1', 'sender 2')


class Design(NamedTuple):
    """What was taken out of the protocol."""
    looks_at_head: bool = True      # the reader; else at seq alone
    f1: bool = True
    f2: bool = True


def sender(d: Design, number: int, me: Local) -> Sequence[Op]:
    step, = me
    ops: List[Op] = []
    if step == 'lock':
        ops.append(lock('locks byte 2, which was held by {} (0: free)', LOCK, number, ('head?',),
                        me))
    elif step == 'head?':
        ops.append(load('head is {}', HEAD, lambda head: ('unlock',) if head else ('seq = 1',)))
    elif step == 'seq = 1':
        ops.append(store('seq = 1', SEQ, 1, ('a',)))
    elif step == 'a':
        ops.append(store(f'a = {number}', A, number, ('b',), release=d.f1))
    elif step == 'b':
        ops.append(store(f'b = {number}', B, number, ('seq = 2',)))
    elif step == 'seq = 2':
        ops.append(store('seq = 2', SEQ, 2, ('head',), release=d.f2))
    elif step == 'head':
        ops.append(store('head = 1', HEAD, 1, ('unlock',), release=d.f2))
    elif step == 'unlock':
        ops.append(unlock('unlocks, or the kernel does', LOCK, ('done',)))
    if step not in ('lock', 'unlock', 'done'):
        ops.append(other('crash', 'crashes', ('unlock',)))
    return ops


def reader(d: Design, me: Local) -> Sequence[Op]:
    step, a, b = me
    again: Local = ('look', 0, 0)
    if step == 'look' and d.looks_at_head:
        return [load('head is {}', HEAD, lambda head: ('seq' if head else 'look', 0, 0))]
    if step in ('look', 'seq'):
        return [load('seq is {}', SEQ, lambda seq: ('a', 0, 0) if seq == 2 else again)]
    if step == 'a':
        return [load('a is {}', A, lambda a: ('b', a, 0))]
    if step == 'b':
        return [load('b is {}', B, lambda b: ('seq again', a, b))]
    if step == 'seq again':
        return [load('seq is {}', SEQ, lambda seq: ('accepts', a, b) if seq == 2 else again)]
    return []


def wrong(state: State) -> Optional[str]:
    step, a, b = state[1][0]
    return 'mixed' if step == 'accepts' and a != b else None


def check(d: Design, machine: str) -> Result:
    programs: List[Program] = [partial(reader, d)]
    programs += [partial(sender, d, number) for number in (1, 2)]
    return Search(machine, WORDS, NAMES, programs).run(
        [('look', 0, 0), ('lock',), ('lock',)], wrong)


ROWS = (
    Row('the chosen design', Design(), 'sc tso weak'),
    Row('the reader looks at seq alone', Design(looks_at_head=False), 'sc tso weak'),
    Row('without F2', Design(f2=False), 'tso weak'),
)

if __name__ == '__main__':
    sys.exit(report(ROWS, check, sys.argv[1:]))
