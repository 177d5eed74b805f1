/*
 * test_block MESSAGES: a producer at random gaps, and three that block: a lossless consumer and two
 * plain readers. No wake-up is missed, also while others on the same lane are killed in their
 * sleep. Each must have slept, and must have found messages awake, both often, or the run has
 * proved nothing: so the producer goes on until that is so, however this machine schedules them.
 */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#include "shm_waiter.h"
#include "unit.h"

enum { SLOTS = 64, STRIDE = 128, TOTAL = SHM_HEADER_SIZE + 2 * SLOTS * STRIDE, SLEEPERS = 3 };

#define LAST (UINT64_C(1) << 63) /* in the payload: no further message comes */

struct result {
    uint64_t read, lost, missed;
    _Atomic uint64_t slept, awake; /* messages found after a sleep, and without one */
};

static char name[32];
static struct shm_segment segment; /* each process attaches to it, and opens its own lane */
static struct shm_lane lane;
static struct result *results; /* shared */

/* A segment that this process is the host of. */
static void create(struct shm_segment *host)
{
    const struct shm_header header = {.magic = SHM_MAGIC,
                                      .version = SHM_VERSION,
                                      .header_size = SHM_HEADER_SIZE,
                                      .total_size = TOTAL,
                                      .slot_count = SLOTS,
                                      .slot_stride = STRIDE,
                                      .payload_capacity = 8,
                                      .session = 1,
                                      .host_pid = (uint64_t)getpid()};

    snprintf(name, sizeof name, "/shmprueba-block-%d", (int)getpid());
    snprintf(host->name, sizeof host->name, "%s", name);
    const int fd = shm_open(name, O_CREAT | O_EXCL | O_RDWR, 0600);
    CHECK(fd >= 0 && ftruncate(fd, TOTAL) == 0 && shm_roles_open(host) == SHM_OK);
    CHECK(shm_role_take(host, SHM_ROLE_HOST) == SHM_OK);
    unsigned char *base = mmap(NULL, TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    CHECK(base != MAP_FAILED);
    memcpy(base, &header, sizeof header);
    atomic_store(&((struct shm_status *)(void *)(base + SHM_STATUS_AT))->state, SHM_STATE_LIVE);
}

static bool attach(void)
{
    return shm_segment_attach(&segment, name, "", 0) == SHM_OK &&
           shm_lane_open(&lane, &segment, SHM_DOWN) == SHM_OK;
}

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
        if (shm_lane_reserve(&lane, &payload) != SHM_OK) {
            sched_yield();
            continue;
        }
        last = lane.next >= count && proved(count);
        const uint64_t n = lane.next | (last ? LAST : 0);
        memcpy(payload, &n, sizeof n);
        shm_lane_commit(&lane, sizeof n, 0);
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
    struct shm_waiter waiter;
    struct shm_message message;
    uint32_t other;
    uint64_t n = 0;

    if (!attach() ||
        (lossless ? shm_lane_claim(&lane, NULL, &other) : shm_lane_attach(&lane)) != SHM_OK)
        _exit(1);
    shm_waiter_init(&waiter, SHM_WAIT_BLOCK, &lane);
    while (!(n & LAST)) {
        enum shm_result got = shm_receive(&waiter, UINT64_MAX, &message);
        if (got == SHM_OK) {
            memcpy(&n, message.payload, sizeof n);
            got = shm_lane_confirm(&lane, &message);
        }
        if (got == SHM_LAPPED) {
            n = 0;
            continue;
        }
        if (got != SHM_OK || (n & ~LAST) != message.n)
            _exit(2);
        shm_lane_release(&lane, &message);
        result->read++;
        result->slept = waiter.found_sleeping;
        result->awake = result->read - waiter.found_sleeping;
    }
    result->lost = lane.lost;
    result->missed = waiter.missed_wakeups;
    shm_lane_leave(&lane);
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
    struct shm_segment host = {0};

    results = mmap(NULL, (SLEEPERS + 1) * sizeof *results, PROT_READ | PROT_WRITE,
                   MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (!SHM_HAS_FUTEX) {
        puts("no futex on this system");
        return 77;
    }
    unit_begin();
    alarm(900);
    create(&host);
    CHECK(results != MAP_FAILED && attach());
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
    const uint64_t published = atomic_load(&lane.shared->head);
    CHECK(published >= count && proved(count));
    for (const struct result *r = results; r < results + SLEEPERS; r++) {
        printf("%s: %llu read, %llu lost, %llu slept for, %llu missed wake-ups\n",
               r == results ? "consumer" : "reader", (unsigned long long)r->read,
               (unsigned long long)r->lost, (unsigned long long)r->slept,
               (unsigned long long)r->missed);
        CHECK(r->missed == 0 && r->read + r->lost == published && (r != results || r->lost == 0));
    }
    shm_segment_detach(&segment);
    CHECK(shm_unlink(name) == 0);
    printf("%u others killed in their sleep\n", killed + 1);
    CHECK(killed > 0);
    return unit_end();
}
