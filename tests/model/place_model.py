#!/usr/bin/env python3
"""Who is the consumer, and how far is it?  Every execution, tried one by one.

One producer publishes a few messages into two slots.  Two or three clients claim the one place,
read, and leave.  A client may stand still at any step, or crash there; then the kernel frees its
lock.  The role is a lock (byte 1), so the words of a role have one writer at a time.

    room       full fence  load place
    drop       place held: ask byte 1; it is free: load place again; same epoch: it is dead
               or: it is in the way, and has stalled (here: at any time)
               dropped = e  full fence  and only then overwrite
    claim      place held and not dropped: wait.  Lock byte 1, load place once more
               place = (e, CLAIMING)  full fence  h = head  place = (e, h)
    message    head >= n  payload  R4  dropped is e? stop  [answer]  place = (e, n): it counts
    leaving    place = (e+1, k)  unlock

`place` is one word: an epoch (odd: held, even: left) and a position or CLAIMING.  The producer
looks once a ring: left or dropped: no further check before message n + slots; CLAIMING: the limit
that it knows stays; else the limit is position + slots.

With echo the host sends a message only to a consumer that is settled (held, not CLAIMING, not
dropped).  Then it waits for the answer.  Place left, or another epoch: that client is gone.  Same
epoch, and the position is not below n: it reads but does not echo, an error.  Before each verdict
the host looks at the up lane once more, after a full fence.

Mistakes
    garbage, living             a consumer that was not dropped counts another message's payload
    garbage, dropped            a dropped one does
    counted twice               two consumers count the same message
    one epoch twice             two consumers hold the place under the same epoch
    left, called dead           a consumer that left properly is called dead
    died, seems to have left    a consumer died, was never dropped, and a successor took the place
    producer stuck              producer and consumer wait for each other
    called mute                 a consumer that echoes is said to read without echoing
    answer missed               a consumer that answered is said to be gone without an answer
    stuck                       the producer, alone or with one of the clients, cannot finish from
                                here (with stalls=False: all together cannot)

A client that is refused tries again for ever: so does its user.  Left out: `pid` (for words only);
`seq` and F1 (a consumer does without, and F1 would hide a missing fence after `dropped`); epochs
that wrap.  On the weak machine a load may be early where R4 is missing.

Without arguments: every variant, and an execution for each mistake.  With names of variants: only
these; status 1 if any of them is wrong.
"""
import sys
from functools import partial
from typing import Callable, List, NamedTuple, Optional, Sequence

from explore import (Local, Op, Program, Result, Row, Search, State, atomic, load, lock, other,
                     report, store, unlock)

SYNC = ('room', 'place load', 'dropped', 'claim', 'R4', 'place store')     # names in the code
SLOTS = 2
WORDS = ('head', 'dropped', 'place', 'byte 1', 'up head', 'slot 0', 'slot 1')
HEAD, DROPPED, PLACE, LOCK, UP, SLOT = range(6)
NAMES = ('producer', 'client 1', 'client 2', 'client 3')
CLAIMING = 15           # of place's low half: all ones
NEW: Local = ('look', 0, 0, 0, 0)


class Design(NamedTuple):
    """What was taken out of the protocol, or put in its place."""
    messages: int = 4
    clients: int = 2
    echo: bool = False
    mark: str = 'claiming'          # the claim's first store: (e, CLAIMING), or 'head': (e, h)
    settles: bool = True            # the claim's second store, (e, h)
    fresh: bool = True              # h is loaded after the fence; else mark's h is used
    pass_over: bool = False         # a claim does not wait until the dead one was dropped
    locked_look: bool = True        # the claim loads place once more when it has the lock
    reload: bool = True             # the producer loads place again when the lock is free
    claim_fence: bool = True
    room_fence: bool = True
    drop_fence: bool = True
    r4: bool = True
    look_at_dropped: bool = True
    place_release: bool = True
    unlock_orders: bool = True      # earlier stores are visible before the lock is free
    up_again: bool = True           # echo: the second look at the up lane
    judges: bool = True             # the dead are dropped
    stalls: bool = True             # the stalled are dropped


def place(epoch: int, low: int) -> int:
    return epoch << 4 | low


def producer(d: Design, me: Local) -> Sequence[Op]:
    # n is the next message (echo: or the one that waits for its answer); messages up to `may` may
    # be written without a check; x holds the place; gone: all that were dropped.
    step, n, may, x, gone = me

    def free(step: str, n: int, gone: Sequence[int]) -> Local:
        return (step, n, n + SLOTS - 1, 0, gone)

    def looked(word: int) -> Local:
        e, low = word >> 4, word & 15
        if e % 2 == 0 or e in gone[-1:]:
            return free('write' if n <= d.messages and not d.echo else 'look', n, gone)
        limit = low + SLOTS if low < n else 0       # CLAIMING is not below n
        return ('held' if low < CLAIMING else 'claimed', n, max(may, limit), e, gone)

    def answered(n: int) -> Local:
        return ('look', n + 1, may, 0, gone)

    def drop(why: str) -> Op:
        after = gone + (x,)
        if waits:
            to = ('over look', n + 1, n + SLOTS, 0, after)
        else:
            to = free('over' if n <= d.messages and not d.echo else 'over look', n, after)
        return store(f'drops {x}, {why}: dropped = {x}', DROPPED, x, to)

    waits = step in ('answer', 'where', 'waits', 'up again', 'dead, no answer')
    ops: List[Op] = []
    if step in ('write', 'over') or (n <= min(may, d.messages) and (
            step == 'held' or step == 'claimed' and not d.echo)):
        ops.append(store(f'payload of {n}', SLOT + n % SLOTS, n, ('head', n, may, x, gone),
                         fence=d.drop_fence and step == 'over'))
    if step == 'head':
        start = 'write' if n + 1 <= min(may, d.messages) else 'look'
        after = ('answer', n, may, x, gone) if d.echo else (start, n + 1, may, 0, gone)
        ops.append(store(f'head = {n}', HEAD, n, after, release=True))
    elif step in ('look', 'held', 'claimed', 'over look'):
        ops.append(load('room? place is {}', PLACE, looked,
                        fence=d.room_fence or d.drop_fence and step == 'over look'))
    elif step == 'again':
        ops.append(load('place is still {}?', PLACE,
                        lambda word: ('dead',) + me[1:] if word >> 4 == x else looked(word)))
    elif step == 'answer':
        ops.append(load('the last answer is {}', UP,
                        lambda up: answered(n) if up >= n else ('where',) + me[1:]))
    elif step == 'where':
        ops.append(load('no answer; place is {}', PLACE, lambda word: (
            'is gone' if word >> 4 != x else 'is mute' if n <= word & 15 < CLAIMING else 'waits',
            ) + me[1:]))
    elif step in ('is gone', 'is mute', 'up again'):
        verdict = {'is gone': 'gone', 'is mute': 'mute', 'up again': 'dead, no answer'}[step]
        if d.up_again:
            ops.append(load('once more: the last answer is {}', UP,
                            lambda up: answered(n) if up >= n else (verdict,) + me[1:],
                            fence=True))
        else:
            ops.append(other('then', f'says: {verdict}', (verdict,) + me[1:]))
    elif step == 'gone':
        ops.append(other('then', f'client {x} is gone', answered(n)))
    elif step == 'waits':
        ops.append(other('then', 'looks again', ('answer',) + me[1:]))
    if step in ('dead', 'dead, no answer'):
        ops.append(drop('dead'))
    if step in ('held', 'claimed', 'waits') and d.judges:
        again = ('again' if d.reload else 'dead') if not waits else (
            'again, no answer' if d.reload else 'up again')
        ops.append(atomic('byte 1 is held by {} (0: free)', LOCK, lambda holder: holder,
                          lambda holder: me if holder else (again,) + me[1:]))
    if step == 'again, no answer':
        ops.append(load('place is still {}?', PLACE, lambda word: (
            'up again' if word >> 4 == x else 'is gone',) + me[1:]))
    if d.stalls and (waits if d.echo else step in ('held', 'claimed') and n > may):
        ops.append(drop('stalled'))
    if d.stalls and d.echo and step == 'claimed':       # nobody settles, and nothing can be sent
        ops.append(drop('stalled'))
    return ops


def client(d: Design, machine: str, number: int, me: Local) -> Sequence[Op]:
    # Our epoch is x, n is next, we began after h; v: the place or the payload that was read.
    step, x, n, h, v = me
    counted = (n, h, 0) if n > h + 1 else (0, 0, 0)
    stop: Local = ('stop', x, n, h, 0)

    def begin(word: int) -> Local:
        epoch = (word >> 4) + 1 | 1
        return ('mark' if d.mark == 'claiming' else 'mark at', epoch, 0, 0, 0)

    def judged(word: int, free: Callable[[int], Local], asks: str) -> Local:
        return free(word) if (word >> 4) % 2 == 0 or d.pass_over else (asks, 0, 0, 0, word)

    def to_lock(word: int) -> Local:
        return ('lock', 0, 0, 0, 0 if d.locked_look else word)

    def wait(n: int) -> Local:
        return ('wait' if n <= d.messages else 'leave', x, n, h, 0)

    ops: List[Op] = []
    if step == 'look':
        ops.append(load('place is {}: may it claim?', PLACE,
                        lambda word: judged(word, to_lock, 'asks')))
    elif step == 'asks':        # what byte 1 says makes no difference: it tries again either way
        ops.append(load('dropped is {}', DROPPED,
                        lambda gone: to_lock(v) if gone == v >> 4 else NEW))
    elif step == 'lock':
        ops.append(lock('locks byte 1, which was held by {} (0: free)', LOCK, number,
                        ('locked', 0, 0, 0, 0) if d.locked_look else begin(v), NEW))
    elif step == 'locked':
        ops.append(load('has the lock; place is {}', PLACE,
                        lambda word: judged(word, begin, 'asks, locked')))
    elif step == 'asks, locked':
        ops.append(load('dropped is {}', DROPPED,
                        lambda gone: begin(v) if gone == v >> 4 else ('back', 0, 0, 0, 0)))
    elif step == 'mark':
        ops.append(store(f'claims: place = ({x}, CLAIMING)', PLACE, place(x, CLAIMING),
                         ('head', x, 0, 0, 0)))
    elif step == 'mark at':
        ops.append(load('head is {}', HEAD, lambda head: ('mark early', x, 0, head, 0)))
    elif step == 'mark early':
        ops.append(store(f'claims: place = ({x}, {h})', PLACE, place(x, h), (
            'head' if d.fresh else 'fence', x, 0, 0 if d.fresh else h, 0)))
    elif step == 'fence':
        ops.append(other('then', 'full fence', wait(h + 1), fence=d.claim_fence))
    elif step == 'head':
        def begins(head: int) -> Local:
            return ('take', x, 0, head, 0) if d.settles else ('wait', x, head + 1, head, 0) \
                if head < d.messages else ('leave', x, head + 1, head, 0)
        ops.append(load('head is {}: begins after it', HEAD, begins, fence=d.claim_fence))
    elif step == 'take':
        ops.append(store(f'place = ({x}, {h})', PLACE, place(x, h), wait(h + 1),
                         release=d.place_release))
    elif step == 'use':
        ops.append(load(f'payload of {n} is {{}}', SLOT + n % SLOTS, lambda v: (
            'asks at last' if d.look_at_dropped else 'answer' if d.echo else 'count',
            x, n, h, v)))
        if machine == 'weak' and not d.r4:
            ops.append(load('dropped is {} (a look before the payload)', DROPPED,
                            lambda gone: stop if gone == x else ('use late', x, n, h, 0)))
    elif step == 'use late':
        ops.append(load(f'payload of {n} is {{}}', SLOT + n % SLOTS,
                        lambda v: ('answer' if d.echo else 'count', x, n, h, v)))
        if not d.place_release and not d.echo:
            ops.append(store(f'place = ({x}, {n}) (a store before the payload is read)', PLACE,
                             place(x, n), ('use at last', x, n, h, 0)))
    elif step == 'use at last':
        ops.append(load(f'payload of {n} is {{}}', SLOT + n % SLOTS,
                        lambda v: wait(n + 1) if v == n else ('wrong', x, n, h, v)))
    elif step == 'asks at last':
        ops.append(load('dropped is {}', DROPPED, lambda gone: stop if gone == x else (
            'answer' if d.echo else 'count', x, n, h, v)))
    elif step == 'answer':
        ops.append(store(f'answers message {n}: up head = {n}', UP, n, ('count', x, n, h, v),
                         release=True))
    elif step == 'count':
        ops.append(store(f'counts message {n}: place = ({x}, {n})', PLACE, place(x, n),
                         wait(n + 1) if v == n else ('wrong', x, n, h, v),
                         release=d.place_release))
    elif step in ('unlock', 'back', 'dying'):
        then = {'unlock': ('left', x) + counted, 'dying': ('dead', x) + counted, 'back': NEW}[step]
        ops.append(unlock('the kernel frees its lock' if step == 'dying' else 'unlocks', LOCK,
                          then)._replace(full=d.unlock_orders))
    if step == 'wait':
        ops.append(load(f'head is {{}}: {n} there?', HEAD,
                        lambda head: ('use', x, n, h, 0) if head >= n else me))
    if step in ('wait', 'leave', 'stop'):
        ops.append(store(f'leaves: place = ({x + 1}, {n - 1})', PLACE, place(x + 1, n - 1),
                         ('unlock', x) + counted, release=d.place_release))
    if step == 'stop':      # and whether it leaves in `place`, too, must make no difference
        ops.append(other('then', 'was dropped, and stops', ('unlock', x) + counted))
    # A crash before the first store, or after the last, is the same as to unlock there.
    if step in ('locked', 'asks, locked', 'mark', 'mark at', 'mark early'):
        ops.append(other('crash', 'crashes', ('unlock', 0, 0, 0, 0)))
    elif step in ('fence', 'head', 'take', 'wait', 'use', 'use late', 'use at last', 'answer',
                  'asks at last', 'count', 'leave', 'stop'):
        ops.append(other('crash', 'crashes', ('dying', x) + counted))
    return ops


def wrong(d: Design, state: State) -> Optional[str]:
    memory, (maker, *clients), buffers = state
    step, next_n, may, holder, gone = maker
    epoch, low = divmod(memory[PLACE], 16)
    epochs, counts = [], []
    for what, x, n, h, _ in clients:
        if not x:
            continue
        epochs.append(x)
        if n > h + 1:
            counts.append((h, n))
        if what == 'wrong':
            return 'garbage, dropped' if x in gone else 'garbage, living'
        if what in ('dying', 'dead') and epoch > x and x not in gone:
            return 'died, seems to have left'
        if step in ('dead', 'dead, no answer') and x == holder and what not in ('dying', 'dead'):
            return 'left, called dead'
        if step in ('gone', 'dead, no answer') and x == holder and h < next_n < n:
            return 'answer missed'
        if (what == 'wait' and n == next_n and x == epoch and step in ('look', 'held', 'claimed')
                and x not in gone and not any(buffers)):
            limit = max(may, low + SLOTS if low < n else 0)
            if limit < n or d.echo and low == CLAIMING:
                return 'producer stuck'
    if step == 'mute':
        return 'called mute'
    if len(set(epochs)) < len(epochs):
        return 'one epoch twice'
    counts.sort()
    return 'counted twice' if any(b[0] < a[1] - 1 for a, b in zip(counts, counts[1:])) else None


def show(word: int, value: int) -> str:
    if word != PLACE:
        return str(value)
    x, low = divmod(value, 16)
    return f'({x}, {"CLAIMING" if low == CLAIMING else low})'


def check(d: Design, machine: str) -> Result:
    programs: List[Program] = [partial(producer, d)]
    numbers = range(1, 1 + d.clients)
    programs += [partial(client, d, machine, number) for number in numbers]

    def end(who: Sequence[int], state: State) -> bool:
        memory, threads, buffers = state
        step, n, _, _, gone = threads[0]
        epoch = memory[PLACE] >> 4      # echo: there is nobody to send to, so it waits for one
        rests = d.echo and step == 'look' and (epoch % 2 == 0 or epoch in gone[-1:])
        return ((n > d.messages or rests) and not buffers[0]
                and all(threads[t][0] in ('left', 'dead') or memory[LOCK] not in (0, t)
                        and len(who) <= 2 for t in who if t))

    ends = [[0], [0, 1]] if d.stalls else [[0, *numbers]]       # the clients are alike
    return Search(machine, WORDS, NAMES, programs, show).run(
        [('look' if d.echo else 'write', 1, SLOTS, 0, ())] + [NEW] * d.clients, partial(wrong, d),
        [(who, partial(end, who)) for who in ends])


ECHO = Design(echo=True, messages=3)
SHORT = Design(messages=3)          # the third message overwrites the first
EARLY = Design(mark='head')

ROWS = (
    Row('the chosen design', Design(), 'sc tso weak'),
    Row('five messages', Design(messages=5), 'sc'),
    Row('three clients', Design(messages=3, clients=3), 'sc'),
    Row('only the dead are dropped', Design(stalls=False), 'sc tso'),
    Row('echo', ECHO, 'sc tso weak'),
    Row('echo, only the dead are dropped', ECHO._replace(stalls=False), 'sc tso'),
    Row('no second store', Design(settles=False), 'sc'),
    Row('first (e, h), no second store', EARLY._replace(settles=False), 'sc'),
    Row('first (e, h), and it begins there', EARLY._replace(fresh=False), 'sc'),
    Row('first (e, h)', EARLY, 'sc weak'),
    Row('first (e, h), echo', ECHO._replace(mark='head'), 'sc'),
    Row('place not loaded again', Design(reload=False), 'sc'),
    Row('place not loaded once it has the lock', Design(locked_look=False), 'sc'),
    Row('passes over the dead', Design(pass_over=True), 'sc'),
    Row('without the claim fence', SHORT._replace(claim_fence=False), 'sc tso'),
    Row('without the room fence', SHORT._replace(room_fence=False), 'sc tso'),
    Row('without the drop fence', SHORT._replace(drop_fence=False), 'tso weak'),
    Row('without R4', SHORT._replace(r4=False), 'tso weak'),
    Row('place store not release', SHORT._replace(place_release=False), 'weak'),
    Row('the same, without R4', SHORT._replace(place_release=False, r4=False), 'weak'),
    Row('place store not release, echo', ECHO._replace(place_release=False), 'tso weak'),
    Row('unlock keeps no order', SHORT._replace(unlock_orders=False), 'sc tso'),
    Row('without the look at dropped', SHORT._replace(look_at_dropped=False), 'sc'),
    Row('up lane not loaded again, echo', ECHO._replace(up_again=False), 'sc'),
    Row('nobody is ever dropped', Design(judges=False, stalls=False), 'sc'),
)

if __name__ == '__main__':
    sys.exit(report(ROWS, check, sys.argv[1:]))
