/*
 * src/lane.c, with every interleaving forced: one thread plays both sides and stops the producer
 * between two of its stores.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "lane.h"
#include "latency.h"
#include "unit.h"

enum { SLOTS = 4, STRIDE = 128, CAPACITY = 96, TOTAL = 1024 + 2 * SLOTS * STRIDE };

static _Alignas(128) unsigned char memory[TOTAL];
static const struct shm_header header = {
    .slot_count = SLOTS, .slot_stride = STRIDE, .payload_capacity = CAPACITY};

static struct shm_lane *shared(void)
{
    return (void *)(memory + SHM_LANE_AT(SHM_DOWN));
}

static struct shm_slot *slot(uint64_t n)
{
    return (void *)(memory + SHM_SLOTS_AT(SHM_DOWN, SLOTS, STRIDE) + n % SLOTS * STRIDE);
}

static void open_both(struct lane *writer, struct lane *reader)
{
    memset(memory, 0, sizeof memory);
    CHECK(lane_open(writer, memory, &header, SHM_DOWN) == LANE_OK);
    CHECK(lane_open(reader, memory, &header, SHM_DOWN) == LANE_OK);
}

/* Writes n's payload: b = a + 1000 in every pair of words, so that a mixture shows. */
static void fill(unsigned char *payload, uint64_t n)
{
    uint64_t words[CAPACITY / 8];
    for (size_t i = 0; i < CAPACITY / 8; i++)
        words[i] = n + 1000 * i;
    memcpy(payload, words, sizeof words);
}

static int whole(const struct lane_message *message)
{
    unsigned char expected[CAPACITY];
    fill(expected, message->n);
    return message->length == CAPACITY && memcmp(message->payload, expected, CAPACITY) == 0;
}

static void publish(struct lane *writer)
{
    unsigned char *payload;
    CHECK(lane_reserve(writer, &payload) == LANE_OK);
    fill(payload, writer->next);
    lane_commit(writer, CAPACITY, 0, 0);
}

static void in_order(void)
{
    struct lane writer, reader;
    struct lane_message message;

    open_both(&writer, &reader);
    CHECK(lane_next(&reader, &message) == LANE_EMPTY);
    CHECK(!lane_readable(&reader));
    for (uint64_t n = 1; n <= 10; n++) {
        publish(&writer);
        CHECK(lane_readable(&reader));
        CHECK(lane_next(&reader, &message) == LANE_OK && message.n == n && whole(&message));
        CHECK(message.due_ns == message.timestamp_ns && message.timestamp_ns != 0);
        CHECK(lane_confirm(&reader, &message) == LANE_OK);
        lane_release(&reader, &message);
    }
    CHECK(reader.lost == 0 && reader.retries == 0);
    CHECK(atomic_load(&shared()->cursor) == 0); /* an observer leaves no trace */
}

/* The producer begins to overwrite message 1 while the reader uses it. */
static void torn_while_used(void)
{
    struct lane writer, reader;
    struct lane_message message;
    unsigned char *payload;

    open_both(&writer, &reader);
    for (int i = 0; i < SLOTS; i++)
        publish(&writer);
    CHECK(lane_next(&reader, &message) == LANE_OK && message.n == 1);
    CHECK(lane_reserve(&writer, &payload) == LANE_OK); /* message 5, in message 1's slot */
    fill(payload, 5);
    CHECK(!whole(&message));                               /* torn it is ... */
    CHECK(lane_confirm(&reader, &message) == LANE_LAPPED); /* ... and that is seen */
    CHECK(reader.lost == 1 && reader.retries == 1 && reader.next == 2);
    CHECK(lane_next(&reader, &message) == LANE_OK && message.n == 2 && whole(&message));
}

/* The producer stands in the middle of a message when the reader comes. */
static void torn_before_look(void)
{
    struct lane writer, reader;
    struct lane_message message;
    unsigned char *payload;

    open_both(&writer, &reader);
    CHECK(lane_reserve(&writer, &payload) == LANE_OK);
    memset(payload, 0x55, CAPACITY);
    CHECK(lane_next(&reader, &message) == LANE_EMPTY);
    /* What a weakly ordered machine may show of host.py: head first, then seq. Not lost. */
    atomic_store(&shared()->head, 1);
    CHECK(!lane_readable(&reader));
    CHECK(lane_next(&reader, &message) == LANE_PENDING);
    CHECK(reader.lost == 0 && reader.next == 1);
    fill(payload, 1);
    lane_commit(&writer, CAPACITY, 0, 0);
    CHECK(lane_next(&reader, &message) == LANE_OK && message.n == 1 && whole(&message));
    CHECK(lane_reserve(&writer, &payload) == LANE_OK); /* taking it twice takes the same one */
    CHECK(lane_reserve(&writer, &payload) == LANE_OK && writer.next == 2);
}

/* However often it is lapped: read + lost = published. */
static void lapped_exactly(void)
{
    struct lane writer, reader;
    struct lane_message message;
    uint64_t read = 0;

    open_both(&writer, &reader);
    for (unsigned gap = 1; gap < 40; gap++) {
        for (unsigned i = 0; i < gap; i++)
            publish(&writer);
        enum lane_result result;
        while ((result = lane_next(&reader, &message)) != LANE_EMPTY) {
            if (result != LANE_OK)
                continue;
            CHECK(whole(&message) && lane_confirm(&reader, &message) == LANE_OK);
            lane_release(&reader, &message);
            read++;
        }
        CHECK(read + reader.lost == writer.next - 1);
    }
    CHECK(read > 39 && reader.lost > 400);
}

static void lossless_waits(void)
{
    struct lane writer, reader;
    struct lane_message message;
    unsigned char *payload;
    uint32_t other;

    open_both(&writer, &reader);
    publish(&writer); /* before the claim: never promised */
    CHECK(!lane_has_consumer(&writer));
    CHECK(lane_claim(&reader, (uint32_t)getpid(), SHM_LOSSLESS, &other) == LANE_OK);
    CHECK(lane_has_consumer(&writer) && reader.next == 2);
    for (int i = 0; i < SLOTS; i++)
        publish(&writer);
    CHECK(!lane_writable(&writer) && lane_reserve(&writer, &payload) == LANE_FULL);
    CHECK(lane_next(&reader, &message) == LANE_OK && message.n == 2);
    CHECK(lane_reserve(&writer, &payload) == LANE_FULL); /* seen is not done with */
    CHECK(lane_confirm(&reader, &message) == LANE_OK);
    lane_release(&reader, &message);
    CHECK(lane_reserve(&writer, &payload) == LANE_OK && lane_unread(&writer) > 0);
    lane_leave(&reader);
    CHECK(atomic_load(&shared()->owner) == 0 && lane_writable(&writer));
}

/* A writer that has found nobody does not ask again before it would overwrite what belongs to one
 * who has claimed the lane right after that look. */
static void claimed_behind_the_look(void)
{
    struct lane writer, reader;
    struct lane_message message;
    unsigned char *payload;
    uint32_t other;

    open_both(&writer, &reader);
    CHECK(lane_reserve(&writer, &payload) == LANE_OK);
    CHECK(lane_claim(&reader, (uint32_t)getpid(), SHM_LOSSLESS, &other) == LANE_OK);
    for (int i = 0; i < SLOTS; i++)
        publish(&writer);
    CHECK(!lane_writable(&writer));
    for (uint64_t n = 1; n <= SLOTS; n++) {
        CHECK(lane_next(&reader, &message) == LANE_OK && message.n == n && whole(&message));
        CHECK(lane_confirm(&reader, &message) == LANE_OK);
        lane_release(&reader, &message);
    }
    CHECK(reader.lost == 0);
}

/* A second consumer is refused while the first lives, and takes over from one that is gone. */
static void one_consumer(void)
{
    struct lane writer, first, second;
    uint32_t other = 0;
    int status;

    open_both(&writer, &first);
    second = first;
    const pid_t child = unit_fork();
    if (child == 0)
        _exit(0);
    waitpid(child, &status, 0); /* this pid is gone */
    CHECK(lane_claim(&first, (uint32_t)getppid(), 0, &other) == LANE_OK);
    CHECK(lane_claim(&second, (uint32_t)getpid(), 0, &other) == LANE_BUSY);
    CHECK(other == (uint32_t)getppid());
    lane_leave(&first);
    CHECK(lane_claim(&first, (uint32_t)child, SHM_LOSSLESS, &other) == LANE_OK);
    CHECK(lane_claim(&second, (uint32_t)getpid(), 0, &other) == LANE_OK &&
          other == (uint32_t)child);
}

/* A consumer is dropped while it stands between its last look and its store of cursor. */
static void late_store(void)
{
    struct lane writer, late, next;
    struct lane_message message, newer;
    uint32_t other;

    open_both(&writer, &late);
    next = late;
    CHECK(lane_claim(&late, 1, SHM_LOSSLESS, &other) == LANE_OK);
    publish(&writer);
    CHECK(lane_next(&late, &message) == LANE_OK && lane_confirm(&late, &message) == LANE_OK);
    atomic_store(&shared()->owner, 0); /* the host drops it ... */
    for (int i = 0; i < 6; i++)
        publish(&writer);
    CHECK(lane_claim(&next, (uint32_t)getpid(), SHM_LOSSLESS, &other) == LANE_OK);
    publish(&writer);
    CHECK(lane_next(&next, &newer) == LANE_OK && newer.n == 8);
    CHECK(lane_confirm(&next, &newer) == LANE_OK);
    lane_release(&next, &newer);
    lane_release(&late, &message); /* ... and it wakes up */
    CHECK(atomic_load(&shared()->cursor) == 1);
    CHECK(lane_next(&late, &message) != LANE_OK || lane_confirm(&late, &message) == LANE_DROPPED);
    lane_leave(&late); /* takes nothing from its successor */
    CHECK(lane_has_consumer(&writer));
    lane_restore(&late);
    CHECK(atomic_load(&shared()->cursor) == 1);
    CHECK(!lane_writable(&writer)); /* for now the late store holds the producer up */
    lane_restore(&next);            /* what the successor does whenever it waits */
    CHECK(atomic_load(&shared()->cursor) == 8 && lane_writable(&writer));
    for (int i = 0; i < SLOTS; i++)
        publish(&writer);
    atomic_store(&shared()->cursor, 1); /* once it knows better, not even that */
    CHECK(writer.cursor == 8 && !lane_writable(&writer) && writer.cursor == 8);
}

/* A producer that begins at once when it sees ATTACHED, and a consumer that claims: message one of
 * each round must be read, however close the two come. On a busy machine a round may take some
 * milliseconds: as many as there is time for. */
static void claim_misses_nothing(void)
{
    enum { ROUNDS = 20000, LEFT_NOT_SEEN = 1, OVER };
    const uint64_t end_ns = clock_now_ns() + 10000000000u;
    struct lane writer, reader;
    struct lane_message message;
    uint32_t other;
    int missed = 0;
    unsigned char *area =
        mmap(NULL, TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    CHECK(lane_open(&writer, area, &header, SHM_DOWN) == LANE_OK);
    CHECK(lane_open(&reader, area, &header, SHM_DOWN) == LANE_OK);
    _Atomic uint32_t *turn = (void *)(area + SHM_LANE_AT(SHM_UP)); /* nobody uses that lane */
    const pid_t producer = unit_fork();
    while (producer == 0) {
        unsigned char *payload;
        while (!lane_has_consumer(&writer)) {
            if (atomic_load(turn) == OVER)
                _exit(0);
            sched_yield();
        }
        if (lane_reserve(&writer, &payload) != LANE_OK)
            _exit(1);
        lane_commit(&writer, 1, 0, 0);
        while (atomic_load(turn) != LEFT_NOT_SEEN)
            sched_yield();
        atomic_store(turn, 0);
    }
    for (uint64_t n = 1; n <= ROUNDS && clock_now_ns() < end_ns; n++) {
        CHECK(lane_claim(&reader, (uint32_t)getpid(), SHM_LOSSLESS, &other) == LANE_OK);
        while (atomic_load(&reader.shared->head) < n)
            sched_yield();
        missed += lane_next(&reader, &message) != LANE_OK || message.n != n;
        lane_release(&reader, &message);
        lane_leave(&reader);
        atomic_store(turn, LEFT_NOT_SEEN);
        while (atomic_load(turn) != 0)
            sched_yield();
    }
    atomic_store(turn, OVER);
    CHECK(missed == 0);
    int status = 1;
    waitpid(producer, &status, 0);
    CHECK(status == 0);
    munmap(area, TOTAL);
}

/* What no producer writes ends the reading, and never leaves the slots. */
static void hostile(void)
{
    struct lane writer, reader;
    struct lane_message message;
    static const uint64_t heads[] = {0, 1, 1ull << 63, UINT64_MAX, UINT64_MAX - 3};

    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        open_both(&writer, &reader);
        for (int n = 0; n < 3; n++) {
            publish(&writer);
            CHECK(lane_next(&reader, &message) == LANE_OK);
            lane_release(&reader, &message);
        }
        atomic_store(&shared()->head, heads[i]);
        CHECK(lane_readable(&reader));
        CHECK(lane_next(&reader, &message) == LANE_DAMAGED);
        if (heads[i] > 1)
            CHECK(lane_open(&reader, memory, &header, SHM_DOWN) == LANE_DAMAGED);
    }
    open_both(&writer, &reader);
    publish(&writer);
    atomic_store(&slot(1)->length, CAPACITY + 1);
    CHECK(lane_next(&reader, &message) == LANE_DAMAGED);
    atomic_store(&slot(1)->seq, 1); /* odd for ever: nothing to read, nothing lost */
    for (int i = 0; i < 1000; i++)
        CHECK(lane_next(&reader, &message) == LANE_PENDING);
    CHECK(reader.lost == 0);
}

int main(void)
{
    unit_begin();
    in_order();
    torn_while_used();
    torn_before_look();
    lapped_exactly();
    lossless_waits();
    claimed_behind_the_look();
    one_consumer();
    late_store();
    claim_misses_nothing();
    hostile();
    return unit_end();
}
