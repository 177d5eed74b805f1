#!/usr/bin/env python3
"""Can a sleeper sleep on a message that is there?  Every execution, tried one by one.

One producer publishes four messages; two sleepers wait for each of them in turn (machines: see
explore.py).

    producer   head = n  fence (wake)  wish > woken?  woken = n, wake all
    sleeper    raise wish to v  fence (sleep)  head still below v?  futex wait on what it saw
    closing    fence  state = CLOSED  wake all; a sleeper that sees CLOSED loads head once more

`wish` is the newest message that anybody sleeps for; it only grows.  `woken` is the producer's own.
The futex wait is one step: it empties the caller's store buffer, then compares under the lock of
the queue.  A wake empties the caller's buffer, too, and takes everybody out of the queue (Linux:
futex_wake has a full barrier of its own even where nobody sleeps).  A sleeper may return for no
reason (a time-out is one, too), and may be killed at any step.

The variants called membarrier: the producer has no fence, and the sleeper calls membarrier after it
has raised `wish`; that empties the other threads' buffers, all at once or one after another.

Mistakes
    lost                the producer has finished, all its stores are visible, and a sleeper is in
                        the queue although `head` has reached what it waits for (in life it sleeps
                        until its time-out)
    a third wake call   for one value of `wish`
    end missed          a sleeper saw CLOSED, and ended without a message that was published

Without arguments: every variant, and an execution for each mistake.  With names of variants: only
these; status 1 if any of them is wrong.
"""
import sys
from functools import partial
from typing import List, NamedTuple, Optional, Sequence

from explore import (Local, Op, Program, Result, Row, Search, State, atomic, load, other, report,
                     store)

SYNC = ('wake', 'sleep')                # names in the code
MESSAGES = 4
HEAD, WISH, STATE = 0, 1, 2
NAMES = ('producer', 'sleeper 1', 'sleeper 2')


class Design(NamedTuple):
    """What was taken out of the protocol, or put in its place."""
    wish: str = 'maximum'           # how it is raised; 'flag': set to 1, cleared by the producer
    clear: str = 'store'            # how the producer clears a flag: by a store, or by an exchange
    producer_fence: bool = True
    sleeper_fence: bool = True
    wait_is_fence: bool = True
    wake_is_fence: bool = True
    barrier: str = ''               # the sleeper's membarrier: 'at once', 'one by one', 'skipped'
    woken: str = 'n'                # after a wake call; 'max': max(n, wish); 'none': nothing
    sleepers: int = 2
    closing: bool = False           # the producer closes after the last message
    close_fence: bool = True
    last_look: bool = True          # at head, after the sleeper saw CLOSED


def producer(d: Design, me: Local) -> Sequence[Op]:
    step, n, woken, wish, calls = me    # calls: wake calls for this value of wish

    def after(n: int, woken: int, wish: int, calls: int) -> Local:
        if n < MESSAGES:
            return ('publish', n + 1, woken, wish, calls)
        return ('close' if d.closing else 'done', 0, 0, 0, calls)

    if step == 'publish':
        return [store(f'head = {n}', HEAD, n, ('look',) + me[1:])]
    if step == 'look' and d.wish == 'flag':
        if d.clear == 'exchange':
            return [atomic('flag was {}; is 0 by exchange', WISH, lambda _: 0,
                           lambda flag: ('wake',) + me[1:] if flag else after(*me[1:]))]
        return [load('flag is {}', WISH, lambda flag: ('clear',) + me[1:] if flag
                     else after(*me[1:]), fence=True)]
    if step == 'clear':
        return [store('flag = 0', WISH, 0, ('wake',) + me[1:])]
    if step == 'look':
        return [load(f'wish is {{}}, woken {woken}', WISH, lambda w: after(*me[1:]) if w <= woken
                     else ('wake', n, {'n': n, 'max': max(n, w), 'none': 0}[d.woken], w,
                           calls + 1 if w == wish else 1), fence=d.producer_fence)]
    if step == 'wake':
        return [other('wake', 'wakes whoever is in the queue', after(*me[1:]),
                      fence=d.wake_is_fence)]
    if step == 'close':
        return [store('state = CLOSED (1)', STATE, 1, ('last wake',) + me[1:],
                      release=d.close_fence)]
    if step == 'last wake':
        return [other('wake', 'wakes whoever is in the queue', ('done',) + me[1:], fence=True)]
    return []


def sleeper(d: Design, machine: str, thread: int, me: Local) -> Sequence[Op]:
    step, v, seen = me                  # waits for message v; the head that it saw
    look: Local = ('look', v, 0)
    got: Local = ('wish', v + 1, 0) if v < MESSAGES + d.closing else ('done', 0, 0)

    def looked(head: int) -> Local:
        return got if head >= v else ('state' if d.closing else 'wait', v, head)

    def closed(head: int) -> Local:
        return got if head >= v else ('done', 0, 0) if v > MESSAGES else ('end missed', v, head)

    def wished(wish: int) -> Local:
        if not d.barrier or (d.barrier == 'skipped' and wish >= v):
            return look
        return ('barrier', v, 1 << thread)

    ops: List[Op] = []
    if step in ('wish', 'woken'):
        if d.wish == 'flag':
            ops.append(store(f'wants {v}: flag = 1', WISH, 1, look))
        elif d.wish == 'store':
            ops.append(load(f'wants {v}: wish is {{}}', WISH,
                            lambda wish: ('store', v, 0) if wish < v else look))
        else:
            ops.append(atomic(f'wants {v}: wish was {{}}, is {v} or more', WISH,
                              lambda wish: max(wish, v), wished))
            if machine == 'weak' and not d.sleeper_fence:
                ops.append(load(f'wants {v}: head is {{}} (a look before its wish)', HEAD,
                                lambda head: ('wish late', v, head)))
    elif step == 'wish late':
        ops.append(atomic(f'wish was {{}}, is {v} or more', WISH, lambda wish: max(wish, v),
                          lambda _: looked(seen)))
    elif step == 'store':
        ops.append(store(f'wish = {v}', WISH, v, look))
    elif step == 'barrier' and d.barrier == 'one by one':       # in any order
        for t in (t for t in range(1 + d.sleepers) if not seen & 1 << t):
            there = seen | 1 << t
            ops.append(other('reach', f'its barrier reaches {NAMES[t]}', look if there ==
                             (2 << d.sleepers) - 1 else ('barrier', v, there), t))
    elif step == 'barrier':
        ops.append(other('reach', 'its barrier reaches all', look))
    elif step == 'look':
        ops.append(load('head is {}', HEAD, looked, fence=d.sleeper_fence))
    elif step == 'state':
        to: Local = ('last look', v, 0) if d.last_look else closed(seen)
        ops.append(load('state is {}', STATE, lambda state: to if state else ('wait', v, seen)))
    elif step == 'last look':
        ops.append(load('head is {} (the last look)', HEAD, closed))
    elif step == 'wait':
        ops.append(load(f'futex wait while head is {seen}: it is {{}}', HEAD,
                        lambda head: ('asleep' if head == seen else 'wish', v, 0),
                        fence=d.wait_is_fence))
    elif step == 'asleep':
        ops.append(other('return', 'returns for no reason', ('wish', v, 0)))
    if step not in ('done', 'killed'):
        ops.append(other('kill', 'is killed', ('killed', 0, 0)))
    return ops


def wrong(state: State) -> Optional[str]:
    memory, (maker, *sleepers), buffers = state
    if maker[0] == 'done' and not buffers[0]:
        for step, v, _ in sleepers:
            if step == 'asleep' and memory[HEAD] >= v:
                return 'lost'
    if any(step == 'end missed' for step, _, _ in sleepers):
        return 'end missed'
    return 'a third wake call' if maker[4] > 2 else None


def check(d: Design, machine: str) -> Result:
    programs: List[Program] = [partial(producer, d)]
    programs += [partial(sleeper, d, machine, t) for t in range(1, 1 + d.sleepers)]
    start: List[Local] = [('publish', 1, 0, 0, 0)] + [('wish', 1, 0)] * d.sleepers
    words = ('head', 'flag' if d.wish == 'flag' else 'wish', 'state')
    return Search(machine, words, NAMES, programs).run(start, wrong)


ONE = Design(wish='store', sleepers=1)
CLOSES = Design(sleepers=1, closing=True)
LENT = Design(producer_fence=False, barrier='at once')

ROWS = (
    Row('the chosen design', Design(), 'sc tso weak'),
    Row('no sleeper', Design(sleepers=0), 'tso'),
    Row('flag', Design(wish='flag', sleepers=1), 'sc tso'),
    Row('flag, cleared by exchange', Design(wish='flag', clear='exchange', sleepers=1), 'sc tso'),
    Row('plain wish', Design(wish='store'), 'sc'),
    Row('plain wish, one sleeper', ONE, 'sc tso weak'),
    Row('without producer fence', Design(producer_fence=False), 'sc tso'),
    Row('without sleeper fence', Design(sleeper_fence=False), 'tso weak'),
    Row('without sleeper fence, one sleeper', ONE._replace(sleeper_fence=False), 'tso weak'),
    Row('the same, and the wait is no fence',
        ONE._replace(sleeper_fence=False, wait_is_fence=False), 'tso'),
    Row('membarrier', LENT, 'tso weak'),
    Row('membarrier, one thread after another', LENT._replace(barrier='one by one'), 'tso weak'),
    Row('membarrier, skipped if wish is high', LENT._replace(barrier='skipped'), 'tso'),
    Row('membarrier, and the wake is no fence', LENT._replace(wake_is_fence=False), 'tso'),
    Row('woken = max(n, wish)', Design(woken='max'), 'sc tso'),
    Row('no woken', Design(woken='none'), 'sc'),
    Row('closing', CLOSES, 'sc tso weak'),
    Row('closing without its fence', CLOSES._replace(close_fence=False), 'tso weak'),
    Row('closing without its fence and wake\'s',
        CLOSES._replace(close_fence=False, producer_fence=False), 'tso weak'),
    Row('closing without the last look', CLOSES._replace(last_look=False), 'sc'),
)

if __name__ == '__main__':
    sys.exit(report(ROWS, check, sys.argv[1:]))
