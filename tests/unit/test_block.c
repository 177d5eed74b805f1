/*
 * test_block MESSAGES: a producer process at random gaps, a lossless consumer that blocks. No
 * wake-up is lost: no wait runs into its time-out while the message is there. The run must have
 * slept and must have found messages without sleeping, both often, or it has proved nothing.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>

#include "lane.h"
#include "unit.h"
#include "waiter.h"

enum { SLOTS = 64, STRIDE = 128, TOTAL = 1024 + 2 * SLOTS * STRIDE };

static const struct shm_header header = {
    .slot_count = SLOTS, .slot_stride = STRIDE, .payload_capacity = 8};

static void produce(struct lane *lane, uint64_t count)
{
    uint64_t state = 0x9E3779B97F4A7C15u;

    while (!lane_has_consumer(lane))
        sched_yield();
    while (lane->next <= count) {
        unsigned char *payload;
        if (lane_reserve(lane, &payload) != LANE_OK) {
            sched_yield();
            continue;
        }
        lane_commit(lane, 0, 0, 0);
        state ^= state << 13; /* xorshift64 */
        state ^= state >> 7;
        state ^= state << 17;
        /* Mostly nothing to some 100 ns, now and then long enough for the consumer to be asleep. */
        const unsigned gap =
            state % 16 == 0 ? (unsigned)(state >> 32) % 20000 : (unsigned)(state >> 58);
        for (volatile unsigned i = 0; i < gap; i++)
            continue;
    }
}

int main(int argc, char **argv)
{
    const uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    struct lane writer, reader;
    struct waiter waiter;
    uint32_t other;
    uint64_t awake = 0;
    int status = 1;
    void *area = mmap(NULL, TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (!WAITER_CAN_BLOCK) {
        puts("no futex on this system");
        return 77;
    }
    unit_begin();
    alarm(900);
    CHECK(lane_open(&writer, area, &header, SHM_DOWN) == LANE_OK);
    CHECK(lane_open(&reader, area, &header, SHM_DOWN) == LANE_OK);
    const pid_t producer = unit_fork();
    if (producer == 0) {
        produce(&writer, count);
        _exit(0);
    }
    waiter_init(&waiter, WAIT_BLOCK, reader.shared);
    CHECK(lane_claim(&reader, (uint32_t)getpid(), SHM_LOSSLESS | SHM_BLOCKS, &other) == LANE_OK);
    for (uint64_t n = 1; n <= count;) {
        struct lane_message message;
        const enum lane_result result = lane_next(&reader, &message);
        if (result == LANE_OK) {
            if (message.n != n || lane_confirm(&reader, &message) != LANE_OK)
                break;
            lane_release(&reader, &message);
            n++;
            awake++;
            continue;
        }
        awake -= awake > 0; /* the message after a wait was waited for */
        while (!lane_readable(&reader))
            waiter_pause(&waiter, reader.next);
    }
    if (reader.next <= count) /* it would wait for room until its alarm */
        kill(producer, SIGKILL);
    waitpid(producer, &status, 0);
    struct rusage usage;
    getrusage(RUSAGE_SELF, &usage);
    printf("%llu messages, %ld sleeps, %llu without a wait, %llu missed wake-ups\n",
           (unsigned long long)count, usage.ru_nvcsw, (unsigned long long)awake,
           (unsigned long long)waiter.missed_wakeups);
    CHECK(status == 0 && reader.next == count + 1 && reader.lost == 0);
    CHECK(waiter.missed_wakeups == 0);
    CHECK(usage.ru_nvcsw > (long)(count / 1000) && awake > count / 10);
    return unit_end();
}
