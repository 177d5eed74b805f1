/*
 * threads.c - one lane, a producer and two readers as threads, so that ThreadSanitizer sees them
 * all.
 *
 *   threads [MESSAGES]      twice: the first reader as the consumer, and both as plain readers
 *
 * The payload races by design beside a plain reader; it is written and read by relaxed atomics
 * here, so that every report is one of the protocol. Each word is a function of n and of its place:
 * a message made of two cannot hide. A run that saw no contention has proved nothing and fails.
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

struct run {
    struct shm_segment segment;
    uint64_t messages, full;
};

struct reader {
    const struct run *run;
    struct shm_lane lane;
    uint64_t read, empty;
    const char *wrong; /* what was, or NULL */
};

static uint64_t word_of(uint64_t n, uint64_t i)
{
    return n * 0x9E3779B97F4A7C15ull + i;
}

static void *produce(void *argument)
{
    struct run *run = argument;
    struct shm_lane lane;

    if (shm_lane_open(&lane, &run->segment, SHM_DOWN) != SHM_OK)
        return argument;
    for (uint64_t n = 1; n <= run->messages; n++) {
        unsigned char *payload;
        while (shm_lane_reserve(&lane, &payload) == SHM_FULL) {
            run->full++;
            sched_yield();
        }
        _Atomic uint64_t *words = (void *)payload;
        for (uint64_t i = 0; i < WORDS; i++)
            atomic_store_explicit(&words[i], word_of(n, i), memory_order_relaxed);
        shm_lane_commit(&lane, WORDS * 8, n);
    }
    return NULL;
}

/* One message, if there is one. */
static enum shm_result take(struct reader *reader)
{
    uint64_t words[WORDS];
    struct shm_message message;
    enum shm_result got = shm_lane_next(&reader->lane, &message);

    if (got != SHM_OK)
        return got;
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
        reader->wrong = "a torn message";
    reader->read++;
    shm_lane_release(&reader->lane, &message);
    return SHM_OK;
}

static void *consume(void *argument)
{
    struct reader *reader = argument;

    while (reader->lane.next <= reader->run->messages && reader->wrong == NULL) {
        const enum shm_result got = take(reader);
        if (got == SHM_EMPTY || got == SHM_AGAIN) {
            reader->empty++;
            sched_yield();
        } else if (got != SHM_OK && got != SHM_LAPPED) {
            reader->wrong = "damaged or dropped";
        }
    }
    if (reader->wrong == NULL && reader->read + reader->lane.lost != reader->run->messages)
        reader->wrong = "the count is wrong";
    return NULL;
}

static int run_mode(uint64_t messages, bool lossless)
{
    const char *mode = lossless ? "lossless" : "lossy";
    const uint32_t slots = lossless ? SLOTS_LOSSLESS : SLOTS_LOSSY;
    struct run run = {.messages = messages};
    struct reader readers[2] = {{.run = &run}, {.run = &run}};
    const struct shm_lane *const first = &readers[0].lane, *const second = &readers[1].lane;
    pthread_t threads[3];
    const char *wrong = NULL;
    void *result = NULL;
    uint32_t other;

    run.segment.header =
        (struct shm_header){.total_size = SHM_HEADER_SIZE + 2 * (uint64_t)slots * 128,
                            .slot_count = slots,
                            .slot_stride = 128,
                            .payload_capacity = WORDS * 8};
    run.segment.base = aligned_alloc(SHM_BLOCK, run.segment.header.total_size);
    if (run.segment.base == NULL)
        return 1;
    memset(run.segment.base, 0, run.segment.header.total_size);
    own_roles(&run.segment);
    for (int i = 0; i < 2; i++)
        if (shm_lane_open(&readers[i].lane, &run.segment, SHM_DOWN) != SHM_OK ||
            shm_lane_attach(&readers[i].lane) != SHM_OK)
            wrong = "cannot attach";
    if (lossless && shm_lane_claim(&readers[0].lane, NULL, &other) != SHM_OK)
        wrong = "cannot claim the place";
    if (wrong != NULL || pthread_create(&threads[0], NULL, consume, &readers[0]) != 0 ||
        pthread_create(&threads[1], NULL, consume, &readers[1]) != 0 ||
        pthread_create(&threads[2], NULL, produce, &run) != 0) {
        fprintf(stderr, "threads: %s\n", wrong != NULL ? wrong : "cannot start a thread");
        return 1;
    }
    pthread_join(threads[0], NULL); /* the producer last: it may wait for a consumer that gave up */
    pthread_join(threads[1], NULL);
    for (int i = 0; i < 2; i++) {
        printf("%-8s  %" PRIu64 " messages: read %" PRIu64 ", lost %" PRIu64 ", retries %" PRIu64
               ", waited %" PRIu64 " times; producer %" PRIu64 "\n",
               mode, messages, readers[i].read, readers[i].lane.lost, readers[i].lane.retries,
               readers[i].empty, run.full);
        if (readers[i].wrong != NULL)
            wrong = readers[i].wrong;
    }
    if (wrong == NULL) {
        pthread_join(threads[2], &result);
        shm_lane_leave(&readers[0].lane);
        shm_roles_close(&run.segment);
        free(run.segment.base);
        if (result != NULL || (lossless && first->lost != 0))
            wrong = "lossless lost, or the producer could not begin";
        else if (lossless ? run.full == 0 || readers[0].empty == 0
                          : first->lost == 0 || second->lost == 0 || first->retries == 0 ||
                                readers[0].read == 0 || readers[1].read == 0)
            wrong = "no contention: nothing was proved";
    }
    if (wrong != NULL)
        fprintf(stderr, "threads: %s: %s\n", mode, wrong);
    return wrong != NULL;
}

int main(int argc, char **argv)
{
    const uint64_t messages = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;

    alarm(900); /* a hang is a failure */
    return run_mode(messages, true) | run_mode(messages, false);
}
