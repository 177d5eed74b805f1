#include "lane.h"

#include "latency.h"
#include "waiter.h"

/* No run publishes as many messages as the place has numbers for: a head that says so, or that
 * moves further than this, or backwards, is no head. */
#define IMPOSSIBLE SHM_CLAIMING

static struct shm_slot *slot_of(const struct lane *lane, uint64_t n)
{
    return (void *)(lane->slots + (n & (lane->slot_count - 1)) * lane->slot_stride);
}

/* Where reading, or writing, begins. */
static enum lane_result begin_at_head(struct lane *lane)
{
    lane->head = atomic_load_explicit(&lane->shared->head, memory_order_acquire);
    lane->next = lane->head + 1;
    return lane->head < IMPOSSIBLE ? LANE_OK : LANE_DAMAGED;
}

enum lane_result lane_open(struct lane *lane, void *base, const struct shm_header *header,
                           enum shm_lane_index index)
{
    unsigned char *bytes = base;

    *lane = (struct lane){
        .shared = (void *)(bytes + SHM_LANE_AT(index)),
        .slots = bytes + SHM_SLOTS_AT(index, header->slot_count, header->slot_stride),
        .slot_count = header->slot_count,
        .slot_stride = header->slot_stride,
        .capacity = header->payload_capacity,
    };
    return begin_at_head(lane);
}

/* ---- reading ---- */

enum lane_result lane_attach(struct lane *lane)
{
    const enum lane_result result = begin_at_head(lane);

    /* Last: who publishes only once it sees this must not lose us its first message. */
    atomic_fetch_add_explicit(&lane->shared->attached, 1, memory_order_release);
    return result;
}

static bool is_held(uint64_t place, uint64_t dropped)
{
    return SHM_GENERATION(place) % 2 == 1 && SHM_GENERATION(place) != dropped;
}

static bool swap_place(struct lane *lane, uint64_t from, uint64_t to)
{
    return atomic_compare_exchange_strong_explicit(&lane->shared->place, &from, to,
                                                   memory_order_acq_rel, memory_order_relaxed);
}

enum lane_result lane_claim(struct lane *lane, uint32_t pid, uint32_t *other)
{
    struct shm_lane *shared = lane->shared;
    const uint64_t found = atomic_load_explicit(&shared->place, memory_order_acquire);
    const uint64_t dropped = atomic_load_explicit(&shared->dropped, memory_order_acquire);
    const uint16_t generation = SHM_GENERATION(found);

    if (is_held(found, dropped)) {
        const uint64_t holder = atomic_load_explicit(&shared->holder, memory_order_acquire);
        const bool claiming = SHM_POSITION(found) >= SHM_CLAIMING;
        *other = (uint32_t)(claiming ? found : holder);
        const bool same = (claiming || holder >> 32 == generation) &&
                          atomic_load_explicit(&shared->place, memory_order_relaxed) == found;
        return same ? LANE_BUSY : LANE_PENDING;
    }
    uint16_t mine = (uint16_t)((generation + 1u) | 1u); /* the next odd one */
    if (mine == dropped) /* it comes round after 32,768 claims: we would begin as dropped */
        mine = (uint16_t)(mine + 2u);
    const uint64_t claim = SHM_PLACE(mine, SHM_CLAIMING | pid);
    if (!swap_place(lane, found, claim))
        return LANE_PENDING;
    /* Not a plain store: one who was dropped just here, and wakes up, would write over the name of
     * his successor. */
    uint64_t holder = atomic_load_explicit(&shared->holder, memory_order_acquire);
    do
        if (atomic_load_explicit(&shared->place, memory_order_relaxed) != claim)
            return LANE_DROPPED;
    while (!atomic_compare_exchange_strong_explicit(&shared->holder, &holder,
                                                    (uint64_t)mine << 32 | pid,
                                                    memory_order_acq_rel, memory_order_acquire));
    /* SYNC claim (full fence): pairs with "room". Either the producer sees that we claim, and waits
     * for us, or we see what it has published without waiting, and begin behind that. */
    atomic_thread_fence(memory_order_seq_cst);
    if (begin_at_head(lane) != LANE_OK)
        return LANE_DAMAGED;
    lane->place = SHM_PLACE(mine, lane->head);
    if (!swap_place(lane, claim, lane->place))
        return LANE_DROPPED;
    atomic_fetch_add_explicit(&shared->attached, 1, memory_order_release); /* last: lane_attach */
    return lane_dropped(lane) ? LANE_DROPPED : LANE_OK;
}

void lane_leave(struct lane *lane)
{
    if (lane->place != 0)
        swap_place(
            lane, lane->place,
            SHM_PLACE((uint16_t)(SHM_GENERATION(lane->place) + 1u), SHM_POSITION(lane->place)));
    lane->place = 0;
}

bool lane_dropped(const struct lane *lane)
{
    const struct shm_lane *shared = lane->shared;

    /* Or was the successor dropped, too, before we looked? Then the place tells. */
    return lane->place != 0 &&
           (atomic_load_explicit(&shared->dropped, memory_order_acquire) ==
                SHM_GENERATION(lane->place) ||
            atomic_load_explicit(&shared->place, memory_order_relaxed) != lane->place);
}

/* Message next is lost: go on with the oldest one that the producer is not about to overwrite. */
static enum lane_result lapped(struct lane *lane)
{
    const uint64_t head = atomic_load_explicit(&lane->shared->head, memory_order_acquire);
    uint64_t next = lane->next + 1;

    if (lane_dropped(lane))
        return LANE_DROPPED;
    if (head - lane->head > IMPOSSIBLE)
        return LANE_DAMAGED;
    lane->head = head;
    /* head + 1 may be half written already, over message head + 1 - slot_count. */
    if (head + 2 > next + lane->slot_count)
        next = head + 2 - lane->slot_count;
    lane->lost += next - lane->next;
    lane->next = next;
    return LANE_LAPPED;
}

enum lane_result lane_next(struct lane *lane, struct lane_message *message)
{
    if (lane->head < lane->next) {
        /* SYNC head load (acquire): pairs with "head = n". Polled in place of the slot, whose line
         * the producer would lose between two stores. */
        const uint64_t head = atomic_load_explicit(&lane->shared->head, memory_order_acquire);
        if (head - lane->head > IMPOSSIBLE)
            return LANE_DAMAGED;
        lane->head = head;
        if (head < lane->next)
            return lane_dropped(lane) ? LANE_DROPPED : LANE_EMPTY;
    }

    const struct shm_slot *slot = slot_of(lane, lane->next);
    /* SYNC seq load (acquire): pairs with F2, so the payload is at least as new as seq. */
    const uint64_t seq = atomic_load_explicit(&slot->seq, memory_order_acquire);
    if (seq != 2 * lane->next) {
        lane->retries++;
        /* Older is normal on weakly ordered machines: host.py has no fence between "seq = 2n" and
         * "head = n", so head may be seen first. Newer is lost. */
        if ((int64_t)(seq - 2 * lane->next) >= 0)
            return lapped(lane);
        /* What lane_readable looks at, too: or the two would disagree for ever. */
        const uint64_t head = atomic_load_explicit(&lane->shared->head, memory_order_relaxed);
        if (head - lane->head > IMPOSSIBLE)
            return LANE_DAMAGED;
        return lane_dropped(lane) ? LANE_DROPPED : LANE_PENDING;
    }
    message->n = lane->next;
    message->timestamp_ns = atomic_load_explicit(&slot->timestamp_ns, memory_order_relaxed);
    message->due_ns = atomic_load_explicit(&slot->due_ns, memory_order_relaxed);
    message->length = atomic_load_explicit(&slot->length, memory_order_relaxed);
    message->crc32 = atomic_load_explicit(&slot->crc32, memory_order_relaxed);
    message->payload = slot->payload;
    if (message->length <= lane->capacity)
        return LANE_OK;
    const enum lane_result torn = lane_confirm(lane, message); /* or a lie? */
    return torn == LANE_OK ? LANE_DAMAGED : torn;
}

enum lane_result lane_confirm(struct lane *lane, const struct lane_message *message)
{
    /* SYNC R4 (acquire fence): pairs with F1, and with the fence behind "dropped". Without it the
     * second look could be made before the payload was read, and would vouch for nothing; an
     * acquire load would not keep it here. */
    atomic_thread_fence(memory_order_acquire);
    if (lane_dropped(lane))
        return LANE_DROPPED;
    /* SYNC seq again */
    const struct shm_slot *slot = slot_of(lane, message->n);
    if (atomic_load_explicit(&slot->seq, memory_order_relaxed) == 2 * message->n)
        return LANE_OK;
    lane->retries++;
    return lapped(lane);
}

enum lane_result lane_release(struct lane *lane, const struct lane_message *message)
{
    /* SYNC place swap (release): pairs with "place load"; the payload was read before the
     * producer may write over it. A swap, because a store could land on a successor's place. */
    if (lane->place != 0) {
        const uint64_t done = SHM_PLACE(SHM_GENERATION(lane->place), message->n);
        if (!swap_place(lane, lane->place, done))
            return LANE_DROPPED;
        lane->place = done;
    }
    lane->next = message->n + 1;
    return LANE_OK;
}

bool lane_readable(const struct lane *lane)
{
    const uint64_t head = atomic_load_explicit(&lane->shared->head, memory_order_acquire);

    if (head - lane->head > IMPOSSIBLE || lane_dropped(lane))
        return true;
    if (head < lane->next)
        return false;
    const struct shm_slot *slot = slot_of(lane, lane->next);
    return (int64_t)(atomic_load_explicit(&slot->seq, memory_order_relaxed) - 2 * lane->next) >= 0;
}

/* ---- writing ---- */

bool lane_writable(struct lane *lane)
{
    if (lane->next <= lane->limit)
        return true;
    /* SYNC room (full fence): pairs with "claim"; our last store of head is out before we look. */
    atomic_thread_fence(memory_order_seq_cst);
    /* SYNC place load (acquire): pairs with "place swap". */
    const uint64_t place = atomic_load_explicit(&lane->shared->place, memory_order_acquire);
    const uint64_t dropped = atomic_load_explicit(&lane->shared->dropped, memory_order_relaxed);
    const uint64_t position = SHM_POSITION(place);
    if (!is_held(place, dropped)) {
        /* Nobody to wait for. Who claims from now on begins with message next, or behind it: so far
         * nothing of his is overwritten. */
        lane->limit = lane->next + lane->slot_count - 1;
    } else if (position < lane->next) { /* else he is claiming (or lies): what was seen counts */
        const uint64_t limit = position + lane->slot_count;
        lane->limit = limit > lane->limit ? limit : lane->limit;
    }
    return lane->next <= lane->limit;
}

enum lane_result lane_reserve(struct lane *lane, unsigned char **payload)
{
    if (!lane_writable(lane))
        return LANE_FULL;
    struct shm_slot *slot = slot_of(lane, lane->next);
    /* SYNC seq = 2n-1 */
    atomic_store_explicit(&slot->seq, 2 * lane->next - 1, memory_order_relaxed);
    /* SYNC F1 (release fence): pairs with R4; the slot is marked before its bytes change. */
    atomic_thread_fence(memory_order_release);
    *payload = slot->payload;
    return LANE_OK;
}

void lane_commit(struct lane *lane, uint32_t length, uint64_t due_ns, uint32_t crc32)
{
    struct shm_slot *slot = slot_of(lane, lane->next);
    const uint64_t n = lane->next++;
    const uint64_t now = clock_now_ns();

    atomic_store_explicit(&slot->length, length, memory_order_relaxed);
    atomic_store_explicit(&slot->crc32, crc32, memory_order_relaxed);
    atomic_store_explicit(&slot->due_ns, due_ns ? due_ns : now, memory_order_relaxed);
    atomic_store_explicit(&slot->timestamp_ns, now, memory_order_relaxed);
    /* SYNC F2, seq = 2n (release): pairs with "seq load". */
    atomic_store_explicit(&slot->seq, 2 * n, memory_order_release);
    /* SYNC head = n (release, F3): pairs with "head load"; who reads in place without a look at seq
     * relies on this one. */
    atomic_store_explicit(&lane->shared->head, n, memory_order_release);
    /* SYNC wake (full fence): pairs with "sleep" (waiter.c). Either we see the wish, or the sleeper
     * sees our head; with neither it would sleep on a message that is there. */
    atomic_thread_fence(memory_order_seq_cst);
    if (atomic_load_explicit(&lane->shared->wish, memory_order_relaxed) > lane->woken) {
        lane->woken = n; /* not the wish: that sleeper may not be in the queue yet */
        waiter_wake(&lane->shared->head);
    }
}

uint64_t lane_unread(const struct lane *lane)
{
    const uint64_t place = atomic_load_explicit(&lane->shared->place, memory_order_acquire);

    return lane->next - 1 - SHM_POSITION(place);
}

bool lane_has_consumer(const struct lane *lane)
{
    const uint64_t place = atomic_load_explicit(&lane->shared->place, memory_order_acquire);

    return SHM_GENERATION(place) % 2 == 1;
}
