#!/usr/bin/env python3
"""Who is the consumer, and how far is it?  Every execution, tried one by one.

One producer publishes four messages into two slots, two clients claim the one place, read and leave
(explore.py: machines).  The producer may drop whoever holds the place whenever it looks, and every
client may stand still for ever, or go on with its next step at any later moment.

    producer   full fence  load place  [dropped = X  release fence]  payload  F2  head = n
    claim      swap place to (X, claiming)  full fence  h = head  swap to (X, h)
    message    head >= n  payload  R4  dropped == X? stop  swap (X, n-1) to (X, n): it counts
    leaving    swap (X, k) to (X + 1, k)

`place` is one word: generation X (odd: held, even: free), and a position or "claiming".  A swap
(compare-and-swap) that fails says: stop, you were dropped.  The producer, which has none, looks
once a ring: free or dropped, nothing to ask before message n + slots; claiming, what it saw last
counts.

Wrong: `garbage counted` (a dropped client counts a payload that is not its message's), `lossless
broken` (one that is not dropped does), `counted twice`, `false drop` (a client stops, or is waited
for in vain, without having been dropped), `stuck` (a state from which the producer alone, or with
one of the clients, cannot come to its end, whatever the others have left behind).

Left out: `holder` (nobody decides by it), `seq` and F1 (a consumer does without; F1 would stand in
for the release fence), a generation that wraps.  Without R4 a weak machine may look at `dropped`
before it reads the payload, without the claim's fence at `head` before its swap is visible: there
the client may do it in that order, too.

Without arguments: every variant, and an execution of each kind that is wrong.  With names of
variants: these only; status 1 if any of them is wrong.
"""
import sys
from functools import partial
from typing import List, NamedTuple, Optional, Sequence

from explore import Local, Op, Program, Result, Row, Search, State, load, report, store, swap

SLOTS = 2
WORDS = ('head', 'dropped', 'place', 'cursor', 'slot 0', 'slot 1')
HEAD, DROPPED, PLACE, CURSOR, SLOT = range(5)
NAMES = ('producer', 'client 1', 'client 2')
CLAIMING = 8            # of place's low half; the client's number is added


class Design(NamedTuple):
    """What was taken out of the protocol, or put in its place."""
    two_words: bool = False         # the pid in `place`, the position in `cursor`, dropped by pid
    look_at_dropped: bool = True
    claim_fence: bool = True
    room_fence: bool = True
    drop_fence: bool = True
    r4: bool = True
    drops: bool = True
    messages: int = 4


def place(generation: int, low: int) -> int:
    return generation << 4 | low


def producer(d: Design, me: Local) -> Sequence[Op]:
    # Message n is next; up to `may` may be written without a look; who holds the place; all that
    # were dropped, `dropped` is the last of them.
    step, n, may, holder, gone = me

    def free(gone: Sequence[int]) -> Local:     # messages n to n + SLOTS - 1 without a look
        step = 'write' if n <= d.messages else 'look'
        return (step, n, n + SLOTS - 1, 0, gone)

    def dropped(x: int) -> bool:
        return x in gone[-1:]

    def held(x: int, position: int) -> Local:
        return ('held', n, max(may, position + SLOTS if position < n else 0), x, gone)

    def looked(word: int) -> Local:
        x, low = (word, 0) if d.two_words else (word >> 4, word & 15)
        if dropped(x) or (x == 0 if d.two_words else x % 2 == 0):
            return free(gone)
        if d.two_words:
            return ('cursor', n, may, x, gone)
        return ('held', n, may, x, gone) if low >= CLAIMING else held(x, low)

    ops: List[Op] = []
    if step == 'cursor':
        return [load('room? cursor is {}', CURSOR, lambda position: held(holder, position))]
    if step == 'held' and d.drops:
        behind = free(gone + (holder,))
        ops.append(store(f'drops {holder}: dropped = {holder}', DROPPED, holder,
                         ('over',) + behind[1:] if behind[0] == 'write' else behind))
    if step in ('write', 'over') or (step == 'held' and n <= min(may, d.messages)):
        ops.append(store(f'payload of {n}', SLOT + n % SLOTS, n, ('head', n, may, 0, gone),
                         release=d.drop_fence and step == 'over'))
    elif step == 'head':
        start = 'write' if n + 1 <= min(may, d.messages) else 'look'
        ops.append(store(f'head = {n}', HEAD, n, (start, n + 1, may, 0, gone), release=True))
    else:
        ops.append(load('room? place is {}', PLACE, looked, fence=d.room_fence))
    return ops


def client(d: Design, machine: str, number: int, me: Local) -> Sequence[Op]:
    # Generation x is ours (two words: our pid); n is next; began behind h; payload v, or the place
    # that it would take, or the head that it saw early.
    step, x, n, h, v = me
    mine = place(x, CLAIMING + number)
    counted = (n, h, 0) if n > h + 1 else (0, 0, 0)
    stop: Local = ('dropped', x) + counted
    left: Local = ('left', 0) + counted

    def claim(word: int, early: int = -1) -> Local:
        return ('claim', number if d.two_words else (word >> 4) + 1 | 1, 0, early, word)

    def wait(n: int, h: int) -> Local:
        return ('wait' if n <= d.messages else 'leave', x, n, h, 0)

    def free(word: int) -> bool:
        return word == 0 if d.two_words else (word >> 4) % 2 == 0

    ops: List[Op] = []
    if step == 'look':
        ops.append(load('place is {}: free?', PLACE,
                        lambda word: claim(word) if free(word) else ('asks', 0, 0, 0, word)))
    elif step == 'asks':
        holder = v if d.two_words else v >> 4
        ops.append(load('dropped is {}', DROPPED,
                        lambda gone: claim(v) if gone == holder else ('look', 0, 0, 0, 0)))
    elif step == 'claim':
        took: Local = ('head', x, 0, 0, 0) if h < 0 else ('take', x, 0, h, 0)
        ops.append(swap(f'claims {x}: place was {{}}', PLACE, v, x if d.two_words else mine,
                        took, ('look', 0, 0, 0, 0)))
        if h < 0 and machine == 'weak' and not d.claim_fence:
            ops.append(load('head is {} (a look before its swap)', HEAD,
                            lambda head: claim(v, head)))
    elif step == 'head':
        ops.append(load('head is {}: begins behind it', HEAD, lambda head: ('take', x, 0, head, 0)))
    elif step == 'take' and d.two_words:
        ops.append(store(f'cursor = {h}', CURSOR, h, wait(h + 1, h), release=True))
    elif step == 'take':
        ops.append(swap(f'begins at {h}: place was {{}}', PLACE, mine, place(x, h),
                        wait(h + 1, h), stop))
    elif step == 'use':
        ops.append(load(f'payload of {n} is {{}}', SLOT + n % SLOTS,
                        lambda v: ('asks at last' if d.look_at_dropped else 'count', x, n, h, v)))
        if machine == 'weak' and not d.r4:
            ops.append(load('dropped is {} (a look before the payload)', DROPPED,
                            lambda gone: stop if gone == x else ('use late', x, n, h, 0)))
    elif step == 'use late':
        ops.append(load(f'payload of {n} is {{}}', SLOT + n % SLOTS,
                        lambda v: ('count', x, n, h, v)))
    elif step == 'asks at last':
        ops.append(load('dropped is {}', DROPPED,
                        lambda gone: stop if gone == x else ('count', x, n, h, v)))
    elif step == 'count':
        behind = wait(n + 1, h) if v == n else ('wrong', x, n, h, v)
        if d.two_words:
            ops.append(store(f'counts message {n}: cursor = {n}', CURSOR, n, behind, release=True))
        else:
            ops.append(swap(f'counts message {n}: place was {{}}', PLACE,
                            place(x, n - 1), place(x, n), behind, stop))
    if step == 'wait':
        ops.append(load(f'head is {{}}: {n} there?', HEAD,
                        lambda head: ('use', x, n, h, 0) if head >= n else me))
    if step in ('wait', 'leave'):
        if d.two_words:
            ops.append(swap('leaves: place was {}', PLACE, x, 0, left, left))
        else:
            ops.append(swap('leaves: place was {}', PLACE, place(x, n - 1),
                            place(x + 1, n - 1), left, stop))
    return ops


def wrong(d: Design, state: State) -> Optional[str]:
    memory, (maker, *clients), buffers = state
    waits, next_n, may, _, gone = maker
    for step, x, n, _, _ in clients:
        if step == 'wrong':
            return 'garbage counted' if x in gone else 'lossless broken'
        if step == 'dropped' and x not in gone:
            return 'false drop'
        # It has counted all that there is, and yet the producer waits for it.
        if (d.two_words and step == 'wait' and waits == 'held' and may < next_n == n
                and memory[PLACE] == x and memory[CURSOR] < n - 1 and not any(buffers)):
            return 'false drop'
    counted = [set(range(h + 1, n)) for _, _, n, h, _ in clients if n]
    return 'counted twice' if len(counted) == 2 and counted[0] & counted[1] else None


def show(d: Design, word: int, value: int) -> str:
    if word != PLACE or d.two_words:
        return str(value)
    x, low = divmod(value, 16)
    return (f'{x} claimed by client {low - CLAIMING}' if low >= CLAIMING else
            f'{x} at {low}' if x % 2 else f'free ({x})')


def check(d: Design, machine: str) -> Result:
    programs: List[Program] = [partial(producer, d)]
    programs += [partial(client, d, machine, number) for number in (1, 2)]

    def end(who: Sequence[int], state: State) -> bool:
        _, threads, buffers = state
        return (threads[0][1] > d.messages and not buffers[0]
                and all(threads[t][0] in ('left', 'dropped') for t in who if t))

    alive = [(who, partial(end, who)) for who in ((0,), (0, 1), (0, 2))]
    return Search(machine, WORDS, NAMES, programs, partial(show, d)).run(
        [('write', 1, SLOTS, 0, ())] + [('look', 0, 0, 0, 0)] * 2, partial(wrong, d), alive)


ROWS = (
    Row('the chosen design', Design(), 'sc tso weak'),
    Row('five messages', Design(messages=5), 'sc'),
    Row('two words', Design(two_words=True, messages=5), 'sc'),
    Row('without the look at dropped', Design(look_at_dropped=False), 'sc'),
    Row('without claim fence', Design(claim_fence=False), 'tso weak'),
    Row('without room fence', Design(room_fence=False), 'sc tso'),
    Row('without drop fence', Design(drop_fence=False), 'tso weak'),
    Row('without R4', Design(r4=False), 'tso weak'),
    Row('nobody is ever dropped', Design(drops=False), 'sc'),
)

if __name__ == '__main__':
    sys.exit(report(ROWS, check, sys.argv[1:]))
