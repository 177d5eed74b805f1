#define _GNU_SOURCE 1
#include "shm_waiter.h"

#include <time.h>
#include <unistd.h>

#ifdef __linux__
#include <sched.h>
#include <sys/prctl.h>
#endif

/* Polls of the lane between two readings of the clock. A reading takes as long as a poll or longer:
 * if each poll read the clock, a message would wait twice as long. */
#define POLLS 64u

#define POLL_NS           5000u      /* a blocking reader polls for so long, then sleeps */
#define NAP_NS            50000u     /* the first nap; each next one is twice as long ... */
#define NAP_MOST_NS       1000000u   /* ... up to this */
#define GAP_MOST_NS       100000000u /* a longer gap counts as this */
#define LATENESS_MIN_NS   20000u
#define LATENESS_BEGIN_NS 60000u
#define LATENESS_MAX_NS   400000u     /* an idle virtual machine takes 300 us to wake up */
#define DISPLACED_NS      1000000u    /* kept off its CPU for longer: another program runs there */
#define FOREIGN_NS        1000000000u /* a time stamp this far away is another clock's */
#define MISSED_NS         10000000u   /* a message there for so long should have woken us */
#define PENALTY_MOST      255u        /* messages to block for, at most, after spins in vain */

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* ---- the CPUs ---- */

/* waiter->away grows by AWAY_STEP when we lose our CPU for over 1 ms, and falls by 1 with each
 * message that a spin finds. Above AWAY_CROWDED other programs have the CPUs. */
#define AWAY_STEP    32u
#define AWAY_CROWDED 64u
#define AWAY_MOST    96u

static bool is_crowded(const struct shm_waiter *waiter)
{
    return waiter->away > AWAY_CROWDED;
}

void shm_timer_slack(void)
{
#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul);
#endif
}

/* @return where the host ran at its last heartbeat; -1: unknown */
static int host_cpu(const struct shm_waiter *waiter)
{
    const struct shm_status *status = waiter->lane->segment->status;

    return (int)(atomic_load_explicit(&status->cpu, memory_order_relaxed) - 1u);
}

#ifdef __linux__
/* @return how many CPUs this thread may use, and in *cpus which ones; off_cpu counts, too. 0: the
 * machine has too many for a cpu_set_t */
static int usable_cpus(const struct shm_waiter *waiter, cpu_set_t *cpus)
{
    if (sched_getaffinity(0, sizeof *cpus, cpus) != 0)
        return 0;
    if (waiter->off_cpu >= 0)
        CPU_SET((unsigned)waiter->off_cpu, cpus);
    return CPU_COUNT(cpus);
}
#endif

/* A scheduler that saves energy puts two processes that mostly sleep on one CPU, where they delay
 * each other. So keep off the host's CPU. But that CPU is needed, too, where other programs or many
 * readers have the rest: then spins lose their CPU for one message in 64. */
static void keep_off_host(struct shm_waiter *waiter)
{
#ifdef __linux__
    const uint64_t found = waiter->found_spinning + waiter->found_sleeping;
    const bool crowded = is_crowded(waiter) || 64 * waiter->displaced_off > found;
    const int host = host_cpu(waiter), off = waiter->off_cpu;
    cpu_set_t cpus;

    if (!waiter->may_move ||
        (crowded ? off < 0 : host < 0 || host == off || sched_getcpu() != host) ||
        usable_cpus(waiter, &cpus) < 2)
        return;
    if (!crowded)
        CPU_CLR((unsigned)host, &cpus);
    if (sched_setaffinity(0, sizeof cpus, &cpus) == 0)
        waiter->off_cpu = crowded ? -1 : host;
#else
    (void)waiter;
#endif
}

void shm_waiter_init(struct shm_waiter *waiter, enum shm_wait_mode mode, struct shm_lane *lane)
{
    *waiter = (struct shm_waiter){.mode = mode,
                                  .lane = lane,
                                  .off_cpu = -1,
                                  .gap_ns = GAP_MOST_NS,
                                  .lateness_ns = LATENESS_BEGIN_NS,
                                  .lost = lane->lost};
#ifdef __linux__
    waiter->only_cpu = usable_cpus(waiter, &(cpu_set_t){{0}}) == 1 ? sched_getcpu() : -1;
#else
    waiter->only_cpu = sysconf(_SC_NPROCESSORS_ONLN) < 2 ? 0 : -1;
#endif
}

void shm_waiter_may_move(struct shm_waiter *waiter)
{
    waiter->may_move = waiter->mode != SHM_WAIT_BLOCK && waiter->only_cpu < 0;
    keep_off_host(waiter);
}

/* ---- passing the time ---- */

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* @return the length of the next nap: each nap doubles the time waited */
static uint64_t nap_after(uint64_t waited_ns)
{
    return waited_ns < NAP_NS ? NAP_NS : least(waited_ns, NAP_MOST_NS);
}

static void nap(uint64_t ns)
{
    nanosleep(&(struct timespec){.tv_nsec = (long)ns}, NULL);
}

/* Call it after each sleep with a planned end. lateness_ns settles where 3 sleeps in 100 end later:
 * 3 steps of 1/8 up balance 97 steps of 1/256 down, however late those 3 sleeps end. */
static void learn_lateness(struct shm_waiter *waiter, uint64_t late_ns)
{
    const uint64_t known_ns = waiter->lateness_ns;

    if (late_ns > known_ns)
        waiter->lateness_ns = least(known_ns + known_ns / 8, LATENESS_MAX_NS);
    else if (known_ns - known_ns / 256 >= LATENESS_MIN_NS)
        waiter->lateness_ns = known_ns - known_ns / 256;
}

static void enter(struct shm_waiter *waiter, enum shm_wait_phase phase, uint64_t until_ns)
{
    waiter->phase = phase;
    waiter->until_ns = until_ns;
}

/* Chooses how to wait for the next message. */
static void plan(struct shm_waiter *waiter)
{
    const uint64_t expected_ns = waiter->expected_ns, lateness_ns = waiter->lateness_ns;
    const uint64_t last_ns = expected_ns + waiter->spread_ns + lateness_ns;
    const int host = host_cpu(waiter), only = waiter->only_cpu;

    waiter->one_cpu = only >= 0 && (host < 0 || host == only);
    if (waiter->mode == SHM_WAIT_SPIN && waiter->blocked > 0) {
        nap(NAP_NS); /* displaced: once, so that another can run */
        waiter->blocked = 0;
    }
    const uint64_t now_ns = waiter->now_ns = shm_clock_now_ns();
    if (waiter->mode == SHM_WAIT_SPIN)
        enter(waiter, SHM_PHASE_SPIN, UINT64_MAX);
    else if (waiter->mode == SHM_WAIT_BLOCK || waiter->one_cpu || waiter->blocked > 0 ||
             now_ns >= last_ns)
        enter(waiter, SHM_PHASE_POLL, now_ns + POLL_NS);
    else if (now_ns + 2 * lateness_ns < expected_ns)
        enter(waiter, SHM_PHASE_DOZE, expected_ns - lateness_ns);
    else
        enter(waiter, SHM_PHASE_SPIN, last_ns);
}

/* Ends a spin that found nothing. The first one blocks for the message at hand only. */
static void spun_in_vain(struct shm_waiter *waiter)
{
    waiter->blocked = waiter->penalty + 1; /* + 1: the message at hand */
    waiter->penalty = (unsigned)least(2 * waiter->penalty + 1, PENALTY_MOST);
}

/* Did we lose our CPU since the clock was last read, in a spin or after a doze? If that happens
 * often, block: where other programs have the CPUs, a scheduler may at once run a process that
 * another process wakes, but not one that a timer wakes. */
static bool is_displaced(struct shm_waiter *waiter, uint64_t now_ns)
{
    const bool dozed = waiter->phase == SHM_PHASE_DOZE, spun = waiter->phase == SHM_PHASE_SPIN;
    const uint64_t away_ns = now_ns - (dozed ? least(now_ns, waiter->until_ns) : waiter->now_ns);
    const bool adapts = spun && waiter->mode != SHM_WAIT_SPIN;

    if (!(spun || dozed) || away_ns <= (adapts ? waiter->lateness_ns : DISPLACED_NS))
        return false;
    waiter->displaced++;
    waiter->displaced_off += waiter->off_cpu >= 0;
    spun_in_vain(waiter);
    if (away_ns > DISPLACED_NS)
        waiter->away = (unsigned)least(waiter->away + AWAY_STEP, AWAY_MOST);
    if (is_crowded(waiter))
        waiter->blocked = PENALTY_MOST;
    return true;
}

/* Ends the phase, and enters the next one. */
static void advance(struct shm_waiter *waiter)
{
    if (waiter->phase == SHM_PHASE_SPIN)
        spun_in_vain(waiter);
    if (waiter->phase == SHM_PHASE_POLL)
        enter(waiter, SHM_PHASE_SLEEP, UINT64_MAX);
    else
        plan(waiter);
}

/* Passes a little time: that of a poll, or of a sleep.
 * @return true when it has read the clock, into now_ns */
static bool pass(struct shm_waiter *waiter, uint64_t waited_ns, uint64_t timeout_ns)
{
    waiter->slept = waiter->phase == SHM_PHASE_DOZE || waiter->phase == SHM_PHASE_SLEEP;
    if (waiter->slept) {
        const uint64_t longest_ns = SHM_HAS_FUTEX ? SHM_SLEEP_NS : nap_after(waited_ns);
        const uint64_t left_ns = least(waiter->until_ns - waiter->now_ns, timeout_ns - waited_ns);
        const uint64_t ns = least(longest_ns, left_ns);
        const bool whole = shm_lane_sleep(waiter->lane, ns);
        /* The planned end, not now: a process that got its CPU back late missed no wake-up. */
        waiter->timed_out_ns = whole ? waiter->now_ns + ns : 0;
    } else {
        relax();
        if (++waiter->polls % POLLS != 0)
            return false;
    }
    const uint64_t now_ns = shm_clock_now_ns();
    const bool displaced = is_displaced(waiter, now_ns);
    if (waiter->phase == SHM_PHASE_DOZE && now_ns >= waiter->until_ns) /* even if it was woken */
        learn_lateness(waiter, now_ns - waiter->until_ns);
    waiter->now_ns = now_ns;
    if (displaced)
        plan(waiter);
    else if (now_ns >= waiter->until_ns)
        advance(waiter);
    return true;
}

/* Learns from a message that was found, at once or after a wait. */
static void learn(struct shm_waiter *waiter, const struct shm_message *message, bool waited)
{
    const uint64_t now_ns = message->seen_ns, gap_ns = message->due_ns - waiter->due_ns;
    const uint64_t published_ns = message->timestamp_ns;
    const uint64_t late_ns = published_ns - least(published_ns, message->due_ns);
    const bool foreign = now_ns - published_ns + FOREIGN_NS > 2ull * FOREIGN_NS;

    waiter->gap_ns = (int64_t)gap_ns < 0 ? 0 : least(gap_ns, GAP_MOST_NS);
    /* Expect the smaller delay of the last two messages: a host that was late once is in time
     * again. spread_ns allows for the larger one. */
    const uint64_t early_ns = least(late_ns, waiter->late_ns);
    waiter->expected_ns = waiter->gap_ns + (foreign ? now_ns : published_ns) - (late_ns - early_ns);
    waiter->spread_ns = least(late_ns - early_ns + waiter->late_ns - early_ns, LATENESS_MAX_NS);
    waiter->late_ns = late_ns;
    waiter->due_ns = message->due_ns;
    if (waited && waiter->slept) {
        waiter->found_sleeping++;
        waiter->missed_wakeups += !foreign && waiter->timed_out_ns > published_ns + MISSED_NS;
    } else if (waited) {
        waiter->found_spinning++;
        if (!is_displaced(waiter, now_ns) && waiter->phase == SHM_PHASE_SPIN) { /* a catch */
            waiter->penalty = 0;
            waiter->away -= waiter->away > 0;
        }
    }
    if (waiter->mode != SHM_WAIT_SPIN) /* there, plan naps once for it */
        waiter->blocked -= waiter->blocked > 0;
}

/* ---- the loops ---- */

/* Checks the host, the caller's idle function, and the time-out.
 * @return SHM_OK: go on waiting; or why the wait ends */
static enum shm_result attend(struct shm_lane *lane, uint64_t now_ns, bool timed_out)
{
    struct shm_segment *segment = lane->segment;
    const enum shm_result host = shm_segment_host(segment, now_ns);

    if (segment->idle != NULL && !segment->idle(segment->context, host))
        return SHM_STOPPED;
    if (host != SHM_OK && host != SHM_STALLED)
        return host;
    return shm_lane_dropped(lane) ? SHM_DROPPED : timed_out ? SHM_TIMEOUT : SHM_OK;
}

enum shm_result shm_receive(struct shm_waiter *waiter, uint64_t timeout_ns,
                            struct shm_message *message)
{
    struct shm_lane *lane = waiter->lane;
    bool waits = false, lapped = lane->lost != waiter->lost; /* the last message, in use */
    struct shm_patience waited = {0, 0};
    enum shm_result end = SHM_OK;

    if (!lapped)
        waiter->laps.checked_ns = 0;
    for (;; lapped = false) {
        const enum shm_result result = lapped ? SHM_LAPPED : shm_lane_next(lane, message);
        if (result == SHM_OK) {
            message->seen_ns = shm_clock_now_ns();
            learn(waiter, message, waits);
            return SHM_OK;
        }
        if (result == SHM_LAPPED) { /* go on with a later message */
            const uint64_t now_ns = shm_clock_now_ns();
            if (waiter->laps.checked_ns == 0)
                waiter->laps = (struct shm_patience){0, now_ns};
            if (shm_patience_spent(&waiter->laps, now_ns) > timeout_ns)
                return SHM_LAPPED;
            waiter->lost = lane->lost;
            waits = false;
            continue;
        }
        if (result != SHM_EMPTY && result != SHM_AGAIN) /* or zeros in place of lost pages? */
            return attend(lane, shm_clock_now_ns(), false) == SHM_REFUSED ? SHM_REFUSED : result;
        /* After one more poll: what was published before the end counts. A slot may become visible
         * after head, but not so long after it. */
        if (end == SHM_TIMEOUT && result == SHM_AGAIN && timeout_ns >= SHM_SLEEP_NS)
            return SHM_DAMAGED;
        if (end != SHM_OK)
            return end;
        if (!waits) {
            plan(waiter);
            waiter->slept = false;
            waited = (struct shm_patience){0, waiter->now_ns};
        } else if (!pass(waiter, waited.spent_ns, timeout_ns)) {
            continue;
        }
        waits = true;
        const bool timed_out = shm_patience_spent(&waited, waiter->now_ns) >= timeout_ns;
        end = attend(lane, waiter->now_ns, timed_out);
        keep_off_host(waiter);
    }
}

enum shm_result shm_wait(struct shm_lane *lane, bool (*ready)(void *argument), void *argument,
                         uint64_t timeout_ns)
{
    struct shm_patience patience = {0, shm_clock_now_ns()};
    enum shm_result end = SHM_OK;

    while (!ready(argument)) {
        if (end != SHM_OK)
            return end;
        if (patience.spent_ns < POLL_NS)
            relax();
        else
            nap(least(nap_after(patience.spent_ns), timeout_ns - patience.spent_ns));
        const uint64_t now_ns = shm_clock_now_ns();
        end = attend(lane, now_ns, shm_patience_spent(&patience, now_ns) >= timeout_ns);
    }
    return SHM_OK;
}

static bool has_room(void *lane)
{
    return shm_lane_writable(lane);
}

enum shm_result shm_wait_room(struct shm_lane *lane, uint64_t timeout_ns)
{
    const uint64_t now_ns = shm_clock_now_ns();
    const bool due = now_ns - lane->segment->still.checked_ns >= SHM_SLEEP_NS;
    const enum shm_result end = due ? attend(lane, now_ns, false) : SHM_OK;

    return end == SHM_OK ? shm_wait(lane, has_room, lane, timeout_ns) : end;
}
