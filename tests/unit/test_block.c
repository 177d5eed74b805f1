/*
 * test_block MESSAGES: a producer at random gaps, and three that block: a lossless consumer and two
 * plain readers. No wake-up is missed, also while others on the same lane are killed in their
 * sleep. Each must have slept, and must have found messages awake, both often, or the run has
 * proved nothing: so the producer goes on until that is so, however this machine schedules them.
 */
#define _GNU_SOURCE
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "latency.h"
#include "unit.h"
#include "waiter.h"

enum { SLOTS = 64, STRIDE = 128, TOTAL = 1024 + 2 * SLOTS * STRIDE, SLEEPERS = 3 };

#define LAST (UINT64_C(1) << 63) /* in the payload: no further message comes */

struct result {
    uint64_t read, lost, missed;
    _Atomic uint64_t slept, awake; /* messages found after a sleep, and without one */
};

static const struct shm_header header = {
    .slot_count = SLOTS, .slot_stride = STRIDE, .payload_capacity = 8};
static struct lane lane;       /* as opened; each process has its own */
static struct result *results; /* shared */

static bool proved(uint64_t count)
{
    for (int i = 0; i < SLEEPERS; i++)
        if (results[i].slept <= count / 1000 || results[i].awake <= count / 1000)
            return false;
    return true;
}

/* At least count messages. */
static void produce(uint64_t count)
{
    uint64_t state = 0x9E3779B97F4A7C15u;

    for (bool last = false; !last;) {
        unsigned char *payload;
        if (lane_reserve(&lane, &payload) != LANE_OK) {
            sched_yield();
            continue;
        }
        last = lane.next >= count && proved(count);
        const uint64_t n = lane.next | (last ? LAST : 0);
        memcpy(payload, &n, sizeof n);
        lane_commit(&lane, sizeof n, 0, 0);
        state ^= state << 13; /* xorshift64 */
        state ^= state >> 7;
        state ^= state << 17;
        /* Mostly nothing to some 100 ns, now and then long enough for all to be asleep. */
        const unsigned gap =
            state % 16 == 0 ? (unsigned)(state >> 32) % 20000 : (unsigned)(state >> 58);
        for (volatile unsigned i = 0; i < gap; i++)
            continue;
    }
}

/* Reads up to the last message; does not return. */
static void sleeper(bool lossless, struct result *result)
{
    struct waiter waiter;
    struct lane_message message;
    uint32_t other;
    uint64_t n = 0;

    waiter_init(&waiter, WAIT_BLOCK, lane.shared, false);
    if ((lossless ? lane_claim(&lane, (uint32_t)getpid(), &other) : lane_attach(&lane)) != LANE_OK)
        _exit(1);
    while (!(n & LAST)) {
        enum lane_result got = lane_next(&lane, &message);
        if (got == LANE_OK) {
            memcpy(&n, message.payload, sizeof n);
            got = lane_confirm(&lane, &message);
        }
        if (got == LANE_OK) {
            waiter_found(&waiter, &message, clock_now_ns());
            if ((n & ~LAST) != message.n || lane_release(&lane, &message) != LANE_OK)
                _exit(2);
            result->read++;
            result->slept = waiter.found_sleeping;
            result->awake = result->read - waiter.found_sleeping;
            continue;
        }
        if (got != LANE_EMPTY && got != LANE_PENDING && got != LANE_LAPPED)
            _exit(3);
        waiter_begin(&waiter);
        while (!lane_readable(&lane))
            waiter_pause(&waiter, lane.next);
    }
    result->lost = lane.lost;
    result->missed = waiter.missed_wakeups;
    _exit(0);
}

static pid_t start(bool lossless, struct result *result)
{
    const pid_t pid = unit_fork();

    if (pid == 0)
        sleeper(lossless, result);
    return pid;
}

/* Is this process asleep, in whatever system call? */
static bool is_asleep(pid_t pid)
{
    char path[32], stat[256] = "";

    snprintf(path, sizeof path, "/proc/%d/stat", (int)pid);
    FILE *file = fopen(path, "r");
    if (file == NULL)
        return false;
    (void)!fread(stat, 1, sizeof stat - 1, file);
    fclose(file);
    const char *name_end = strrchr(stat, ')');
    return name_end != NULL && name_end[1] == ' ' && name_end[2] == 'S';
}

static void pass(long ns)
{
    nanosleep(&(struct timespec){.tv_nsec = ns}, NULL);
}

static void kill_in_its_sleep(pid_t victim)
{
    for (int i = 0; i < 1000 && !is_asleep(victim); i++)
        pass(20000);
    kill(victim, SIGKILL);
    waitpid(victim, NULL, 0);
}

int main(int argc, char **argv)
{
    const uint64_t count = argc > 1 ? strtoull(argv[1], NULL, 10) : 100000;
    pid_t children[SLEEPERS + 1];
    unsigned killed = 0;
    int status, left = SLEEPERS + 1;
    void *area = mmap(NULL, TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    results = mmap(NULL, (SLEEPERS + 1) * sizeof *results, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!WAITER_HAS_FUTEX) {
        puts("no futex on this system");
        return 77;
    }
    unit_begin();
    alarm(900);
    CHECK(area != MAP_FAILED && results != MAP_FAILED);
    CHECK(lane_open(&lane, area, &header, SHM_DOWN) == LANE_OK);
    for (int i = 0; i < SLEEPERS; i++)
        children[i] = start(i == 0, &results[i]);
    const pid_t victim = start(false, &results[SLEEPERS]);
    while (atomic_load(&lane.shared->attached) < SLEEPERS + 1)
        pass(100000);
    kill_in_its_sleep(victim); /* nothing is published yet, so it sleeps for the first message */
    children[SLEEPERS] = unit_fork();
    if (children[SLEEPERS] == 0) {
        produce(count);
        _exit(0);
    }
    while (left > 0) { /* and now and then another one, until all have ended */
        const pid_t ended = waitpid(-1, &status, WNOHANG);
        if (ended > 0) {
            left--;
            CHECK(status == 0);
            if (status != 0) /* the others would wait for it until their alarm */
                for (int i = 0; i <= SLEEPERS; i++)
                    kill(children[i], SIGKILL);
            continue;
        }
        pass(20000000);
        if (left == SLEEPERS + 1) {
            kill_in_its_sleep(start(false, &results[SLEEPERS]));
            killed++;
        }
    }
    const uint64_t published = lane.shared->head;
    CHECK(published >= count && proved(count));
    for (const struct result *r = results; r < results + SLEEPERS; r++) {
        printf("%s: %llu read, %llu lost, %llu slept for, %llu missed wake-ups\n",
               r == results ? "consumer" : "reader", (unsigned long long)r->read,
               (unsigned long long)r->lost, (unsigned long long)r->slept,
               (unsigned long long)r->missed);
        CHECK(r->missed == 0 && r->read + r->lost == published && (r != results || r->lost == 0));
    }
    printf("%u others killed in their sleep\n", killed + 1);
    CHECK(killed > 0);
    return unit_end();
}
