/*
 * threads.c - one lane, a producer and two readers as threads, so that ThreadSanitizer sees them
 * all.
 *
 *   threads [MESSAGES]      twice: the first reader as the consumer, and both as plain readers
 *
 * The payload races by design beside a plain reader; it is written and read by relaxed atomics
 * here, so that every report is one of the protocol. Each word is a function of n and of its place:
 * a message made of two cannot hide.
 *
 * A run that saw no contention has proved nothing, and a scheduler may let the sides take turns. So
 * twice in every PERIOD messages one side stands still until the other has met it: at a full ring
 * and at an empty one, or at a message that is overwritten while it is read and at one that is not.
 * The counters they wait for are relaxed: they order nothing for ThreadSanitizer.
 */
#define _GNU_SOURCE 1
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "own_roles.h"
#include "shm_lane.h"

/* Large, so that few hand-overs are needed; small, so that a reader is lapped. */
#define SLOTS_LOSSLESS 1024u
#define SLOTS_LOSSY    16u
#define WORDS          12u
#define PERIOD         20000u /* much more than a ring */

struct reader {
    struct run *run;
    struct shm_lane lane;
    _Atomic uint64_t read, empty; /* messages; times it found none */
    _Atomic uint64_t held;        /* messages that it held until they were overwritten */
};

struct run {
    struct shm_segment segment;
    struct reader readers[2];
    uint64_t messages;
    bool lossless;
    _Atomic uint64_t full; /* times the producer found the ring full */
};

static void fail(const char *what)
{
    fprintf(stderr, "threads: %s\n", what);
    _exit(1); /* the others may wait for this thread */
}

static uint64_t value_of(const _Atomic uint64_t *counter)
{
    return atomic_load_explicit(counter, memory_order_relaxed);
}

static void count(_Atomic uint64_t *counter)
{
    atomic_store_explicit(counter, value_of(counter) + 1, memory_order_relaxed);
}

static void stand_until(const _Atomic uint64_t *counter, uint64_t least)
{
    while (value_of(counter) < least)
        sched_yield();
}

static uint64_t word_of(uint64_t n, uint64_t i)
{
    return n * 0x9E3779B97F4A7C15ull + i;
}

/* Stands still before message n, until each reader has met it since the last time. */
static void meet_readers(struct run *run, uint64_t n)
{
    struct reader *const readers = run->readers;
    static uint64_t read[2], held[2]; /* at the last time */

    if (run->lossless && n % PERIOD == 0)
        stand_until(&readers[0].empty, value_of(&readers[0].empty) + 1);
    for (int i = 0; !run->lossless && i < 2; i++)
        if (n % PERIOD == 0) {
            stand_until(&readers[i].read, read[i] + 1);
            read[i] = value_of(&readers[i].read);
        } else if (n % PERIOD == PERIOD / 2) {
            stand_until(&readers[i].held, held[i] + 1);
            held[i] = value_of(&readers[i].held);
        }
}

static void *produce(void *argument)
{
    struct run *run = argument;
    struct shm_lane lane;

    if (shm_lane_open(&lane, &run->segment, SHM_DOWN) != SHM_OK)
        fail("the producer cannot begin");
    for (uint64_t n = 1; n <= run->messages; n++) {
        unsigned char *payload;
        meet_readers(run, n);
        while (shm_lane_reserve(&lane, &payload) == SHM_FULL) {
            count(&run->full);
            sched_yield();
        }
        _Atomic uint64_t *words = (void *)payload;
        for (uint64_t i = 0; i < WORDS; i++)
            atomic_store_explicit(&words[i], word_of(n, i), memory_order_relaxed);
        shm_lane_commit(&lane, WORDS * 8, n);
    }
    return NULL;
}

/* Stands still at message n: until the ring is full; or, at the last ring before the middle of a
 * period, until the message is overwritten. The producer stands still elsewhere, or has counted
 * this one. */
static void meet_producer(struct reader *reader, uint64_t n)
{
    struct run *const run = reader->run;
    const uint64_t left = PERIOD / 2 - n % PERIOD; /* messages before the middle */

    if (run->lossless && reader->lane.epoch != 0 && left == 1)
        stand_until(&run->full, value_of(&run->full) + 1);
    if (!run->lossless && left >= 1 && left <= SLOTS_LOSSY) {
        count(&reader->held);
        stand_until(&reader->lane.shared->head, n + SLOTS_LOSSY);
    }
}

/* One message, if there is one. */
static enum shm_result take(struct reader *reader)
{
    uint64_t words[WORDS];
    struct shm_message message;
    enum shm_result got = shm_lane_next(&reader->lane, &message);

    if (got != SHM_OK)
        return got;
    meet_producer(reader, message.n);
    const _Atomic uint64_t *from = (const void *)message.payload;
    for (uint64_t i = 0; i < WORDS; i++)
        words[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
    got = shm_lane_confirm(&reader->lane, &message);
    if (got != SHM_OK)
        return got;
    bool good = message.length == WORDS * 8 && message.due_ns == message.n;
    for (uint64_t i = 0; i < WORDS; i++)
        good &= words[i] == word_of(message.n, i);
    if (!good)
        fail("a torn message");
    count(&reader->read);
    shm_lane_release(&reader->lane, &message);
    return SHM_OK;
}

static void *consume(void *argument)
{
    struct reader *reader = argument;

    while (reader->lane.next <= reader->run->messages) {
        const enum shm_result got = take(reader);
        if (got == SHM_EMPTY || got == SHM_AGAIN) {
            count(&reader->empty);
            sched_yield();
        } else if (got != SHM_OK && got != SHM_LAPPED) {
            fail("damaged or dropped");
        }
    }
    if (reader->read + reader->lane.lost != reader->run->messages)
        fail("the count is wrong");
    return NULL;
}

static void run_mode(uint64_t messages, bool lossless)
{
    const uint32_t slots = lossless ? SLOTS_LOSSLESS : SLOTS_LOSSY;
    struct run run = {.messages = messages, .lossless = lossless};
    struct reader *const readers = run.readers;
    pthread_t threads[3];
    uint32_t other;

    run.segment.header =
        (struct shm_header){.total_size = SHM_HEADER_SIZE + 2 * (uint64_t)slots * 128,
                            .slot_count = slots,
                            .slot_stride = 128,
                            .payload_capacity = WORDS * 8};
    run.segment.base = aligned_alloc(SHM_BLOCK, run.segment.header.total_size);
    if (run.segment.base == NULL)
        fail("no memory");
    memset(run.segment.base, 0, run.segment.header.total_size);
    own_roles(&run.segment);
    for (int i = 0; i < 2; i++) {
        readers[i].run = &run;
        if (shm_lane_open(&readers[i].lane, &run.segment, SHM_DOWN) != SHM_OK ||
            shm_lane_attach(&readers[i].lane) != SHM_OK)
            fail("cannot attach");
    }
    if (lossless && shm_lane_claim(&readers[0].lane, NULL, &other) != SHM_OK)
        fail("cannot claim the place");
    if (pthread_create(&threads[0], NULL, consume, &readers[0]) != 0 ||
        pthread_create(&threads[1], NULL, consume, &readers[1]) != 0 ||
        pthread_create(&threads[2], NULL, produce, &run) != 0)
        fail("cannot start a thread");
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < 2; i++)
        printf("%-8s  %" PRIu64 " messages: read %" PRIu64 ", lost %" PRIu64 ", retries %" PRIu64
               ", waited %" PRIu64 " times; producer %" PRIu64 "\n",
               lossless ? "lossless" : "lossy", messages, readers[i].read, readers[i].lane.lost,
               readers[i].lane.retries, readers[i].empty, run.full);
    if (lossless && readers[0].lane.lost != 0)
        fail("lossless lost");
    if (lossless ? run.full == 0 || readers[0].empty == 0
                 : readers[0].lane.retries == 0 || readers[1].lane.retries == 0)
        fail("no contention: nothing was proved");
    shm_lane_leave(&readers[0].lane);
    shm_roles_close(&run.segment);
    free(run.segment.base);
}

int main(int argc, char **argv)
{
    const uint64_t messages = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;

    alarm(900); /* a hang is a failure */
    for (int lossless = 1; lossless >= 0; lossless--)
        run_mode((messages + PERIOD - 1) / PERIOD * PERIOD, lossless); /* whole periods */
    return 0;
}
