#define _GNU_SOURCE
#include "waiter.h"

#include <errno.h>
#include <limits.h>
#include <time.h>
#include <unistd.h>

#if WAITER_HAS_FUTEX
#include <sys/syscall.h>
#endif
/* <linux/futex.h> and <linux/membarrier.h> have them, but a musl toolchain may come without. */
#define FUTEX_WAIT                      0
#define FUTEX_WAKE                      1
#define MEMBARRIER_CMD_GLOBAL_EXPEDITED 2

#include "latency.h"

#define LOOKS        64u         /* between two looks at the clock */
#define DISPLACED_NS 1000000u    /* a spinner that is away for longer shares its CPU */
#define FOREIGN_NS   1000000000u /* a time stamp this far away is another clock's */
#define MISSED_NS    10000000u   /* a message that was there for so long should have woken us */

const char *const wait_mode_names[] = {"adaptive", "spin", "block", NULL};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

void waiter_init(struct waiter *waiter, enum wait_mode mode, struct shm_lane *lane, bool barrier)
{
    *waiter = (struct waiter){.mode = mode,
                              .lane = lane,
                              .futex = WAITER_HAS_FUTEX,
                              .barrier = barrier,
                              .one_cpu = sysconf(_SC_NPROCESSORS_ONLN) < 2,
                              .gap_ns = WAITER_SLEEP_NS,
                              .lateness_ns = 3ull * WAITER_LATENESS_MIN_NS,
                              .penalty = 1};
    waiter_begin(waiter);
}

void waiter_begin(struct waiter *waiter)
{
    waiter->looks = 0;
    waiter->rhythm = waiter->spun = waiter->slept = false;
    waiter->since_ns = waiter->now_ns = 0;
    waiter->wake_ns = waiter->spin_ns = 0;
    waiter->nap_ns = WAITER_NAP_NS;
    waiter->timed_out_ns = 0;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* ---- sleeping ---- */

/* Waits while the low half of head is value, or wakes as many: a futex has 32 bits. Not
 * FUTEX_PRIVATE: the other side is another process. */
static long futex(_Atomic uint64_t *head, int operation, uint32_t value,
                  const struct timespec *longest)
{
#if WAITER_HAS_FUTEX
    uint32_t *low_half = (uint32_t *)(void *)head + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
    return syscall(SYS_futex, low_half, operation, value, longest, NULL, 0);
#else
    (void)head, (void)operation, (void)value, (void)longest;
    return 0;
#endif
}

void waiter_wake(_Atomic uint64_t *head)
{
    futex(head, FUTEX_WAKE, INT_MAX, NULL);
}

/* @return true when the sleep lasted as long as asked */
static bool nap(uint64_t ns)
{
    const struct timespec step = {.tv_nsec = (long)least(ns, WAITER_LONGEST_NAP_NS)};

    return nanosleep(&step, NULL) == 0;
}

/* The fence between our wish and our look at head. Where the producer has none of its own between
 * its head and its look at wish, this one is for both: the kernel makes every CPU that runs the
 * host pass a full barrier. Every time: "my wish is there already" is not enough. */
static bool fence_both(struct waiter *waiter)
{
#if WAITER_HAS_FUTEX
    if (waiter->barrier && syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL_EXPEDITED, 0, 0) != 0) {
        waiter->trouble = "this process may not call membarrier: it naps where it would sleep";
        return waiter->futex = false;
    }
#else
    (void)waiter;
#endif
    atomic_thread_fence(memory_order_seq_cst);
    return true;
}

/* Sleeps until message next is published, ns at most.
 * @return true when the sleep lasted as long as asked */
static bool sleep_for(struct waiter *waiter, uint64_t next, uint64_t ns)
{
    struct shm_lane *lane = waiter->lane;
    uint64_t wish = atomic_load_explicit(&lane->wish, memory_order_relaxed);

    /* An atomic maximum, never cleared: any number of sleepers, and none ends another's sleep. */
    while (wish < next && !atomic_compare_exchange_weak_explicit(
                              &lane->wish, &wish, next, memory_order_relaxed, memory_order_relaxed))
        continue;
    /* SYNC sleep (full fence): pairs with the producer's "wake". We wish, then look; it stores
     * head, then looks for a wish. One of the two sees the other. */
    if (!fence_both(waiter))
        return nap(ns);
    const uint64_t head = atomic_load_explicit(&lane->head, memory_order_relaxed);
    if (head >= next)
        return false;
    const struct timespec longest = {.tv_nsec = (long)least(ns, WAITER_SLEEP_NS)};
    return futex(&lane->head, FUTEX_WAIT, (uint32_t)head, &longest) != 0 && errno == ETIMEDOUT;
}

/* One sleep, ns at most, with what is noted of it. */
static void rest(struct waiter *waiter, uint64_t next, uint64_t ns)
{
    const uint64_t end_ns = waiter->now_ns + least(ns, WAITER_SLEEP_NS);
    const bool whole = waiter->futex && next != 0 ? sleep_for(waiter, next, ns) : nap(ns);

    waiter->slept = next != 0;
    waiter->spun = false;
    waiter->now_ns = clock_now_ns();
    /* Not now: who gets his CPU back late has missed no wake-up; nor has who naps. */
    waiter->timed_out_ns = whole && waiter->futex && next != 0 ? end_ns : 0;
}

/* ---- the rhythm ---- */

/* Up fast, down slowly. Doubled at most, so that one exceptional sleep does not stay for long. */
static void learn_lateness(struct waiter *waiter, uint64_t late_ns)
{
    const uint64_t most = least(2 * waiter->lateness_ns, WAITER_LATENESS_MAX_NS);
    const uint64_t late = least(late_ns + late_ns / 8, most);

    if (late > waiter->lateness_ns)
        waiter->lateness_ns = late;
    else
        waiter->lateness_ns -= (waiter->lateness_ns - late) / 16;
    if (waiter->lateness_ns < WAITER_LATENESS_MIN_NS)
        waiter->lateness_ns = WAITER_LATENESS_MIN_NS;
}

/* Has it lost its CPU since the last look? Then others need it. */
static bool was_displaced(struct waiter *waiter, uint64_t away_ns)
{
    const bool spinner = waiter->mode == WAIT_SPIN;

    if (!(spinner || waiter->rhythm) || away_ns <= (spinner ? DISPLACED_NS : waiter->lateness_ns))
        return false;
    waiter->displaced++;
    waiter->share = spinner;
    waiter->in_vain = !spinner;
    return true;
}

/* When to sleep and when to spin, once the wait has looked at the clock. */
static void plan(struct waiter *waiter, uint64_t next)
{
    const uint64_t expected_ns = waiter->published_ns + waiter->gap_ns;
    const uint64_t now_ns = waiter->now_ns, late_ns = waiter->lateness_ns;

    waiter->since_ns = now_ns;
    waiter->spin_ns = now_ns + WAITER_LOOK_NS;
    waiter->rhythm = waiter->mode == WAIT_ADAPTIVE && next != 0 && waiter->published_ns != 0 &&
                     waiter->blocked == 0 && now_ns < expected_ns + late_ns;
    if (!waiter->rhythm)
        return;
    if (expected_ns > now_ns + 2 * late_ns)
        waiter->wake_ns = expected_ns - late_ns;
    waiter->spin_ns = expected_ns + late_ns;
}

bool waiter_pause(struct waiter *waiter, uint64_t next)
{
    const bool spinner = waiter->mode == WAIT_SPIN;
    const bool may_look = spinner || waiter->mode == WAIT_BLOCK || !waiter->one_cpu;

    if (waiter->share) {
        waiter->share = false;
        nap(WAITER_NAP_NS);
        waiter->now_ns = clock_now_ns(); /* what the other one took of it is no look */
    }
    if (spinner || (may_look && waiter->since_ns == 0) ||
        (may_look && waiter->wake_ns == 0 && waiter->now_ns < waiter->spin_ns)) {
        relax();
        waiter->spun = next != 0;
        waiter->slept = false;
        if (++waiter->looks % LOOKS != 0)
            return false;
        const uint64_t before_ns = waiter->now_ns;
        waiter->now_ns = clock_now_ns();
        if (waiter->since_ns == 0)
            plan(waiter, next);
        else if (was_displaced(waiter, waiter->now_ns - before_ns) && !spinner)
            waiter->spin_ns = 0;
        return true;
    }
    if (waiter->since_ns == 0)
        waiter->since_ns = waiter->now_ns = clock_now_ns();
    if (waiter->wake_ns != 0) {
        rest(waiter, next, waiter->wake_ns - waiter->now_ns);
        /* Woken or not: who oversleeps is woken by the message, and must learn that, too. */
        if (waiter->now_ns >= waiter->wake_ns) {
            learn_lateness(waiter, waiter->now_ns - waiter->wake_ns);
            waiter->wake_ns = 0;
        }
        return true;
    }
    waiter->in_vain |= waiter->rhythm && waiter->spun;
    waiter->rhythm = false;
    rest(waiter, next, waiter->futex && next != 0 ? WAITER_SLEEP_NS : waiter->nap_ns);
    waiter->nap_ns = least(2 * waiter->nap_ns, WAITER_LONGEST_NAP_NS);
    return true;
}

/* What the wait for it teaches. In vain: it blocks for 1, 2, 4 ... 256 messages. */
static void learn_rhythm(struct waiter *waiter, uint64_t now_ns)
{
    if (waiter->blocked > 0)
        waiter->blocked--;
    if (waiter->spun && waiter->now_ns != 0)
        was_displaced(waiter, now_ns - waiter->now_ns);
    if (waiter->in_vain) {
        waiter->blocked = waiter->penalty;
        waiter->penalty = (unsigned)least(2ull * waiter->penalty, WAITER_BLOCKED_MAX);
        waiter->caught = 0;
        waiter->in_vain = false;
    } else if (waiter->rhythm && waiter->spun && ++waiter->caught == WAITER_CAUGHT) {
        waiter->penalty -= waiter->penalty / 2;
        waiter->caught = 0;
    }
}

void waiter_found(struct waiter *waiter, const struct lane_message *message, uint64_t now_ns)
{
    const uint64_t gap_ns = message->due_ns - waiter->due_ns;
    const bool foreign = now_ns - message->timestamp_ns + FOREIGN_NS > 2ull * FOREIGN_NS;

    if (waiter->published_ns != 0) /* a due time that goes back is no gap */
        waiter->gap_ns = (int64_t)gap_ns < 0 ? 0 : least(gap_ns, WAITER_SLEEP_NS);
    waiter->due_ns = message->due_ns;
    waiter->published_ns = foreign ? now_ns : message->timestamp_ns;
    learn_rhythm(waiter, now_ns);
    if (!waiter->spun && !waiter->slept)
        return;
    waiter->found_spinning += waiter->spun;
    waiter->found_sleeping += waiter->slept;
    if (waiter->timed_out_ns > message->timestamp_ns + MISSED_NS && !foreign)
        waiter->missed_wakeups++;
    waiter_begin(waiter);
}
