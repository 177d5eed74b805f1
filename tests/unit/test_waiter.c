/*
 * src/waiter.c with a clock that is made up: here a look takes 50 ns, a sleeper wakes late_ns late,
 * and a message comes when the test says so. Times in it are the model's; nothing here is measured.
 *
 * Built twice, the second time with SHM_NO_FUTEX.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdarg.h>
#include <time.h>
#include <unistd.h>

#include "latency.h"
#include "unit.h"
#include "waiter.h"
#if WAITER_HAS_FUTEX
#include <sys/syscall.h>
#endif

enum { LOOK_NS = 50, US = 1000, MS = 1000 * US, LATE_NS = 55 * US };
#define S     (1000ull * MS)
#define NEVER UINT64_MAX

static struct {
    uint64_t now_ns, late_ns;
    uint64_t publish_ns;           /* when message n comes */
    uint64_t away_ns, back_ns;     /* meanwhile another has our CPU */
    bool wake_is_lost, no_barrier; /* what the kernel does badly */
    long cpus;
    unsigned naps, sleeps, barriers;
    uint64_t longest_nap_ns, longest_sleep_ns;
    uint64_t spun_ns;               /* in the wait at hand */
    uint64_t all_spun_ns, begin_ns; /* since start() */
} world;

static struct shm_lane shared;
static struct waiter w;
static uint64_t n; /* the message waited for, or read last */

static void pass_to(uint64_t ns)
{
    if (ns >= world.away_ns) {
        ns = ns > world.back_ns ? ns : world.back_ns;
        world.away_ns = NEVER;
    }
    world.now_ns = ns;
    if (ns >= world.publish_ns)
        atomic_store(&shared.head, n);
}

static void longest(uint64_t *so_far_ns, uint64_t ns)
{
    if (ns > *so_far_ns)
        *so_far_ns = ns;
}

/* ---- what waiter.c calls ---- */

uint64_t clock_now_ns(void)
{
    return world.now_ns;
}

static int made_up_nanosleep(const struct timespec *step, struct timespec *left)
{
    (void)left;
    CHECK(step->tv_sec == 0 && step->tv_nsec > 0 && step->tv_nsec <= MS);
    longest(&world.longest_nap_ns, (uint64_t)step->tv_nsec);
    world.naps++;
    pass_to(world.now_ns + (uint64_t)step->tv_nsec + world.late_ns);
    return 0;
}

#if WAITER_HAS_FUTEX
static long made_up_futex(const uint32_t *word, int operation, uint32_t value,
                          const struct timespec *timeout)
{
    const uint64_t end_ns = world.now_ns + (uint64_t)timeout->tv_nsec;
    const bool wakes = !world.wake_is_lost && atomic_load(&shared.wish) >= n;

    CHECK(operation == 0 && timeout->tv_sec == 0 &&
          (const void *)word == (const void *)&shared.head);
    world.sleeps++;
    longest(&world.longest_sleep_ns, (uint64_t)timeout->tv_nsec);
    if (value != *word) {
        errno = EAGAIN;
        return -1;
    }
    if (wakes && world.publish_ns <= end_ns) {
        pass_to(world.publish_ns + world.late_ns);
        return 0;
    }
    pass_to(end_ns + world.late_ns);
    errno = ETIMEDOUT;
    return -1;
}

static long made_up_syscall(long number, ...)
{
    va_list arguments;
    long result;

    va_start(arguments, number);
    if (number == SYS_futex) {
        const uint32_t *word = va_arg(arguments, const uint32_t *);
        const int operation = va_arg(arguments, int);
        const uint32_t value = va_arg(arguments, uint32_t);
        result = made_up_futex(word, operation, value, va_arg(arguments, const struct timespec *));
    } else {
        CHECK(number == SYS_membarrier && va_arg(arguments, int) == 2);
        world.barriers++;
        result = world.no_barrier ? -1 : 0;
    }
    va_end(arguments);
    return result;
}
#define syscall made_up_syscall
#endif

#define nanosleep     made_up_nanosleep
#define sysconf(what) (world.cpus)
#include "../../src/waiter.c"

/* ---- the reader ---- */

static void start(enum wait_mode mode, bool barrier)
{
    atomic_store(&shared.head, 0);
    atomic_store(&shared.wish, 0);
    world.now_ns = world.begin_ns = 1000 * S;
    world.late_ns = LATE_NS;
    world.away_ns = NEVER;
    world.wake_is_lost = world.no_barrier = false;
    world.naps = world.sleeps = world.barriers = 0;
    world.longest_nap_ns = world.longest_sleep_ns = world.all_spun_ns = 0;
    n = 0;
    waiter_init(&w, mode, &shared, barrier);
    w.due_ns = world.now_ns; /* where catch_all goes on from */
}

/* As the client waits for message n. @return true when it had to */
static bool wait_for_it(void)
{
    const uint64_t lateness_ns = w.lateness_ns;

    world.spun_ns = 0;
    pass_to(world.now_ns + LOOK_NS);
    if (atomic_load(&shared.head) >= n)
        return false;
    waiter_begin(&w);
    while (atomic_load(&shared.head) < n) {
        const unsigned rests = world.naps + world.sleeps;
        (void)waiter_pause(&w, n);
        if (world.naps + world.sleeps == rests)
            world.spun_ns += LOOK_NS;
        pass_to(world.now_ns + LOOK_NS);
    }
    world.all_spun_ns += world.spun_ns;
    /* Whatever was learned: it spins for three latenesses at most, and the looks between two looks
     * at the clock. */
    if (w.mode != WAIT_SPIN)
        CHECK(world.spun_ns <=
              3 * (lateness_ns > w.lateness_ns ? lateness_ns : w.lateness_ns) + 65 * LOOK_NS);
    return true;
}

/* Message n + 1 comes at at_ns, and was due at due_ns.
 * @return how old it was when it was seen, beyond a time that nobody can help */
static uint64_t receive(uint64_t at_ns, uint64_t due_ns)
{
    n++;
    world.publish_ns = at_ns;
    const uint64_t begin_ns = world.now_ns, back_ns = world.back_ns;
    (void)wait_for_it();
    const struct lane_message message = {.n = n, .timestamp_ns = at_ns, .due_ns = due_ns};
    pass_to(world.now_ns + LOOK_NS);
    waiter_found(&w, &message, world.now_ns);
    CHECK(w.gap_ns <= WAITER_SLEEP_NS && w.blocked <= WAITER_BLOCKED_MAX);
    CHECK(w.lateness_ns >= WAITER_LATENESS_MIN_NS && w.lateness_ns <= WAITER_LATENESS_MAX_NS);
    uint64_t there_ns = at_ns > begin_ns ? at_ns : begin_ns;
    if (back_ns > there_ns && back_ns <= world.now_ns)
        there_ns = back_ns;
    const uint64_t age_ns = world.now_ns - there_ns;
    /* It never sleeps past one: an early one wakes it, or it naps for 1 ms at most. */
    CHECK(world.wake_is_lost ||
          age_ns <= world.late_ns + 3 * LOOK_NS + (w.futex ? 0 : WAITER_LONGEST_NAP_NS));
    return age_ns;
}

/* So many messages in time. @return how many of them were caught: found while it spun */
static uint64_t catch_all(uint64_t count, uint64_t gap_ns)
{
    const uint64_t before = w.found_spinning;

    for (uint64_t at_ns = w.due_ns + gap_ns; count > 0; count--, at_ns += gap_ns) {
        const uint64_t spinning = w.found_spinning, age_ns = receive(at_ns, at_ns);
        CHECK(w.found_spinning == spinning || age_ns <= 3 * LOOK_NS);
    }
    return w.found_spinning - before;
}

static void begin_rhythm(void)
{
    start(WAIT_ADAPTIVE, false);
    receive(world.now_ns + 1 * MS, world.now_ns + 1 * MS);
    CHECK(catch_all(32, 1 * MS) >= 30);
    world.all_spun_ns = 0;
    world.begin_ns = world.now_ns;
}

static uint64_t spun_per_mille(void)
{
    return 1000 * world.all_spun_ns / (world.now_ns - world.begin_ns);
}

static uint64_t any(void) /* xorshift64, fixed: the same run every time */
{
    static uint64_t state = 0x9E3779B97F4A7C15u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 11;
}

/* ---- the rhythm ---- */

static void periodic(void)
{
    begin_rhythm();
    CHECK(catch_all(2000, 1 * MS) == 2000 && spun_per_mille() <= 10);
    CHECK(w.found_spinning + w.found_sleeping <= n && w.displaced == 0 && w.missed_wakeups == 0);

    /* Learned again within 32 messages, whatever comes after what. */
    static const uint64_t gaps_ns[] = {10 * MS, 100 * US, 50 * MS, 1 * MS, 100 * US, 10 * MS};
    for (size_t i = 0; i < sizeof gaps_ns / sizeof gaps_ns[0]; i++) {
        (void)catch_all(32, gaps_ns[i]);
        const unsigned rests = world.naps + world.sleeps;
        CHECK(catch_all(300, gaps_ns[i]) == 300 && w.gap_ns == gaps_ns[i]);
        /* A gap under two latenesses is spun through. */
        CHECK((world.naps + world.sleeps == rests) == (gaps_ns[i] < 2 * w.lateness_ns));
    }
    /* The first of all is waited for as one who blocks does. */
    start(WAIT_ADAPTIVE, false);
    CHECK(receive(world.now_ns + 3 * S, 0) > 0 && w.found_sleeping == 1);
    CHECK(world.spun_ns <= WAITER_LOOK_NS + 129 * LOOK_NS);
}

static void jittered(void)
{
    uint64_t due_ns, caught;

    begin_rhythm();
    due_ns = w.due_ns;
    caught = w.found_spinning;
    for (int i = 0; i < 1000; i++) { /* by a little: it is all the same */
        due_ns += 1 * MS;
        receive(due_ns + any() % (5 * US), due_ns);
    }
    CHECK(w.found_spinning - caught == 1000);
    for (int i = 0; i < 3000; i++) { /* by more than it can spin for: it learns to block */
        due_ns += 1 * MS;
        receive(due_ns + any() % (800 * US), due_ns);
    }
    world.begin_ns = world.now_ns;
    world.all_spun_ns = 0;
    for (int i = 0; i < 3000; i++) { /* nothing to know */
        due_ns += 10 * US + any() % (2 * MS);
        receive(due_ns, due_ns);
    }
    CHECK(spun_per_mille() <= 50);
}

/* A host that stood still, and sends what it owes at once; then it is in time again. */
static void late_host(void)
{
    begin_rhythm();
    for (int round = 0; round < 20; round++) {
        uint64_t due_ns = w.due_ns;
        const uint64_t resumes_ns = due_ns + 20 * MS;
        for (unsigned i = 0; i < 20; i++) {
            due_ns += 1 * MS;
            receive(resumes_ns + i * US, due_ns);
        }
        CHECK(w.gap_ns == 1 * MS);
        (void)catch_all(2, 1 * MS); /* the first one comes before it is expected */
        CHECK(catch_all(130, 1 * MS) >= 128);
    }
}

static void missing_message(void)
{
    begin_rhythm();
    for (int i = 0; i < 20; i++) { /* the host leaves one out: one spin in vain */
        receive(w.due_ns + 2 * MS, w.due_ns + 2 * MS);
        CHECK(w.blocked == 1);
        (void)catch_all(1, 1 * MS);
        CHECK(catch_all(128, 1 * MS) == 128);
    }
    for (int i = 0; i < 20; i++) { /* one is lost: the next one comes early */
        pass_to(w.due_ns + 2 * MS + 100 * US);
        n++;
        receive(w.due_ns + 2 * MS, w.due_ns + 2 * MS);
        (void)catch_all(1, 1 * MS);
        CHECK(catch_all(64, 1 * MS) == 64);
    }
}

/* Each gap is the other one's: always wrong, so in the end it only blocks. */
static void two_rhythms_in_turn(void)
{
    begin_rhythm();
    for (int i = 0; i < 4000; i++) {
        const uint64_t at_ns = w.due_ns + (i % 2 ? 1 * MS : 3 * MS);
        receive(at_ns, at_ns);
        if (i == 2000) {
            world.begin_ns = world.now_ns;
            world.all_spun_ns = 0;
        }
    }
    CHECK(w.penalty == WAITER_BLOCKED_MAX && spun_per_mille() <= 5);
}

/* What no clock and no schedule says; receive() has the bounds. */
static void nonsense(void)
{
    static const uint64_t jumps[] = {
        0,        1,          3600 * S, 0 - 3600 * S, 1ull << 63, 0 - 1ull * MS,
        150 * MS, 1ull << 62, NEVER,    1 * MS};

    begin_rhythm();
    for (size_t i = 0; i < sizeof jumps / sizeof jumps[0]; i++) /* due times */
        for (size_t k = 0; k < sizeof jumps / sizeof jumps[0]; k++) {
            receive(world.now_ns + 300 * US, w.due_ns + jumps[i]);
            receive(world.now_ns + 300 * US, w.due_ns + jumps[k]);
            receive(world.now_ns + 300 * US, w.due_ns + jumps[k]);
            CHECK(w.gap_ns == ((int64_t)jumps[k] < 0        ? 0
                               : jumps[k] > WAITER_SLEEP_NS ? WAITER_SLEEP_NS
                                                            : jumps[k]));
        }
    static const uint64_t gaps_ns[] = {0, 600 * S, 1, 150 * MS, 0, 99 * MS, 100 * US};
    for (size_t i = 0; i < sizeof gaps_ns / sizeof gaps_ns[0]; i++) { /* silence, and floods */
        w.due_ns = world.now_ns;
        (void)catch_all(5, gaps_ns[i]);
    }
    CHECK(world.longest_sleep_ns <= WAITER_SLEEP_NS);
    begin_rhythm(); /* a host that stopped for an hour: one spin in vain, then it sleeps */
    (void)catch_all(1, 3600 * S);
    CHECK(spun_per_mille() == 0 && w.found_sleeping > 0);
    CHECK(catch_all(32, 1 * MS) >= 29);
}

/* Time stamps of another clock: reckoned from when it was seen. */
static void foreign_clock(void)
{
    static const uint64_t ahead_ns[] = {100000 * S, 0 - 900 * S};

    for (size_t i = 0; i < 2; i++) {
        begin_rhythm();
        for (int k = 0; k < 200; k++) {
            world.publish_ns = world.begin_ns + (uint64_t)(k + 1) * MS;
            n++;
            (void)wait_for_it();
            const uint64_t theirs_ns = world.publish_ns + ahead_ns[i];
            waiter_found(
                &w, &(struct lane_message){.n = n, .timestamp_ns = theirs_ns, .due_ns = theirs_ns},
                world.now_ns);
            if (k == 32)
                w.found_spinning = 0;
        }
        CHECK(w.found_spinning == 200 - 33 && w.missed_wakeups == 0 && w.gap_ns == 1 * MS);
    }
}

/* ---- spins in vain ---- */

static void displaced_spin(void) /* from within its spin on, for 3 ms */
{
    const uint64_t at_ns = w.due_ns + 1 * MS, displaced = w.displaced;

    world.away_ns = at_ns - 2 * US;
    world.back_ns = at_ns + 3 * MS;
    receive(at_ns, at_ns);
    CHECK(w.displaced == displaced + 1);
    world.away_ns = NEVER;
}

static void nothing_found(void)
{
    receive(w.due_ns + 5 * MS, w.due_ns + 1 * MS);
}

static void in_vain_then_blocks(void (*in_vain)(void))
{
    begin_rhythm();
    for (unsigned blocks_for = 1, again = 0; again < 2; again += blocks_for == WAITER_BLOCKED_MAX,
                  blocks_for *= blocks_for < WAITER_BLOCKED_MAX ? 2 : 1) {
        in_vain();
        CHECK(catch_all(blocks_for, 3 * MS) == 0);
        CHECK(catch_all(2, 3 * MS) >= 1);
        CHECK(catch_all(8, 1 * MS) >= 7);
    }
    CHECK(catch_all(WAITER_CAUGHT, 1 * MS) == WAITER_CAUGHT); /* halves it */
    in_vain();
    CHECK(catch_all(WAITER_BLOCKED_MAX / 2, 3 * MS) == 0 && catch_all(2, 3 * MS) >= 1);
    begin_rhythm();
    (void)catch_all(20ull * WAITER_CAUGHT, 1 * MS); /* to one at least */
    in_vain();
    CHECK(catch_all(1, 3 * MS) == 0 && catch_all(1, 3 * MS) == 1);
}

static void lateness(void)
{
    static const uint64_t late_ns[] = {1 * US, 30 * US, 100 * US, 300 * US, 3 * MS};

    for (size_t i = 0; i < sizeof late_ns / sizeof late_ns[0]; i++) {
        begin_rhythm();
        world.late_ns = late_ns[i];
        (void)catch_all(200, 10 * MS);
        const uint64_t sane_ns = late_ns[i] < WAITER_LATENESS_MIN_NS   ? WAITER_LATENESS_MIN_NS
                                 : late_ns[i] > WAITER_LATENESS_MAX_NS ? WAITER_LATENESS_MAX_NS
                                                                       : late_ns[i];
        CHECK(w.lateness_ns >= sane_ns && w.lateness_ns <= sane_ns + sane_ns / 4);
    }
    begin_rhythm();
    world.late_ns = 30 * US;
    (void)catch_all(200, 1 * MS);
    world.late_ns = 150 * US;
    (void)catch_all(1, 1 * MS);
    CHECK(w.lateness_ns >= 60 * US); /* up fast */
    (void)catch_all(2, 1 * MS);
    CHECK(w.lateness_ns >= 150 * US);
    CHECK(catch_all(50, 1 * MS) == 50);
    world.late_ns = 30 * US;
    (void)catch_all(1, 1 * MS);
    CHECK(w.lateness_ns >= 130 * US); /* down slowly */
    (void)catch_all(100, 1 * MS);
    CHECK(w.lateness_ns <= 40 * US);
    world.late_ns = 40 * MS; /* one exceptional sleep */
    (void)catch_all(1, 10 * MS);
    CHECK(w.lateness_ns <= 80 * US);
    world.late_ns = 30 * US;
    pass_to(w.due_ns + 60 * MS);
    w.due_ns = world.now_ns;
    (void)catch_all(64, 1 * MS);
    CHECK(w.lateness_ns <= 45 * US);
}

/* ---- the other ways ---- */

static void one_cpu(void)
{
    world.cpus = 1;
    start(WAIT_ADAPTIVE, false);
    (void)catch_all(500, 1 * MS);
    CHECK(w.found_spinning == 0 && w.found_sleeping == 500 && world.all_spun_ns == 0);
    start(WAIT_SPIN, false); /* who asks for it gets it */
    CHECK(catch_all(10, 1 * MS) == 10);
    world.cpus = 2;
}

static void spin(void)
{
    start(WAIT_SPIN, false);
    CHECK(catch_all(20, 1 * MS) == 20 && world.naps + world.sleeps == 0 && w.displaced == 0);
    world.away_ns = world.now_ns + 500 * US; /* another runs for 900 us: fair enough */
    world.back_ns = world.away_ns + 900 * US;
    CHECK(catch_all(1, 5 * MS) == 1 && world.naps == 0);
    for (unsigned i = 1; i <= 3; i++) { /* for 3 ms: it gets 50 us more, once */
        world.late_ns = i * MS;
        world.away_ns = world.now_ns + 500 * US;
        world.back_ns = world.away_ns + 3 * MS;
        receive(world.now_ns + 20 * MS, world.now_ns);
        CHECK(w.displaced == i && world.naps == i && world.longest_nap_ns == WAITER_NAP_NS);
    }
    CHECK(world.sleeps == 0 && w.found_sleeping == 0 && w.found_spinning == n);
}

static void block(void)
{
    start(WAIT_BLOCK, false);
    CHECK(catch_all(200, 1 * MS) == 0 && w.found_sleeping == 200 && w.displaced == 0);
    CHECK(world.all_spun_ns <= 200 * (WAITER_LOOK_NS + 129 * LOOK_NS));
    w.due_ns = world.now_ns;
    CHECK(catch_all(50, 3 * US) == 50); /* it looks for a little */
    start(WAIT_ADAPTIVE, false);        /* nobody sends: a look at the host each 100 ms */
    receive(world.now_ns + 10 * S, 0);
    CHECK(w.futex ? world.sleeps <= 101 && world.longest_sleep_ns == WAITER_SLEEP_NS
                  : world.naps >= 9000 && world.longest_nap_ns == WAITER_LONGEST_NAP_NS);
    CHECK(spun_per_mille() == 0);
}

/* For room, or a claim: looks, then naps, twice as long each; and it teaches nothing. */
static void nothing_to_sleep_on(void)
{
    begin_rhythm();
    const struct waiter before = w;
    const unsigned naps = world.naps, sleeps = world.sleeps;
    const uint64_t begin_ns = world.now_ns;
    n++;
    world.publish_ns = begin_ns; /* it was there before that wait */
    waiter_begin(&w);
    while (world.naps == naps) {
        (void)waiter_pause(&w, 0);
        pass_to(world.now_ns + LOOK_NS);
    }
    CHECK(world.now_ns - begin_ns <=
          WAITER_LOOK_NS + 131 * LOOK_NS + WAITER_NAP_NS + world.late_ns);
    for (int i = 0; i < 100; i++)
        CHECK(waiter_pause(&w, 0));
    CHECK(world.longest_nap_ns == WAITER_LONGEST_NAP_NS && world.sleeps == sleeps);
    waiter_found(&w, &(struct lane_message){.n = n, .timestamp_ns = begin_ns, .due_ns = begin_ns},
                 world.now_ns);
    CHECK(w.found_spinning == before.found_spinning && w.found_sleeping == before.found_sleeping);
    CHECK(w.lateness_ns == before.lateness_ns && w.blocked == before.blocked);
    CHECK(w.missed_wakeups == 0 && w.displaced == before.displaced);
}

static void counters(void)
{
    start(WAIT_ADAPTIVE, false);
    receive(world.now_ns, 0); /* at once */
    CHECK(w.found_spinning + w.found_sleeping == 0);
    receive(world.now_ns + 3 * US, world.now_ns);
    CHECK(w.found_spinning == 1 && w.found_sleeping == 0);
    receive(world.now_ns + 300 * MS, world.now_ns);
    CHECK(w.found_spinning == 1 && w.found_sleeping == 1 && w.missed_wakeups == 0);

    /* Its CPU was away when a sleep ended: late, but no wake-up was missed. */
    begin_rhythm();
    for (unsigned i = 1; i <= 5; i++) {
        world.away_ns = w.due_ns + 1 * MS - 100 * US;
        world.back_ns = world.away_ns + 30 * MS;
        (void)catch_all(1, 1 * MS);
        w.due_ns = w.published_ns = world.now_ns;
        (void)catch_all(64, 1 * MS);
    }
    CHECK(w.missed_wakeups == 0);
    start(WAIT_BLOCK, false);
    world.wake_is_lost = true;
    for (unsigned i = 1; i <= 5; i++) {
        receive(world.now_ns + 30 * MS, world.now_ns);
        CHECK(w.missed_wakeups == (w.futex ? i : 0)); /* who naps is not woken */
    }
}

static void barrier(void)
{
#if WAITER_HAS_FUTEX
    start(WAIT_BLOCK, true);
    atomic_store(&shared.wish, 1000); /* also where it has been wished for already */
    (void)catch_all(20, 1 * MS);
    CHECK(world.barriers >= 20 && world.naps == 0 && w.trouble == NULL);
    CHECK(atomic_load(&shared.wish) == 1000); /* it only grows */
    world.no_barrier = true;
    const unsigned sleeps = world.sleeps, barriers = world.barriers;
    (void)catch_all(1, 20 * MS);
    CHECK(w.trouble != NULL && world.naps > 0 && world.barriers == barriers + 1);
    w.trouble = NULL;
    (void)catch_all(20, 20 * MS);
    CHECK(w.trouble == NULL && world.sleeps == sleeps && world.barriers == barriers + 1);
    CHECK(world.longest_nap_ns <= WAITER_LONGEST_NAP_NS);
    start(WAIT_BLOCK, false);
    (void)catch_all(20, 1 * MS);
    CHECK(world.barriers == 0 && atomic_load(&shared.wish) == 20);
#endif
}

int main(void)
{
    world.cpus = 2;
    unit_begin();
    periodic();
    jittered();
    late_host();
    missing_message();
    two_rhythms_in_turn();
    nonsense();
    foreign_clock();
    in_vain_then_blocks(displaced_spin);
    in_vain_then_blocks(nothing_found);
    lateness();
    one_cpu();
    spin();
    block();
    nothing_to_sleep_on();
    counters();
    barrier();
    return unit_end();
}
