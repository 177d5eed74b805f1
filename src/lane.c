#include "lane.h"

#include "latency.h"
#include "segment.h"
#include "waiter.h"

/* No run publishes this many messages: a head that moves further, or backwards, is no head. */
#define IMPOSSIBLE_JUMP (1ull << 48)
#define WAKE_AGAIN_NS   1000000u

/* The word that pid and flags make together, in this machine's byte order. */
union owner {
    struct {
        uint32_t pid, flags;
    };
    uint64_t word;
};
#define OWNER(p, f)     (((union owner){.pid = (p), .flags = (f)}).word)
#define PID_OF(word_)   (((union owner){.word = (word_)}).pid)
#define FLAGS_OF(word_) (((union owner){.word = (word_)}).flags)

static struct shm_slot *slot_of(const struct lane *lane, uint64_t n)
{
    return (void *)(lane->slots + (n & (lane->slot_count - 1)) * lane->slot_stride);
}

/* Where reading, or writing, begins. */
static enum lane_result begin_at_head(struct lane *lane)
{
    lane->head = atomic_load_explicit(&lane->shared->head, memory_order_acquire);
    lane->next = lane->head + 1;
    return lane->head < IMPOSSIBLE_JUMP ? LANE_OK : LANE_DAMAGED;
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

enum lane_result lane_claim(struct lane *lane, uint32_t pid, uint32_t flags, uint32_t *other)
{
    struct shm_lane *shared = lane->shared;
    const uint64_t mine = OWNER(pid, flags | SHM_ATTACHED);
    uint64_t claim = OWNER(pid, 0), promised = OWNER(pid, flags);
    uint64_t found = atomic_load_explicit(&shared->owner, memory_order_relaxed);

    do {
        *other = PID_OF(found);
        if (*other != 0 && *other != pid && !process_is_gone(*other))
            return LANE_BUSY;
    } while (!atomic_compare_exchange_weak_explicit(&shared->owner, &found, claim,
                                                    memory_order_acq_rel, memory_order_relaxed));

    /* A predecessor may have been killed, or dropped, in its sleep. */
    atomic_store_explicit(&shared->waiting, 0, memory_order_relaxed);
    /* The cursor first, then the flags: the producer believes the cursor once it sees LOSSLESS. */
    if (begin_at_head(lane) != LANE_OK)
        return LANE_DAMAGED;
    atomic_store_explicit(&shared->cursor, lane->head, memory_order_release);
    if (!atomic_compare_exchange_strong_explicit(&shared->owner, &claim, promised,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return LANE_DROPPED;

    /* Begin behind what was published while the flags were on their way. The fence pairs with the
     * producer's between its store of head and its next look at the flags (lane_writable; make_room
     * in host.py): either it sees our flags, or we see its head. */
    atomic_thread_fence(memory_order_seq_cst);
    if (begin_at_head(lane) != LANE_OK)
        return LANE_DAMAGED;
    atomic_store_explicit(&shared->cursor, lane->head, memory_order_release);
    /* ATTACHED last: who publishes only once it sees it must not lose its first message to the line
     * above. */
    if (!atomic_compare_exchange_strong_explicit(&shared->owner, &promised, mine,
                                                 memory_order_acq_rel, memory_order_relaxed))
        return LANE_DROPPED;
    lane->owner = mine;
    return LANE_OK;
}

void lane_leave(struct lane *lane)
{
    uint64_t mine = lane->owner;

    lane_restore(lane);
    if (mine != 0)
        atomic_compare_exchange_strong_explicit(&lane->shared->owner, &mine, 0,
                                                memory_order_acq_rel, memory_order_relaxed);
    lane->owner = 0;
}

static bool still_ours(const struct lane *lane)
{
    return lane->owner == 0 ||
           atomic_load_explicit(&lane->shared->owner, memory_order_relaxed) == lane->owner;
}

/* Message next is lost: go on with the oldest one that the producer is not about to overwrite. */
static enum lane_result lapped(struct lane *lane)
{
    const uint64_t head = atomic_load_explicit(&lane->shared->head, memory_order_acquire);
    uint64_t next = lane->next + 1;

    if (head - lane->head > IMPOSSIBLE_JUMP)
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
        if (head - lane->head > IMPOSSIBLE_JUMP)
            return LANE_DAMAGED;
        lane->head = head;
        if (head < lane->next)
            return still_ours(lane) ? LANE_EMPTY : LANE_DROPPED;
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
        if (head - lane->head > IMPOSSIBLE_JUMP)
            return LANE_DAMAGED;
        return still_ours(lane) ? LANE_PENDING : LANE_DROPPED;
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
    /* Asked for every message, between its use and lane_release: one that was dropped stores at
     * most one more cursor, and that one is lower than its successor's first. */
    if (!still_ours(lane))
        return LANE_DROPPED;
    /* SYNC R4 (acquire fence): pairs with F1. Without it the second look could be made before the
     * payload was read, and would vouch for nothing; an acquire load would not keep it here. */
    atomic_thread_fence(memory_order_acquire);
    /* SYNC seq again */
    const struct shm_slot *slot = slot_of(lane, message->n);
    if (atomic_load_explicit(&slot->seq, memory_order_relaxed) == 2 * message->n)
        return LANE_OK;
    lane->retries++;
    return lapped(lane);
}

void lane_release(struct lane *lane, const struct lane_message *message)
{
    lane->next = message->n + 1;
    /* SYNC cursor store (release): pairs with the producer's cursor load; the payload was read
     * before the producer may write over it. Where nobody waits for it, not every time: the
     * producer would lose the line in which it looks for a sleeper. lane_restore makes it good. */
    if (lane->owner != 0 && (FLAGS_OF(lane->owner) & SHM_LOSSLESS || message->n % 16 == 0))
        atomic_store_explicit(&lane->shared->cursor, message->n, memory_order_release);
}

void lane_restore(struct lane *lane)
{
    _Atomic uint64_t *cursor = &lane->shared->cursor;

    if (lane->owner != 0 && still_ours(lane) &&
        atomic_load_explicit(cursor, memory_order_relaxed) != lane->next - 1)
        atomic_store_explicit(cursor, lane->next - 1, memory_order_release);
}

bool lane_readable(struct lane *lane)
{
    const uint64_t head = atomic_load_explicit(&lane->shared->head, memory_order_acquire);

    if (head - lane->head > IMPOSSIBLE_JUMP || !still_ours(lane))
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
    /* Pairs with the fence in lane_claim: our last store of head is out before we look at flags. */
    atomic_thread_fence(memory_order_seq_cst);
    const uint32_t flags =
        FLAGS_OF(atomic_load_explicit(&lane->shared->owner, memory_order_relaxed));
    if (flags & SHM_LOSSLESS) {
        /* SYNC cursor load (acquire): pairs with "cursor store". It only ever moves forward, and
         * never past what was published; anything else is a dropped consumer's late store. */
        const uint64_t cursor = atomic_load_explicit(&lane->shared->cursor, memory_order_acquire);
        if (cursor > lane->cursor && cursor < lane->next)
            lane->cursor = cursor;
        lane->limit = lane->cursor + lane->slot_count;
    } else {
        /* Nobody to wait for. Who claims from now on begins with message next, or behind it: so far
         * nothing of his is overwritten. */
        lane->limit = lane->next + lane->slot_count - 1;
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

    const uint64_t owner = atomic_load_explicit(&lane->shared->owner, memory_order_relaxed);
    if (FLAGS_OF(owner) & SHM_BLOCKS) {
        /* SYNC wake (full fence): pairs with the one in waiter_block. Either we see that it waits,
         * or it sees our head; with neither it would sleep on a message that is there. */
        atomic_thread_fence(memory_order_seq_cst);
        /* One call is enough until it has run: before it sleeps again it moves the cursor past what
         * it was woken for. (The millisecond is for a consumer that does not.) */
        if (atomic_load_explicit(&lane->shared->waiting, memory_order_relaxed) &&
            (atomic_load_explicit(&lane->shared->cursor, memory_order_relaxed) >= lane->woken ||
             now - lane->woken_ns > WAKE_AGAIN_NS)) {
            lane->woken = n;
            lane->woken_ns = now;
            waiter_wake(&lane->shared->head);
        }
    }
}

uint64_t lane_unread(struct lane *lane)
{
    return lane->next - 1 - atomic_load_explicit(&lane->shared->cursor, memory_order_acquire);
}

bool lane_has_consumer(const struct lane *lane)
{
    return FLAGS_OF(atomic_load_explicit(&lane->shared->owner, memory_order_relaxed)) &
           SHM_ATTACHED;
}
