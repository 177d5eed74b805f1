#define _GNU_SOURCE 1
#include "shm_lane.h"

#include <errno.h>
#include <limits.h>
#include <time.h>
#include <unistd.h>

#if SHM_HAS_FUTEX
#include <sys/syscall.h>
#endif
#define FUTEX_WAIT 0 /* <linux/futex.h> has them, but a musl toolchain may come without it */
#define FUTEX_WAKE 1

/* No run publishes as many messages as the place has numbers for. A head that has reached this
 * number, moved so far in one step, or moved backwards, is damaged. */
#define IMPOSSIBLE SHM_CLAIMING

#define LOAD(at, order)         atomic_load_explicit(at, memory_order_##order)
#define STORE(at, value, order) atomic_store_explicit(at, value, memory_order_##order)

#define PRODUCER_OF(lane) ((lane)->index == SHM_DOWN ? SHM_ROLE_HOST : SHM_ROLE_SENDER)
#define CONSUMER_OF(lane) ((lane)->index == SHM_DOWN ? SHM_ROLE_CONSUMER : SHM_ROLE_RECEIVER)
#define HAS_CRC(lane)     (((lane)->segment->header.flags & SHM_FLAG_CRC) != 0)

static struct shm_slot *slot_of(const struct shm_lane *lane, uint64_t n)
{
    const struct shm_header *header = &lane->segment->header;

    return (void *)(lane->slots + (n & (header->slot_count - 1)) * header->slot_stride);
}

/* Begins to read, or to write, after the last published message. */
static enum shm_result begin_at_head(struct shm_lane *lane)
{
    lane->head = LOAD(&lane->shared->head, acquire);
    lane->next = lane->head + 1;
    return lane->head < IMPOSSIBLE ? SHM_OK : SHM_DAMAGED;
}

enum shm_result shm_lane_open(struct shm_lane *lane, struct shm_segment *segment,
                              enum shm_lane_index index)
{
    const struct shm_header *header = &segment->header;
    unsigned char *bytes = segment->base;

    *lane = (struct shm_lane){
        .segment = segment,
        .shared = (void *)(bytes + SHM_LANE_AT(index)),
        .slots = bytes + SHM_SLOTS_AT(index, header->slot_count, header->slot_stride),
        .index = index,
    };
    return begin_at_head(lane);
}

/* ---- reading ---- */

enum shm_result shm_lane_attach(struct shm_lane *lane)
{
    const enum shm_result result = begin_at_head(lane);

    /* Add last: a host that waits for it must not publish before we have loaded head. */
    if (result == SHM_OK)
        atomic_fetch_add_explicit(&lane->shared->attached, 1, memory_order_release);
    return result;
}

/* Do the words say that a consumer holds this place? If its lock is free, it is dead. */
static bool is_held(const struct shm_lane *lane, uint64_t place)
{
    const uint64_t dropped = LOAD(&lane->shared->dropped, acquire);

    return SHM_EPOCH(place) % 2 == 1 && SHM_EPOCH(place) != dropped;
}

/* Takes the producer's role, and loads head again: an earlier producer may have moved it. */
static enum shm_result become_producer(struct shm_lane *lane)
{
    enum shm_result result = shm_role_take(lane->segment, PRODUCER_OF(lane));

    if (result == SHM_OK) {
        result = shm_lane_open(lane, lane->segment, lane->index);
        lane->produces = true;
    }
    return result;
}

/* Takes the place. The caller holds the consumer's role, so nobody else stores the place. */
static enum shm_result take_place(struct shm_lane *lane)
{
    struct shm_lane_block *shared = lane->shared;
    const uint64_t found = LOAD(&shared->place, acquire);
    uint16_t epoch = (uint16_t)((SHM_EPOCH(found) + 1u) | 1u); /* the next odd one */

    if (is_held(lane, found)) /* by one that took the role after our first check, and died */
        return SHM_AGAIN;
    if (epoch == LOAD(&shared->dropped, relaxed))
        epoch = (uint16_t)(epoch + 2u); /* epochs have wrapped: we would begin as dropped */
    STORE(&shared->pid, (uint32_t)getpid(), relaxed);
    STORE(&shared->place, SHM_PLACE(epoch, SHM_CLAIMING), relaxed);
    /* SYNC claim (full fence): pairs with "room". Either the producer sees that we claim, and keeps
     * its limit; or we see all that it published before its check, and begin after that. */
    atomic_thread_fence(memory_order_seq_cst);
    const enum shm_result result = begin_at_head(lane);
    const uint64_t position = lane->head & SHM_POSITION_MASK;
    STORE(&shared->place, SHM_PLACE(epoch, position), release);
    lane->epoch = epoch;
    atomic_fetch_add_explicit(&shared->attached, 1, memory_order_release); /* last, as in attach */
    return result;
}

enum shm_result shm_lane_claim(struct shm_lane *lane, struct shm_lane *echo, uint32_t *other)
{
    struct shm_segment *segment = lane->segment;
    const enum shm_role consumer = CONSUMER_OF(lane);

    *other = LOAD(&lane->shared->pid, relaxed);
    if (is_held(lane, LOAD(&lane->shared->place, acquire)))
        /* Role free: its holder died. The host must drop it first, or would not count that. */
        return shm_role_is_held(segment, consumer) ? SHM_BUSY : SHM_AGAIN;
    enum shm_result result = shm_role_take(segment, consumer);
    if (result != SHM_OK)
        return result;
    if (echo != NULL) {
        *other = 0; /* a sender stores no pid */
        result = become_producer(echo);
    }
    if (result == SHM_OK)
        result = take_place(lane);
    if (result != SHM_OK) {
        if (echo != NULL && result != SHM_BUSY) /* BUSY: it may have sent before */
            shm_lane_leave(echo);
        shm_lane_leave(lane);
        shm_role_leave(segment, consumer);
    }
    return result;
}

void shm_lane_leave(struct shm_lane *lane)
{
    if (lane->epoch != 0) {
        const uint64_t left =
            SHM_PLACE((uint16_t)(lane->epoch + 1u), (lane->next - 1) & SHM_POSITION_MASK);
        /* Store the place first: if the role is free but the place is held, its holder is dead. */
        STORE(&lane->shared->place, left, release);
        shm_role_leave(lane->segment, CONSUMER_OF(lane));
    }
    if (lane->produces)
        shm_role_leave(lane->segment, PRODUCER_OF(lane));
    lane->epoch = 0;
    lane->produces = false;
}

bool shm_lane_dropped(const struct shm_lane *lane)
{
    /* SYNC dropped (acquire): pairs with the producer's fence after it stores dropped, before it
     * overwrites our messages. A dropped consumer keeps its lock, so there is no successor yet. */
    return lane->epoch != 0 && LOAD(&lane->shared->dropped, acquire) == lane->epoch;
}

/* @return SHM_OK: message next is published; SHM_EMPTY, SHM_DROPPED or SHM_DAMAGED */
static enum shm_result load_head(struct shm_lane *lane)
{
    /* SYNC head load (acquire): pairs with "head = n". Readers poll head, not the slot: otherwise
     * the producer would lose the slot's cache line between two stores. */
    const uint64_t head = LOAD(&lane->shared->head, acquire);

    if (head - lane->head > IMPOSSIBLE)
        return SHM_DAMAGED;
    lane->head = head;
    return shm_lane_dropped(lane) ? SHM_DROPPED : head < lane->next ? SHM_EMPTY : SHM_OK;
}

/* Message next is lost. */
static enum shm_result lapped(struct shm_lane *lane)
{
    const enum shm_result result = load_head(lane);
    const uint32_t half_a_ring = lane->segment->header.slot_count / 2;
    uint64_t next = lane->next + 1;

    if (result != SHM_OK)
        return result;
    /* Go on half a ring before head: the oldest message would be overwritten, too, before we read
     * it. With newest, shm_lane_next goes on to head, and counts as skipped, not as lost. */
    if (!lane->newest && lane->head + 1 > next + half_a_ring)
        next = lane->head + 1 - half_a_ring;
    lane->lost += next - lane->next;
    lane->next = next;
    return SHM_LAPPED;
}

enum shm_result shm_lane_next(struct shm_lane *lane, struct shm_message *message)
{
    const bool look = lane->newest || lane->head < lane->next;
    enum shm_result result = look ? load_head(lane) : SHM_OK;

    if (result != SHM_OK)
        return result;
    if (lane->newest) {
        lane->skipped += lane->head - lane->next;
        lane->next = lane->head;
    }
    const struct shm_slot *slot = slot_of(lane, lane->next);
    /* SYNC seq load (acquire): pairs with F2, so the payload is at least as new as seq. */
    const uint64_t seq = LOAD(&slot->seq, acquire);
    if (seq != 2 * lane->next) {
        lane->retries++;
        /* An older seq is normal on weakly ordered machines: the host has no fence between "seq =
         * 2n" and "head = n", so head may be visible first. A newer one: the message is lost. */
        return (int64_t)(seq - 2 * lane->next) < 0 ? SHM_AGAIN : lapped(lane);
    }
    message->n = lane->next;
    message->timestamp_ns = LOAD(&slot->timestamp_ns, relaxed);
    message->due_ns = LOAD(&slot->due_ns, relaxed);
    message->length = LOAD(&slot->length, relaxed);
    message->crc32 = LOAD(&slot->crc32, relaxed);
    message->payload = slot->payload;
    if (message->length <= lane->segment->header.payload_capacity)
        return SHM_OK;
    message->length = 0; /* overwritten, or damaged? */
    result = shm_lane_confirm(lane, message);
    return result == SHM_LAPPED || result == SHM_DROPPED ? result : SHM_DAMAGED;
}

enum shm_result shm_lane_confirm(struct shm_lane *lane, const struct shm_message *message)
{
    const struct shm_slot *slot = slot_of(lane, message->n);
    const bool matches = !HAS_CRC(lane) || shm_crc32(message->payload, message->length,
                                                     (uint32_t)message->n) == message->crc32;

    /* SYNC R4 (acquire fence): pairs with F1, and with the fence after "dropped". Without it "seq
     * again" could be loaded before the payload was read, and would prove nothing; an acquire load
     * would not prevent that. */
    atomic_thread_fence(memory_order_acquire);
    if (shm_lane_dropped(lane))
        return SHM_DROPPED;
    /* SYNC seq again: pairs with "seq = 2n-1". */
    if (LOAD(&slot->seq, relaxed) == 2 * message->n)
        return matches ? SHM_OK : SHM_BAD_CRC;
    lane->retries++;
    return lapped(lane);
}

void shm_lane_release(struct shm_lane *lane, const struct shm_message *message)
{
    if (message->n != lane->next) /* lapped: shm_lane_confirm has moved next */
        return;
    /* SYNC place store (release): pairs with "place load": the payload was read before the
     * producer may overwrite it. No compare-and-swap: only the role's holder stores place. */
    if (lane->epoch != 0)
        STORE(&lane->shared->place, SHM_PLACE(lane->epoch, message->n), release);
    lane->next = message->n + 1;
}

/* ---- sleeping and waking ---- */

/* FUTEX_WAIT: sleeps while the low half of head is value. FUTEX_WAKE: wakes at most value sleepers.
 * Not FUTEX_PRIVATE: the other side is another process. */
static long futex(_Atomic uint64_t *head, int operation, uint32_t value,
                  const struct timespec *longest)
{
    uint32_t *low_half = (uint32_t *)(void *)head + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);

#if SHM_HAS_FUTEX
    return syscall(SYS_futex, low_half, operation, value, longest, NULL, 0);
#else
    return (void)low_half, (void)operation, (void)value, (void)longest, 0;
#endif
}

bool shm_lane_sleep(struct shm_lane *lane, uint64_t ns)
{
    /* On the up lane only its consumer, the host, may raise wish: it uses a plain store. */
    const bool naps = !SHM_HAS_FUTEX || lane->index == SHM_UP;
    const uint64_t most_ns = naps ? SHM_NAP_NS : SHM_SLEEP_NS;
    const struct timespec longest = {.tv_nsec = (long)(ns < most_ns ? ns : most_ns)};

    if (naps)
        return nanosleep(&longest, NULL) == 0 && ns <= most_ns;
    struct shm_lane_block *shared = lane->shared;
    uint64_t wish = LOAD(&shared->wish, relaxed);
    /* Raise wish to a maximum, and never clear it: no sleeper can undo the wish of another. */
    while (wish < lane->next &&
           !atomic_compare_exchange_weak_explicit(&shared->wish, &wish, lane->next,
                                                  memory_order_relaxed, memory_order_relaxed))
        continue;
    /* SYNC sleep (full fence): pairs with "wake". We store wish, then load head; the producer
     * stores head, then loads wish. One of the two sees the other's store. */
    atomic_thread_fence(memory_order_seq_cst);
    const uint64_t head = LOAD(&shared->head, relaxed);
    return head < lane->next && futex(&shared->head, FUTEX_WAIT, (uint32_t)head, &longest) != 0 &&
           errno == ETIMEDOUT;
}

/* ---- writing ---- */

enum shm_result shm_lane_produce(struct shm_lane *lane)
{
    enum shm_result result = become_producer(lane);

    if (result == SHM_OK && !is_held(lane, LOAD(&lane->shared->place, acquire)))
        result = SHM_AGAIN;
    if (result != SHM_OK && result != SHM_BUSY) /* BUSY: this lane may have the role already */
        shm_lane_leave(lane);
    return result;
}

bool shm_lane_writable(struct shm_lane *lane)
{
    if (lane->next <= lane->limit)
        return true;
    /* SYNC room (full fence): pairs with "claim"; store head, then load place. */
    atomic_thread_fence(memory_order_seq_cst);
    /* SYNC place load (acquire): pairs with "place store". */
    const uint64_t place = LOAD(&lane->shared->place, acquire);
    if (!is_held(lane, place))
        /* Nobody to wait for. A later claim begins with message next or later. */
        lane->limit = lane->next + lane->segment->header.slot_count - 1;
    else if (SHM_POSITION(place) < lane->next) /* else claiming, or damaged: keep the limit */
        lane->limit = SHM_POSITION(place) + lane->segment->header.slot_count;
    return lane->next <= lane->limit;
}

enum shm_result shm_lane_reserve(struct shm_lane *lane, unsigned char **payload)
{
    if (!shm_lane_writable(lane))
        return SHM_FULL;
    struct shm_slot *slot = slot_of(lane, lane->next);
    /* SYNC seq = 2n-1: pairs with "seq again". */
    STORE(&slot->seq, 2 * lane->next - 1, relaxed);
    /* SYNC F1 (release fence): pairs with R4; the slot is marked before its bytes change. */
    atomic_thread_fence(memory_order_release);
    *payload = slot->payload;
    return SHM_OK;
}

void shm_lane_commit(struct shm_lane *lane, uint32_t length, uint64_t due_ns)
{
    struct shm_slot *slot = slot_of(lane, lane->next);
    const uint64_t n = lane->next++;
    const uint32_t crc32 = HAS_CRC(lane) ? shm_crc32(slot->payload, length, (uint32_t)n) : 0;
    const uint64_t now_ns = shm_clock_now_ns();

    STORE(&slot->length, length, relaxed);
    STORE(&slot->crc32, crc32, relaxed);
    STORE(&slot->due_ns, due_ns ? due_ns : now_ns, relaxed);
    STORE(&slot->timestamp_ns, now_ns, relaxed);
    /* SYNC F2, seq = 2n (release): pairs with "seq load". */
    STORE(&slot->seq, 2 * n, release);
    /* SYNC head = n (release): pairs with "head load"; a consumer that does not check seq again
     * relies on it. */
    STORE(&lane->shared->head, n, release);
    /* SYNC wake (full fence): pairs with "sleep". Either we see the wish, or the sleeper sees our
     * head; otherwise it could sleep although its message is there. */
    atomic_thread_fence(memory_order_seq_cst);
    if (LOAD(&lane->shared->wish, relaxed) > lane->woken) {
        lane->woken = n; /* not wish: that sleeper may not be in the futex queue yet */
        futex(&lane->shared->head, FUTEX_WAKE, INT_MAX, NULL);
    }
}

uint64_t shm_lane_unread(const struct shm_lane *lane)
{
    const uint64_t place = LOAD(&lane->shared->place, acquire);

    return lane->next - 1 - SHM_POSITION(place);
}

uint32_t shm_crc32(const unsigned char *bytes, size_t length, uint32_t start)
{
    static _Atomic uint32_t table[256]; /* each thread that finds it empty fills in the same */
    uint32_t crc = ~start;

    for (uint32_t i = 0; LOAD(&table[255], acquire) == 0 && i < 256; i++) {
        uint32_t value = i;
        for (int bit = 0; bit < 8; bit++)
            value = (value >> 1) ^ (value & 1 ? 0xEDB88320u : 0);
        STORE(&table[i], value, release);
    }
    for (size_t i = 0; i < length; i++)
        crc = (crc >> 8) ^ LOAD(&table[(crc ^ bytes[i]) & 0xff], relaxed);
    return ~crc;
}
