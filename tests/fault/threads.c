/*
 * threads.c - one lane, a producer and a consumer as two threads, so that ThreadSanitizer sees
 * both.
 *
 *   threads [MESSAGES]      in each of the two modes, lossless and lossy
 *
 * The payload races by design in lossy mode; it is written and read by relaxed atomics here, so
 * that every report is one of the protocol. Each word is a function of n and of its place: a
 * message made of two cannot hide. A run that saw no contention has proved nothing and fails.
 */
#define _GNU_SOURCE
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "lane.h"

/* Large, so that few hand-overs are needed; small, so that the reader is lapped. */
#define SLOTS_LOSSLESS 1024u
#define SLOTS_LOSSY    16u
#define WORDS          12u

struct run {
    void *base;
    struct shm_header header;
    uint64_t messages, full;
};

static uint64_t word_of(uint64_t n, uint64_t i)
{
    return n * 0x9E3779B97F4A7C15ull + i;
}

static void *produce(void *argument)
{
    struct run *run = argument;
    struct lane lane;

    if (lane_open(&lane, run->base, &run->header, SHM_DOWN) != LANE_OK)
        return argument;
    for (uint64_t n = 1; n <= run->messages; n++) {
        unsigned char *payload;
        while (lane_reserve(&lane, &payload) == LANE_FULL) {
            run->full++;
            sched_yield();
        }
        _Atomic uint64_t *words = (void *)payload;
        for (uint64_t i = 0; i < WORDS; i++)
            atomic_store_explicit(&words[i], word_of(n, i), memory_order_relaxed);
        lane_commit(&lane, WORDS * 8, 0, (uint32_t)n);
    }
    return NULL;
}

static int failed(const char *mode, const char *what, uint64_t n)
{
    fprintf(stderr, "threads: %s: %s at message %" PRIu64 "\n", mode, what, n);
    return 1;
}

static int run_mode(uint64_t messages, uint32_t flags)
{
    const char *mode = flags & SHM_LOSSLESS ? "lossless" : "lossy";
    const uint32_t slots = flags & SHM_LOSSLESS ? SLOTS_LOSSLESS : SLOTS_LOSSY;
    struct run run = {.messages = messages};
    struct lane lane;
    struct lane_message message;
    uint64_t read = 0, empty = 0, last = 0;
    uint32_t other;
    pthread_t producer;
    void *result = NULL;
    int bad = 0;

    run.header = (struct shm_header){.total_size = SHM_HEADER_SIZE + 2 * (uint64_t)slots * 128,
                                     .slot_count = slots,
                                     .slot_stride = 128,
                                     .payload_capacity = WORDS * 8};
    run.base = aligned_alloc(SHM_BLOCK, run.header.total_size);
    if (run.base == NULL)
        return failed(mode, "no memory", 0);
    memset(run.base, 0, run.header.total_size);
    if (lane_open(&lane, run.base, &run.header, SHM_DOWN) != LANE_OK ||
        lane_claim(&lane, (uint32_t)getpid(), flags, &other) != LANE_OK)
        return failed(mode, "cannot claim the lane", 0);
    if (pthread_create(&producer, NULL, produce, &run) != 0)
        return failed(mode, "cannot start a thread", 0);

    while (lane.next <= messages && !bad) {
        enum lane_result got = lane_next(&lane, &message);
        if (got == LANE_OK) {
            uint64_t words[WORDS];
            const _Atomic uint64_t *from = (const void *)message.payload;
            for (uint64_t i = 0; i < WORDS; i++)
                words[i] = atomic_load_explicit(&from[i], memory_order_relaxed);
            got = lane_confirm(&lane, &message);
            if (got == LANE_OK) {
                for (uint64_t i = 0; i < WORDS; i++)
                    bad |= words[i] != word_of(message.n, i);
                bad |= message.length != WORDS * 8 || message.crc32 != (uint32_t)message.n;
                bad |= message.n <= last;
                last = message.n;
                read++;
                lane_release(&lane, &message);
            }
        }
        if (got == LANE_EMPTY || got == LANE_PENDING) {
            empty++;
            sched_yield();
        } else if (got != LANE_OK && got != LANE_LAPPED) {
            return failed(mode, "damaged or dropped", lane.next);
        }
    }
    if (bad)
        return failed(mode, "a torn or repeated message", message.n);
    pthread_join(producer, &result);
    free(run.base);
    printf("%-8s  %" PRIu64 " messages: read %" PRIu64 ", lost %" PRIu64 ", retries %" PRIu64
           "; producer waited %" PRIu64 " times, consumer %" PRIu64 "\n",
           mode, messages, read, lane.lost, lane.retries, run.full, empty);
    if (result != NULL || read + lane.lost != messages)
        return failed(mode, "the count is wrong", last);
    if (flags & SHM_LOSSLESS ? lane.lost != 0 : read == 0)
        return failed(mode, "lossless lost, or lossy read nothing", last);
    if (flags & SHM_LOSSLESS ? run.full == 0 || empty == 0 : lane.lost == 0 || lane.retries == 0)
        return failed(mode, "no contention: nothing was proved", last);
    return 0;
}

int main(int argc, char **argv)
{
    const uint64_t messages = argc > 1 ? strtoull(argv[1], NULL, 10) : 1000000;

    alarm(900); /* a hang is a failure */
    return run_mode(messages, SHM_LOSSLESS) | run_mode(messages, 0);
}
