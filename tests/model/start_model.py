#!/usr/bin/env python3
"""Can two hosts of one name live at once?  Every execution, tried one by one.

Three hosts start, live, end, and start again.  Each may crash at any step; then the kernel frees
its lock, at any later moment.  A name leads to an object or to nothing.  An object stays itself
without a name, for as long as a process has it open.  Each object has one lock (byte 0).

    start      create the object with its name (both or neither; the name is taken: judge)
               lock the new object: refused: start over
               the name still leads to this object? no: close it, start over.  Live
    judge      open the name; lock its object: refused: give up
               the name still leads to this object? no: close it, start over
               unlink the name  close the object (that unlocks)  start over
    end        the name still leads to this object? yes: unlink it.  Unlock

Mistakes
    two live hosts              at once
    a live host loses its name  it went live under the name, and nobody finds it any more
    stuck                       a host that runs alone cannot go live, though nobody holds the lock
                                of the object that the name leads to

A host that gave up starts again: so does its user.  Each step is a system call, and in order.  Two
hosts can make each other start over for ever, but only in lockstep: each time one of them judges
the other's new object before its owner has locked it (test_start.py replays it).  Hence the nap of
random length, and the bound.  Left out: the resource tracker of a host that was killed, which
unlinks the name without the lock; `rm`; a starter's segment before it is whole.

Without arguments: every variant, and an execution for each mistake.  With names of variants: only
these; status 1 if any of them is wrong.
"""
import sys
from functools import partial
from typing import Callable, List, NamedTuple, Optional, Sequence, Tuple

from explore import (Local, Memory, Op, Result, Row, Search, State, atomic, call, load, lock, other,
                     report, store, unlock)

HOSTS = 3
NAME, LOCK = 0, 1       # the name leads to this object (0: to nothing); who holds each one's lock
OBJECTS = range(1, HOSTS + 2)       # one a host is open, and one more may have the name
WORDS = ('name',) + tuple(f'lock of object {o}' for o in OBJECTS)
NAMES = tuple(f'host {k}' for k in range(1, HOSTS + 1))
NEW: Local = ('create', 0)          # a host's state: step, object that it has open


class Design(NamedTuple):
    """What was taken out of the protocol, or put in its place."""
    starter_checks: bool = True     # that the name leads to its object, once it has the lock
    judge_locks: bool = True        # it does not only ask
    judge_checks: bool = True       # that the name leads to the object, once it has the lock
    judge_unlinks_first: bool = True    # and only then unlocks
    end_unlinks_first: bool = True      # and only then unlocks


def new_object(memory: Memory, hosts: Sequence[Local]) -> Tuple[int, Memory]:
    """Create an object under the name, unless the name is taken."""
    if memory[NAME]:
        return 0, memory
    used = {o for _, o in hosts}
    new = next(o for o in OBJECTS if o not in used)
    return new, (new,) + memory[1:]


def host(d: Design, number: int, me: Local) -> Sequence[Op]:
    step, o = me
    byte_0 = LOCK + o - 1
    held = 'held by {} (0: free)'

    def same(yes: str, no: str) -> Callable[[int], Local]:
        return lambda name: (yes if name == o else no, o)

    ops: List[Op] = []
    if step == 'create':
        ops.append(call('creates object {} (0: the name is taken)', new_object,
                        lambda new: ('lock', new) if new else ('open', 0)))
    elif step == 'lock':
        locked = 'check' if d.starter_checks else 'go live'
        ops.append(lock(f'locks its object {o}, {held}', byte_0, number, (locked, o), NEW))
    elif step == 'check':
        ops.append(load('the name leads to object {}; is live, or closes its own', NAME,
                        same('live', 'close')))
    elif step == 'go live':
        ops.append(load('is live without a check; the name leads to object {}', NAME,
                        same('live', 'live without name')))
    elif step in ('live', 'live without name'):
        ops.append(load('ends; the name leads to object {}', NAME, same(
            'end: unlink' if d.end_unlinks_first else 'end: unlock, unlink', 'close')))
    elif step == 'end: unlink':
        ops.append(store('unlinks the name', NAME, 0,
                         ('close', o) if d.end_unlinks_first else NEW))
    elif step == 'end: unlock, unlink':
        ops.append(unlock(f'unlocks object {o}', byte_0, ('end: unlink', o)))
    elif step == 'open':
        ops.append(load('opens the name: object {}', NAME,
                        lambda name: ('judge', name) if name else NEW))
    elif step == 'judge' and not d.judge_locks:
        ops.append(atomic(f'asks for the lock of object {o}, {held}', byte_0, lambda now: now,
                          lambda now: NEW if now else ('judge: check', o)))
    elif step == 'judge':
        locked = 'judge: check' if d.judge_checks else 'judge: unlink'
        ops.append(lock(f'locks object {o}, {held}, to judge it', byte_0, number, (locked, o),
                        NEW))
    elif step == 'judge: check':
        first = d.judge_unlinks_first or not d.judge_locks
        ops.append(load('the name leads to object {}', NAME, same(
            'judge: unlink' if first else 'judge: unlock, unlink',
            'close' if d.judge_locks else 'forget')))
    elif step == 'judge: unlink':
        closes = d.judge_locks and d.judge_unlinks_first
        ops.append(store('unlinks the name: its object is stale', NAME, 0,
                         ('close' if closes else 'forget', o)))
    elif step == 'judge: unlock, unlink':
        ops.append(unlock(f'unlocks object {o}', byte_0, ('judge: unlink', o)))
    elif step == 'close':
        ops.append(unlock(f'closes object {o}, which unlocks it', byte_0, NEW))
    elif step == 'forget':
        ops.append(other('then', f'closes object {o}', NEW))
    elif step == 'dying':
        ops.append(atomic(f'the kernel closes object {o}', byte_0,
                          lambda now: 0 if now == number else now, lambda _: NEW))
    if o and step != 'dying':
        ops.append(other('crash', 'crashes', ('dying', o)))
    return ops


def live(state: State) -> int:
    return sum(step in ('live', 'live without name') for step, _ in state[1])


def wrong(state: State) -> Optional[str]:
    if live(state) > 1:
        return 'two live hosts'
    lost = any(step == 'live' and o != state[0][NAME] for step, o in state[1])
    return 'a live host loses its name' if lost else None


def search(d: Design) -> Search:
    return Search('sc', WORDS, NAMES, [partial(host, d, k) for k in range(1, HOSTS + 1)])


def check(d: Design, machine: str) -> Result:
    def end(k: int, state: State) -> bool:
        memory, hosts, _ = state
        return hosts[k][0] == 'live' or (memory[NAME] > 0
                                         and memory[LOCK + memory[NAME] - 1] not in (0, k + 1))

    return search(d).run([NEW] * HOSTS, wrong,
                         [([k], partial(end, k)) for k in range(HOSTS)])


ROWS = (
    Row('the chosen design', Design(), 'sc'),
    Row('a starter does not check the name', Design(starter_checks=False), 'sc'),
    Row('a judge only asks, takes no lock', Design(judge_locks=False), 'sc'),
    Row('a judge does not check the name', Design(judge_checks=False), 'sc'),
    Row('a judge unlocks, then unlinks', Design(judge_unlinks_first=False), 'sc'),
    Row('a host that ends unlocks, then unlinks', Design(end_unlinks_first=False), 'sc'),
)

if __name__ == '__main__':
    sys.exit(report(ROWS, check, sys.argv[1:]))
