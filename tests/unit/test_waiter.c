/*
 * src/waiter.c with a clock that is made up: here a poll takes 50 ns, a sleeper wakes late_ns late,
 * and a message comes when the test says so. Times in it are the model's; nothing here is measured.
 *
 * Built twice, the second time with SHM_NO_FUTEX.
 */
#define _GNU_SOURCE      1
#define shm_clock_now_ns the_real_clock
#include "shm_clock.h"
#undef shm_clock_now_ns
#define shm_clock_now_ns() (world.now_ns)

#include <limits.h>
#include <sched.h>
#include <string.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#include "shm_waiter.h"
#include "unit.h"

enum { ONE_NS = 50, US = 1000, MS = 1000 * US, LATE_NS = 55 * US };
#define S     (1000ull * MS)
#define NEVER UINT64_MAX

static struct {
    uint64_t now_ns, late_ns;
    bool heavy_tail;     /* late_ns does not count: see late() */
    uint64_t publish_ns; /* when message n comes, and what it says */
    struct shm_message message;
    uint64_t away_ns, back_ns; /* meanwhile another has our CPU, or we are stopped */
    bool wake_is_lost;         /* what the kernel does badly */
    bool published;
    unsigned laps_in_turn; /* laps, and nothing there, in turns */
    unsigned laps;         /* messages still to be overwritten before they are read */
    bool dropped, pending, damaged, full;
    enum shm_result host; /* from end_ns on */
    uint64_t end_ns;
    bool last_words; /* the last message comes with that end */
    unsigned idles, idles_left;
    unsigned naps, sleeps;
    uint64_t longest_nap_ns, longest_sleep_ns;
    uint64_t polls;               /* in the wait at hand */
    uint64_t all_polls, begin_ns; /* since start() */
    cpu_set_t cpus;               /* what this thread may use */
    int cpu;
    unsigned moves;
    long slack;
} world;

static struct shm_status its_status;
static struct shm_segment its_segment = {.status = &its_status};
static struct shm_lane its_lane = {.segment = &its_segment};
static struct shm_waiter w;

static uint64_t any(void) /* xorshift64, fixed: the same run every time */
{
    static uint64_t state = 0x9E3779B97F4A7C15u;

    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state >> 11;
}

/* How much later a sleeper wakes. The heavy tail: 60 us at the median, 88 at p90, 229 at p99, 1,500
 * at p99.9, as measured on a virtual machine. */
static uint64_t late(void)
{
    const uint64_t of_1000 = any() % 1000;

    if (!world.heavy_tail)
        return world.late_ns;
    return of_1000 == 0    ? 1500 * US
           : of_1000 < 10  ? 229 * US
           : of_1000 < 100 ? 88 * US + (100 - of_1000) * 1500
                           : 88 * US - (of_1000 - 100) * 60;
}

static void pass_to(uint64_t ns)
{
    if (ns >= world.away_ns) {
        ns = ns > world.back_ns ? ns : world.back_ns;
        world.away_ns = NEVER;
    }
    world.now_ns = ns;
    world.published |= ns >= world.publish_ns;
}

static void longest(uint64_t *so_far_ns, uint64_t ns)
{
    if (ns > *so_far_ns)
        *so_far_ns = ns;
}

/* ---- what waiter.c calls ---- */

enum shm_result shm_lane_next(struct shm_lane *of, struct shm_message *message)
{
    world.polls++;
    pass_to(world.now_ns + ONE_NS);
    if (world.dropped || world.damaged)
        return world.dropped ? SHM_DROPPED : SHM_DAMAGED;
    if (!world.published || (world.laps_in_turn > 0 && world.laps_in_turn-- % 2 == 0))
        return SHM_EMPTY;
    if (world.pending)
        return SHM_AGAIN;
    if (world.laps > 0) {
        world.laps--;
        of->lost++;
        return SHM_LAPPED;
    }
    *message = world.message;
    return SHM_OK;
}

bool shm_lane_dropped(const struct shm_lane *of)
{
    return of == &its_lane && world.dropped;
}

bool shm_lane_writable(struct shm_lane *of)
{
    CHECK(of == &its_lane);
    pass_to(world.now_ns + ONE_NS);
    return !world.full;
}

bool shm_lane_sleep(struct shm_lane *of, uint64_t ns)
{
    CHECK(of == &its_lane && ns <= SHM_SLEEP_NS + (SHM_HAS_FUTEX ? 0 : 100ull * MS));
    ns = ns < SHM_SLEEP_NS ? ns : SHM_SLEEP_NS;
    const uint64_t end_ns = world.now_ns + ns;
    world.sleeps++;
    longest(&world.longest_sleep_ns, ns);
    if (!SHM_HAS_FUTEX) {
        pass_to(end_ns + late());
        return true;
    }
    if (world.published)
        return false;
    if (!world.wake_is_lost && world.publish_ns <= end_ns) {
        pass_to(world.publish_ns + late());
        return false;
    }
    pass_to(end_ns + late());
    return true;
}

enum shm_result shm_segment_host(struct shm_segment *of, uint64_t now_ns)
{
    CHECK(of == &its_segment && now_ns == world.now_ns);
    of->still.checked_ns = now_ns;
    if (now_ns < world.end_ns)
        return SHM_OK;
    world.published |= world.last_words;
    return world.host;
}

static bool idle(void *context, enum shm_result host)
{
    CHECK(context == &world && host == (world.now_ns < world.end_ns ? SHM_OK : world.host));
    world.idles++;
    return world.idles_left-- > 0;
}

static int made_up_nanosleep(const struct timespec *step, struct timespec *left)
{
    CHECK(left == NULL && step->tv_sec == 0 && step->tv_nsec >= 0 && step->tv_nsec <= MS);
    longest(&world.longest_nap_ns, (uint64_t)step->tv_nsec);
    world.naps++;
    pass_to(world.now_ns + (uint64_t)step->tv_nsec + late());
    return 0;
}

static int made_up_setaffinity(pid_t pid, size_t size, const cpu_set_t *cpus)
{
    CHECK(pid == 0 && size == sizeof *cpus);
    world.cpus = *cpus;
    world.moves++;
    for (size_t cpu = 0; !CPU_ISSET((size_t)world.cpu, cpus); cpu++)
        world.cpu = (int)cpu;
    return 0;
}

#define nanosleep                          made_up_nanosleep
#define sched_getcpu()                     (world.cpu)
#define sched_getaffinity(pid, size, cpus) (*(cpus) = world.cpus, (pid) + (int)(size)*0)
#define sched_setaffinity                  made_up_setaffinity
#define prctl(what, ns, ...)               (world.slack = (what) == PR_SET_TIMERSLACK ? (long)(ns) : -1)
#include "../../src/waiter.c"

/* ---- the reader ---- */

static void use_cpus(unsigned count, int cpu)
{
    CPU_ZERO(&world.cpus);
    for (unsigned i = 0; i < count; i++)
        CPU_SET(i, &world.cpus);
    world.cpu = cpu;
    atomic_store(&its_status.cpu, 0);
}

static void start(enum shm_wait_mode mode)
{
    memset(&world, 0, sizeof world);
    use_cpus(2, 0);
    world.now_ns = world.begin_ns = 1000 * S;
    world.late_ns = LATE_NS;
    world.away_ns = world.publish_ns = world.end_ns = NEVER;
    world.idles_left = UINT_MAX;
    its_segment.idle = idle;
    its_segment.context = &world;
    its_lane.lost = its_lane.skipped = 0;
    shm_waiter_init(&w, mode, &its_lane);
    w.due_ns = world.now_ns; /* where in_time goes on from */
}

static void expect(uint64_t at_ns, uint64_t due_ns)
{
    world.publish_ns = at_ns;
    world.published = false;
    world.message =
        (struct shm_message){.n = world.message.n + 1, .timestamp_ns = at_ns, .due_ns = due_ns};
    pass_to(world.now_ns);
}

/* The next message comes at at_ns, and was due at due_ns.
 * @return how old it was when it was seen, beyond a time that nobody can help */
static uint64_t receive(uint64_t at_ns, uint64_t due_ns)
{
    const uint64_t begin_ns = world.now_ns, back_ns = world.back_ns;
    const uint64_t most_ns = 3 * w.lateness_ns + w.spread_ns;
    struct shm_message message = {0};

    expect(at_ns, due_ns);
    world.polls = 0;
    CHECK(shm_receive(&w, 3600 * S, &message) == SHM_OK);
    CHECK(message.n == world.message.n && message.seen_ns == world.now_ns);
    world.all_polls += world.polls;
    /* Whatever was learned: it spins for three latenesses and the spread at most, polls for 5 us,
     * and makes the polls between two readings of the clock. */
    if (w.mode != SHM_WAIT_SPIN)
        CHECK(world.polls * ONE_NS <= most_ns + POLL_NS + 3 * POLLS * ONE_NS ||
              at_ns - begin_ns > 100 * MS);
    CHECK(w.gap_ns <= GAP_MOST_NS && w.blocked <= PENALTY_MOST && w.spread_ns <= LATENESS_MAX_NS);
    CHECK(w.lateness_ns >= 20 * US && w.lateness_ns <= 400 * US);
    uint64_t there_ns = at_ns > begin_ns ? at_ns : begin_ns;
    if (back_ns > there_ns && back_ns <= world.now_ns)
        there_ns = back_ns;
    const uint64_t age_ns = world.now_ns - there_ns;
    /* It never sleeps past one: an early one wakes it, or it naps for 1 ms at most. */
    CHECK(world.wake_is_lost || world.heavy_tail ||
          age_ns <= world.late_ns + 3 * ONE_NS + (SHM_HAS_FUTEX ? 0 : NAP_MOST_NS));
    return age_ns;
}

/* So many messages in time, on a schedule that is shift_ns late.
 * @return how many of them were seen as soon as by spinning */
static uint64_t in_time(uint64_t count, uint64_t gap_ns, uint64_t shift_ns)
{
    uint64_t soon = 0;

    for (uint64_t due_ns = w.due_ns + gap_ns; count > 0; count--, due_ns += gap_ns)
        soon += receive(due_ns + shift_ns, due_ns) <= US;
    return soon;
}

static void count_from_here(void)
{
    world.all_polls = 0;
    world.begin_ns = world.now_ns;
}

/* As if the last message had just been due, and published. */
static void in_rhythm_from_now(void)
{
    w.due_ns = world.now_ns;
    w.expected_ns = w.due_ns + w.gap_ns;
}

static void begin_rhythm(void)
{
    start(SHM_WAIT_ADAPTIVE);
    receive(world.now_ns + 1 * MS, world.now_ns + 1 * MS);
    CHECK(in_time(32, 1 * MS, 0) >= 30);
    count_from_here();
}

static uint64_t spun_per_mille(void)
{
    return 1000 * world.all_polls * ONE_NS / (world.now_ns - world.begin_ns);
}

/* ---- the rhythm ---- */

static void periodic(void)
{
    begin_rhythm();
    CHECK(in_time(2000, 1 * MS, 0) >= 1999 && spun_per_mille() <= 12);
    CHECK(w.found_spinning >= 1900 && w.found_spinning + w.found_sleeping <= world.message.n);
    CHECK(w.displaced == 0 && w.missed_wakeups == 0);

    /* 100 Hz, 1 kHz, 10 kHz and more: learned within 32 messages, whatever comes after what. */
    static const uint64_t gaps_ns[] = {10 * MS, 100 * US, 50 * MS, 1 * MS, 100 * US, 10 * MS};
    for (size_t i = 0; i < sizeof gaps_ns / sizeof gaps_ns[0]; i++) {
        (void)in_time(32, gaps_ns[i], 0);
        const unsigned rests = world.naps + world.sleeps;
        CHECK(in_time(300, gaps_ns[i], 0) == 300 && w.gap_ns == gaps_ns[i]);
        /* A gap under two latenesses is spun through. */
        CHECK((world.naps + world.sleeps == rests) == (gaps_ns[i] < 2 * w.lateness_ns));
    }
    start(SHM_WAIT_ADAPTIVE); /* nothing is known yet: it blocks */
    CHECK(receive(world.now_ns + 3 * S, 0) > 0 && w.found_sleeping == 1);
    CHECK(world.polls <= POLL_NS / ONE_NS + 2 * POLLS + world.sleeps);
}

static void jittered(void)
{
    begin_rhythm();
    uint64_t due_ns = w.due_ns;
    for (int i = 0; i < 1000; i++) { /* by a little: it is all the same */
        due_ns += 1 * MS;
        CHECK(receive(due_ns + any() % (5 * US), due_ns) <= 6 * US);
    }
    uint64_t soon = 0;
    for (int i = 0; i < 1000; i++) { /* by more than a lateness: most are between the last two */
        due_ns += 1 * MS;
        soon += receive(due_ns + any() % (200 * US), due_ns) <= US;
    }
    CHECK(soon >= 500 && w.lateness_ns < 70 * US);
    for (int i = 0; i < 3000; i++) { /* by more than it can spin for */
        due_ns += 1 * MS;
        receive(due_ns + any() % (800 * US), due_ns);
    }
    count_from_here();
    for (int i = 0; i < 3000; i++) { /* nothing to know */
        due_ns += 10 * US + any() % (2 * MS);
        receive(due_ns, due_ns);
    }
    CHECK(spun_per_mille() <= 50);
}

/* A host that stood still, and sends what it owes at once; then it is in time again. */
static void host_stands_still(void)
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
        (void)in_time(2, 1 * MS, 0); /* the first one comes before it is expected */
        CHECK(in_time(130, 1 * MS, 0) >= 129);
    }
}

/* One message in ten comes late: only that one is missed. The next one is expected in time. */
static void one_late_host_in_ten(void)
{
    begin_rhythm();
    uint64_t soon = 0;
    for (int i = 0; i < 200; i++) {
        receive(w.due_ns + 1 * MS + 300 * US, w.due_ns + 1 * MS);
        CHECK(w.blocked == 0);
        soon += in_time(9, 1 * MS, 0);
    }
    CHECK(soon >= 200 * 9 - 1 && w.displaced == 0);
}

static void missing_message(void)
{
    begin_rhythm();
    for (int i = 0; i < 20; i++) { /* the host leaves one out */
        receive(w.due_ns + 2 * MS, w.due_ns + 2 * MS);
        (void)in_time(1, 1 * MS, 0);
        CHECK(in_time(128, 1 * MS, 0) == 128);
    }
    for (int i = 0; i < 20; i++) { /* one is lost: the next one comes early */
        pass_to(w.due_ns + 2 * MS + 100 * US);
        receive(w.due_ns + 2 * MS, w.due_ns + 2 * MS);
        (void)in_time(1, 1 * MS, 0);
        CHECK(in_time(64, 1 * MS, 0) == 64);
    }
}

/* Each gap is the other one's: always wrong, so in the end it only blocks. */
static void two_rhythms_in_turn(void)
{
    begin_rhythm();
    for (int i = 0; i < 4000; i++) {
        const uint64_t at_ns = w.due_ns + (i % 2 ? 1 * MS : 3 * MS);
        receive(at_ns, at_ns);
        if (i == 2000)
            count_from_here();
    }
    CHECK(w.penalty == PENALTY_MOST && spun_per_mille() <= 8);
}

/* Values that no clock and no schedule has; receive() has the bounds. */
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
            CHECK(w.gap_ns == ((int64_t)jumps[k] < 0    ? 0
                               : jumps[k] > GAP_MOST_NS ? GAP_MOST_NS
                                                        : jumps[k]));
        }
    static const uint64_t gaps_ns[] = {0, 600 * S, 1, 150 * MS, 0, 99 * MS, 100 * US};
    for (size_t i = 0; i < sizeof gaps_ns / sizeof gaps_ns[0]; i++) { /* silence, and floods */
        w.due_ns = world.now_ns;
        (void)in_time(5, gaps_ns[i], 0);
    }
    CHECK(world.longest_sleep_ns <= SHM_SLEEP_NS);
    begin_rhythm(); /* a host that stopped for an hour: one spin in vain, then it sleeps */
    (void)in_time(1, 3600 * S, 0);
    CHECK(spun_per_mille() == 0 && w.found_sleeping > 0);
    CHECK(in_time(32, 1 * MS, 0) >= 29);
}

/* Time stamps of another clock: reckoned from when it was seen. */
static void foreign_clock(void)
{
    static const uint64_t ahead_ns[] = {100000 * S, 0 - 900 * S};

    for (size_t i = 0; i < 2; i++) {
        begin_rhythm();
        uint64_t soon = 0;
        for (int k = 0; k < 200; k++) {
            struct shm_message message;
            expect(world.begin_ns + (uint64_t)(k + 1) * MS, 0);
            world.message.timestamp_ns = world.message.due_ns = world.publish_ns + ahead_ns[i];
            CHECK(shm_receive(&w, 1 * S, &message) == SHM_OK);
            soon += k > 32 && message.seen_ns - world.publish_ns <= US;
        }
        CHECK(soon >= (SHM_HAS_FUTEX ? 160 : 80)); /* naps let it be seen late, by what counts */
        CHECK(w.missed_wakeups == 0 && w.gap_ns == 1 * MS);
    }
}

/* ---- spins in vain ---- */

static uint64_t shift_ns; /* the host is so late, from now on */

static void miss(void)
{
    shift_ns += 2 * MS;
    receive(w.due_ns + 5 * MS + shift_ns, w.due_ns + 5 * MS);
}

/* The first miss costs nothing; in a row each, they cost 1, 3, 7 ... 255 messages; one catch, and
 * the next costs nothing again. */
static void misses(void)
{
    begin_rhythm();
    (void)in_time(8, 5 * MS, 0);
    shift_ns = 0;
    for (unsigned again = 0, costs = 0; again < 3; costs = 2 * costs + 1) {
        costs = costs > PENALTY_MOST ? PENALTY_MOST : costs;
        again += costs == PENALTY_MOST;
        miss();
        const uint64_t spinning = w.found_spinning;
        CHECK(w.blocked == costs);
        CHECK(in_time(costs, 5 * MS, shift_ns) == 0 || !SHM_HAS_FUTEX);
        CHECK(w.found_spinning == spinning && w.blocked == 0 && w.displaced == 0);
    }
    while (w.penalty != 0) /* a sleep that ends a little too late is no catch */
        CHECK(in_time(1, 5 * MS, shift_ns) == 1);
    receive(w.due_ns + 7 * MS + shift_ns, w.due_ns + 5 * MS); /* late once: costs nothing again */
    CHECK(w.blocked == 0 && w.penalty == 1 && in_time(8, 5 * MS, shift_ns) >= 7);

    /* It blocks for the rest of the wait, also if that is over before the message comes. */
    struct shm_message message;
    expect(NEVER, 0);
    CHECK(shm_receive(&w, 20 * MS, &message) == SHM_TIMEOUT && w.blocked == 1);
    world.polls = 0;
    CHECK(shm_receive(&w, 20 * MS, &message) == SHM_TIMEOUT && w.blocked == 1);
    CHECK(world.polls <= 64 + 2 * POLL_NS / ONE_NS + world.sleeps);
}

/* Its CPU is away from within its spin on, and comes back back_ns after the message. */
static void displace(uint64_t back_ns)
{
    in_rhythm_from_now();
    const uint64_t at_ns = w.due_ns + w.gap_ns;
    w.lateness_ns = LATE_NS + 10 * US;
    world.away_ns = at_ns - 2 * US;
    world.back_ns = at_ns + back_ns;
    receive(at_ns, at_ns);
}

/* That costs as much as a miss, and is counted apart. */
static void displaced(void)
{
    begin_rhythm();
    (void)in_time(8, 5 * MS, 0);
    for (unsigned i = 1, costs = 0; i <= 5; i++, costs = 2 * costs + 1) {
        displace(900 * US);
        CHECK(w.displaced == i && w.blocked == costs);
        const uint64_t spinning = w.found_spinning;
        (void)in_time(costs, 5 * MS, 0);
        CHECK(w.found_spinning == spinning && w.blocked == 0 && w.displaced == i);
    }
    CHECK(in_time(8, 5 * MS, 0) >= 7 && w.penalty == 0 && w.displaced == 5 && w.away == 0);
}

/* Where its CPU is away for over 1 ms more often than for one message in 32, in a spin or after a
 * doze, it blocks; and tries again. */
static void crowded(void)
{
    for (int dozes = 0; dozes < 2; dozes++) {
        begin_rhythm();
        (void)in_time(8, 5 * MS, 0);
        for (unsigned i = 1; i <= 3; i++) {
            if (dozes) {
                world.late_ns = 3 * MS;
                (void)in_time(1, 5 * MS, 0);
                world.late_ns = 5 * US;
                in_rhythm_from_now();
            } else {
                displace(3 * MS);
            }
            CHECK(w.displaced == i && w.away > 0);
            (void)in_time(i < 3 ? w.blocked + 4 : 0, 5 * MS, 0);
        }
        CHECK(w.blocked == PENALTY_MOST - 1);
        const uint64_t spinning = w.found_spinning;
        (void)in_time(w.blocked, 5 * MS, 0);
        CHECK(w.found_spinning == spinning && w.blocked == 0);
        CHECK(in_time(200, 5 * MS, 0) >= 199 && w.away == 0 && w.penalty == 0);
    }
}

static void lateness(void)
{
    static const uint64_t late_ns[] = {1 * US, 30 * US, 100 * US, 300 * US, 3 * MS};

    for (size_t i = 0; i < sizeof late_ns / sizeof late_ns[0]; i++) {
        begin_rhythm();
        world.late_ns = late_ns[i];
        for (int k = 0; k < 1000; k++) {
            w.away = w.blocked = 0; /* else it would not doze that often */
            (void)in_time(1, 10 * MS, 0);
        }
        const uint64_t sane_ns = late_ns[i] < 20 * US    ? 20 * US
                                 : late_ns[i] > 400 * US ? 400 * US
                                                         : late_ns[i];
        /* The last of several naps begins at any time, so it may be less late. */
        CHECK(w.lateness_ns >= sane_ns - sane_ns / 128 || !SHM_HAS_FUTEX);
        CHECK(w.lateness_ns <= sane_ns + sane_ns / 8);
    }
    /* An eighth up, one 256th down, however exceptional the sleep was. */
    begin_rhythm();
    for (unsigned i = 0; i < 20; i++) {
        uint64_t before_ns = w.lateness_ns;
        world.late_ns = i % 2 ? 40 * MS : 400 * US;
        (void)in_time(1, 10 * MS, 0);
        CHECK(w.lateness_ns == before_ns + before_ns / 8);
        world.late_ns = 5 * US;
        w.away = w.blocked = 0;
        in_rhythm_from_now();
        for (unsigned k = 0; k < 32; k++) {
            before_ns = w.lateness_ns;
            (void)in_time(1, 10 * MS, 0);
            CHECK(w.lateness_ns == before_ns - before_ns / 256);
        }
    }
    /* A heavy tail: it settles where 3 sleeps in 100 are later. */
    start(SHM_WAIT_ADAPTIVE);
    world.heavy_tail = true;
    (void)in_time(1000, 10 * MS, 0);
    uint64_t sum_ns = 0, later = 0;
    for (unsigned i = 0; i < 20000; i++) {
        (void)in_time(1, 10 * MS, 0);
        sum_ns += w.lateness_ns;
    }
    for (unsigned i = 0; i < 20000; i++)
        later += late() > sum_ns / 20000;
    printf("heavy tail: lateness %u us on average, later are %.1f %%\n",
           (unsigned)(sum_ns / 20000 / US), (double)later / 200);
    CHECK(later >= 400 && later <= 800);
}

/* ---- the other ways ---- */

/* It may use one CPU only. Where that is its host's, too, or could be, it never spins. */
static void one_cpu(void)
{
    start(SHM_WAIT_ADAPTIVE);
    for (unsigned host = 0; host <= 2; host++) { /* somewhere, on CPU 0, on CPU 1 */
        use_cpus(1, 0);
        atomic_store(&its_status.cpu, host);
        shm_waiter_init(&w, SHM_WAIT_ADAPTIVE, &its_lane);
        shm_waiter_may_move(&w);
        w.due_ns = world.now_ns;
        count_from_here();
        (void)in_time(500, 1 * MS, 0);
        CHECK(w.one_cpu == (host < 2) && w.only_cpu == 0 && world.moves == 0);
        if (w.one_cpu)
            CHECK(w.found_spinning == 0 && w.found_sleeping == 500 && spun_per_mille() <= 15);
        else
            CHECK(w.found_spinning >= 450 || !SHM_HAS_FUTEX);
    }
    atomic_store(&its_status.cpu, 1);
    shm_waiter_init(&w, SHM_WAIT_SPIN, &its_lane); /* what is asked for is done */
    w.due_ns = world.now_ns;
    CHECK(in_time(10, 1 * MS, 0) == 10 && w.found_spinning == 10);
}

static void spin(void)
{
    start(SHM_WAIT_SPIN);
    CHECK(in_time(20, 1 * MS, 0) == 20 && world.naps + world.sleeps == 0 && w.displaced == 0);
    world.away_ns = world.now_ns + 500 * US; /* another runs for 900 us: fair enough */
    world.back_ns = world.away_ns + 900 * US;
    CHECK(in_time(1, 5 * MS, 0) == 1 && world.naps == 0);
    for (unsigned i = 1; i <= 3; i++) { /* for 3 ms: it gets 50 us more, once */
        world.late_ns = i * MS;
        world.away_ns = world.now_ns + 500 * US;
        world.back_ns = world.away_ns + 3 * MS;
        receive(world.now_ns + 20 * MS, world.now_ns);
        CHECK(w.displaced == i && world.naps == i && world.longest_nap_ns == NAP_NS);
    }
    /* The message was there when it came back: it is seen first, then the nap. */
    world.away_ns = world.now_ns + 500 * US;
    world.back_ns = world.away_ns + 3 * MS;
    CHECK(receive(world.away_ns + MS, world.now_ns) <= US && w.displaced == 4 && world.naps == 3);
    receive(world.now_ns + 20 * MS, world.now_ns);
    CHECK(world.naps == 4 && w.displaced == 4);
    CHECK(world.sleeps == 0 && w.found_sleeping == 0 && w.found_spinning == world.message.n);
}

static void block(void)
{
    start(SHM_WAIT_BLOCK);
    CHECK(in_time(200, 1 * MS, 0) == 0 && w.found_sleeping == 200 && w.displaced == 0);
    CHECK(world.all_polls <= 200 * (POLL_NS / ONE_NS + 129) + world.sleeps);
    w.due_ns = world.now_ns;
    CHECK(in_time(50, 3 * US, 0) == 50); /* it polls for a little */
    start(SHM_WAIT_ADAPTIVE);            /* nothing comes: a check of the host each 100 ms */
    receive(world.now_ns + 10 * S, 0);
    CHECK(SHM_HAS_FUTEX ? world.sleeps <= 101 && world.longest_sleep_ns == SHM_SLEEP_NS
                        : world.sleeps >= 9000 && world.longest_sleep_ns == NAP_MOST_NS);
    CHECK(world.idles >= 100 && world.naps == 0 && spun_per_mille() <= 1);
#if !SHM_HAS_FUTEX
    start(SHM_WAIT_BLOCK); /* naps of 50 us, doubled to 1 ms */
    world.late_ns = 0;
    receive(world.now_ns + 100 * US, 0);
    CHECK(world.sleeps == 2);
    receive(world.now_ns + 10 * MS, 0);
    CHECK(world.sleeps >= 2 + 14 && world.sleeps <= 2 + 16);
#endif
}

static void counters(void)
{
    start(SHM_WAIT_ADAPTIVE);
    receive(world.now_ns, 0); /* at once */
    CHECK(w.found_spinning + w.found_sleeping == 0 && world.polls == 1 && world.idles == 0);
    receive(world.now_ns + 3 * US, world.now_ns);
    CHECK(w.found_spinning == 1 && w.found_sleeping == 0);
    receive(world.now_ns + 300 * MS, world.now_ns);
    CHECK(w.found_spinning == 1 && w.found_sleeping == 1 && w.missed_wakeups == 0);

    /* Its CPU was away when a sleep ended: late, but no wake-up was missed. */
    begin_rhythm();
    for (unsigned i = 1; i <= 5; i++) {
        world.away_ns = w.due_ns + 1 * MS - 100 * US;
        world.back_ns = world.away_ns + 30 * MS;
        (void)in_time(1, 1 * MS, 0);
        in_rhythm_from_now();
        (void)in_time(64, 1 * MS, 0);
    }
    CHECK(w.missed_wakeups == 0);
    start(SHM_WAIT_BLOCK);
    world.wake_is_lost = true;
    for (unsigned i = 1; i <= 5; i++) {
        receive(world.now_ns + 30 * MS, world.now_ns);
        CHECK(w.missed_wakeups == (SHM_HAS_FUTEX ? i : 0)); /* what naps is not woken */
    }
}

/* ---- its CPU ---- */

static void keeps_off(void)
{
    start(SHM_WAIT_ADAPTIVE);
    use_cpus(4, 2);
    atomic_store(&its_status.cpu, 2 + 1);
    (void)in_time(40, 1 * MS, 0);
    CHECK(world.moves == 0 && w.off_cpu == -1); /* nobody has asked for it */
    shm_waiter_may_move(&w);
    CHECK(world.moves == 1 && w.off_cpu == 2 && world.cpu != 2 && CPU_COUNT(&world.cpus) == 3);
    (void)in_time(40, 1 * MS, 0);
    CHECK(world.moves == 1);
    atomic_store(&its_status.cpu, 3 + 1); /* the host moves, but not to us */
    (void)in_time(2, 1 * MS, 0);
    CHECK(world.moves == 1 && w.off_cpu == 2);
    world.cpu = 3; /* now we share it: what was taken out before comes back */
    (void)in_time(2, 1 * MS, 0);
    CHECK(world.moves == 2 && w.off_cpu == 3 && world.cpu != 3);
    CHECK(CPU_ISSET(2, &world.cpus) && !CPU_ISSET(3, &world.cpus) && CPU_COUNT(&world.cpus) == 3);

    w.displaced_off = (w.found_spinning + w.found_sleeping) / 64 + 1; /* crowded */
    (void)in_time(2, 1 * MS, 0);
    CHECK(world.moves == 3 && w.off_cpu == -1 && CPU_COUNT(&world.cpus) == 4);
    world.cpu = 3;
    (void)in_time(2, 1 * MS, 0);
    CHECK(world.moves == 3);
    w.displaced_off = 1; /* not any more */
    (void)in_time(2, 1 * MS, 0);
    CHECK(world.moves == 4 && w.off_cpu == 3 && CPU_COUNT(&world.cpus) == 3);

    use_cpus(2, 1); /* two CPUs: one of them is its own at any time */
    shm_waiter_init(&w, SHM_WAIT_SPIN, &its_lane);
    for (int i = 0; i < 4; i++) {
        atomic_store(&its_status.cpu, (unsigned)world.cpu + 1);
        shm_waiter_may_move(&w);
        CHECK(world.cpu == i % 2 && w.off_cpu == !world.cpu && CPU_COUNT(&world.cpus) == 1);
        CHECK(w.only_cpu == -1);
    }
    world.moves = 0;
    use_cpus(1, 0); /* pinned: it stays */
    atomic_store(&its_status.cpu, 1);
    shm_waiter_init(&w, SHM_WAIT_ADAPTIVE, &its_lane);
    shm_waiter_may_move(&w);
    use_cpus(2, 0); /* a blocking reader does not care */
    atomic_store(&its_status.cpu, 1);
    shm_waiter_init(&w, SHM_WAIT_BLOCK, &its_lane);
    shm_waiter_may_move(&w);
    shm_waiter_init(&w, SHM_WAIT_ADAPTIVE, &its_lane); /* nor is what is no CPU one */
    const uint32_t none[] = {0, 2, CPU_SETSIZE + 1, 1u << 31, UINT32_MAX};
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        atomic_store(&its_status.cpu, none[i]);
        shm_waiter_may_move(&w);
    }
    CHECK(world.moves == 0 && w.off_cpu == -1);
    shm_timer_slack();
    CHECK(world.slack == 1);
}

/* ---- ends ---- */

static enum shm_result ends_with(uint64_t timeout_ns)
{
    struct shm_message message;

    return shm_receive(&w, timeout_ns, &message);
}

static void time_outs(void)
{
    static const enum shm_wait_mode modes[] = {SHM_WAIT_ADAPTIVE, SHM_WAIT_SPIN, SHM_WAIT_BLOCK};
    static const uint64_t timeouts_ns[] = {0, 1 * US, 70 * US, 1 * MS, 30 * MS, 300 * MS};

    for (size_t m = 0; m < 3; m++)
        for (size_t i = 0; i < sizeof timeouts_ns / sizeof timeouts_ns[0]; i++) {
            start(modes[m]);
            (void)in_time(20, 2 * MS, 0);
            const uint64_t begin_ns = world.now_ns;
            expect(NEVER, 0);
            CHECK(ends_with(timeouts_ns[i]) == SHM_TIMEOUT);
            CHECK(world.now_ns - begin_ns >= timeouts_ns[i]);
            CHECK(world.now_ns - begin_ns <= timeouts_ns[i] + 10 * US + 3 * LATE_NS);
            CHECK(ends_with(timeouts_ns[i]) == SHM_TIMEOUT); /* each has a time of its own */
            CHECK(world.now_ns - begin_ns >= 2 * timeouts_ns[i]);
            world.published = world.pending = true; /* head is there, its slot is not */
            CHECK(ends_with(timeouts_ns[i]) ==
                  (timeouts_ns[i] < 100 * MS ? SHM_TIMEOUT : SHM_DAMAGED));
            world.pending = false;
            CHECK(ends_with(0) == SHM_OK);
        }
    /* It was stopped after so many polls, for longer than its time-out: that time is not its
     * own. Then a message is there, or all were overwritten, or it waits on. */
    for (uint64_t polls = 0; polls < 200; polls++)
        for (unsigned laps = 0; laps < 3; laps++) {
            start(modes[polls % 3]);
            (void)in_time(20, 1 * MS, 0);
            world.away_ns = world.now_ns + polls * ONE_NS;
            world.back_ns = world.now_ns + 3 * S;
            expect(laps < 2 ? world.now_ns + 2 * S : world.back_ns + 20 * MS, world.now_ns);
            world.laps = laps;
            CHECK(ends_with(1 * S) == SHM_OK && world.laps == 0);
        }
}

static void laps(void)
{
    start(SHM_WAIT_ADAPTIVE);
    const uint64_t begin_ns = world.now_ns;
    expect(begin_ns, begin_ns);
    world.laps = UINT_MAX; /* as soon as it polls */
    CHECK(ends_with(50 * MS) == SHM_LAPPED && its_lane.lost > 100);
    CHECK(world.now_ns - begin_ns > 50 * MS && world.now_ns - begin_ns < 51 * MS);

    for (int whole = 0; whole < 2; whole++) { /* while it is used, for 20 ms each */
        start(SHM_WAIT_ADAPTIVE);
        unsigned got = 0;
        for (; got < 100; got++) {
            expect(world.now_ns, world.now_ns);
            const enum shm_result result = ends_with(500 * MS);
            if (result != SHM_OK) {
                CHECK(result == SHM_LAPPED);
                break;
            }
            pass_to(world.now_ns + 20 * MS);
            its_lane.lost +=
                !(whole && got % 20 == 19); /* one in twenty can be read: that will do */
        }
        CHECK(whole ? got == 100 : got >= 25 && got <= 27);
    }
    start(SHM_WAIT_ADAPTIVE); /* each wait after a lap has all its time */
    for (int i = 0; i < 10; i++) {
        expect(world.now_ns, world.now_ns);
        CHECK(ends_with(500 * MS) == SHM_OK);
        its_lane.lost++;
        expect(world.now_ns + 450 * MS, world.now_ns);
        CHECK(ends_with(500 * MS) == SHM_OK);
    }
    expect(world.now_ns, world.now_ns); /* there and gone in turns: no wait for ever */
    world.laps = world.laps_in_turn = UINT_MAX;
    const uint64_t turns_ns = world.now_ns;
    CHECK(ends_with(500 * MS) == SHM_LAPPED);
    CHECK(world.now_ns - turns_ns >= 500 * MS && world.now_ns - turns_ns <= 600 * MS);
}

static void other_ends(void)
{
    static const enum shm_result hosts[] = {SHM_ENDED, SHM_DIED, SHM_REFUSED};

    for (size_t i = 0; i < 3; i++)
        for (int last_words = 0; last_words < 2; last_words++) {
            start(SHM_WAIT_ADAPTIVE);
            expect(NEVER, 0);
            world.host = hosts[i];
            world.end_ns = world.now_ns + 300 * MS;
            world.last_words = last_words;
            if (last_words) /* published before the end */
                CHECK(ends_with(5 * S) == SHM_OK);
            expect(NEVER, 0);
            world.last_words = false;
            CHECK(ends_with(5 * S) == hosts[i]);
            CHECK(world.now_ns - world.end_ns <= 101 * MS);
        }
    start(SHM_WAIT_ADAPTIVE);
    world.host = SHM_STALLED; /* is no end */
    world.end_ns = 0;
    receive(world.now_ns + 3 * S, 0);
    expect(NEVER, 0);
    CHECK(ends_with(1 * S) == SHM_TIMEOUT);
    world.idles_left = 5;
    CHECK(ends_with(3600 * S) == SHM_STOPPED);
    its_segment.idle = NULL; /* nobody asks for it */
    CHECK(ends_with(1 * S) == SHM_TIMEOUT);
    world.dropped = true;
    CHECK(ends_with(1 * S) == SHM_DROPPED);
    world.dropped = false;
    world.damaged = true;
    CHECK(ends_with(1 * S) == SHM_DAMAGED);
    world.host = SHM_REFUSED; /* the segment was cut: it is full of zeros */
    CHECK(ends_with(1 * S) == SHM_REFUSED);
}

/* ---- for room, or a role ---- */

static bool ready(void *at_ns)
{
    pass_to(world.now_ns + ONE_NS);
    world.polls++;
    return world.now_ns >= *(uint64_t *)at_ns;
}

static void waits_for_something_else(void)
{
    begin_rhythm();
    const struct shm_waiter before = w;
    uint64_t at_ns = 0;
    CHECK(shm_wait(&its_lane, ready, &at_ns, 0) == SHM_OK && world.naps == 0);
    at_ns = world.now_ns + 4 * US;
    CHECK(shm_wait(&its_lane, ready, &at_ns, 1 * S) == SHM_OK && world.naps == 0);
    at_ns = world.now_ns + 10 * S; /* polls, then naps */
    world.polls = world.idles = 0;
    world.late_ns = 0;
    CHECK(shm_wait(&its_lane, ready, &at_ns, 20 * S) == SHM_OK);
    CHECK(world.naps >= 10000 && world.naps <= 10010 && world.longest_nap_ns == NAP_MOST_NS);
    CHECK(world.polls <= world.naps + POLL_NS / ONE_NS + 2 && world.idles >= world.naps);
    at_ns = NEVER;
    const uint64_t begin_ns = world.now_ns;
    CHECK(shm_wait(&its_lane, ready, &at_ns, 1 * S) == SHM_TIMEOUT);
    CHECK(world.now_ns - begin_ns >= 1 * S && world.now_ns - begin_ns <= 1 * S + 1 * US);
    world.away_ns = world.now_ns + 100 * MS; /* stopped, and ready only after it went on */
    world.back_ns = world.now_ns + 5 * S;
    at_ns = world.back_ns + 20 * MS;
    CHECK(shm_wait(&its_lane, ready, &at_ns, 1 * S) == SHM_OK);
    at_ns = NEVER;
    world.idles_left = 3;
    CHECK(shm_wait(&its_lane, ready, &at_ns, 1 * S) == SHM_STOPPED);
    world.idles_left = UINT_MAX;
    world.dropped = true;
    CHECK(shm_wait(&its_lane, ready, &at_ns, 1 * S) == SHM_DROPPED);
    world.dropped = false;
    world.host = SHM_ENDED;
    world.end_ns = world.now_ns + 10 * MS;
    CHECK(shm_wait(&its_lane, ready, &at_ns, 1 * S) == SHM_ENDED);
    at_ns = 0; /* it is there all the same */
    CHECK(shm_wait(&its_lane, ready, &at_ns, 1 * S) == SHM_OK);
    CHECK(memcmp(&before, &w, sizeof w) == 0); /* it teaches nothing */
}

static void waits_for_room(void)
{
    enum shm_result end = SHM_OK;
    unsigned sent = 0;

    start(SHM_WAIT_ADAPTIVE);
    its_segment.still.checked_ns = world.now_ns;
    world.host = SHM_DIED;
    world.end_ns = world.now_ns + 500 * MS;
    for (; end == SHM_OK && sent < 1000; sent++) { /* always room, and its host dies */
        pass_to(world.now_ns + 5 * MS);
        end = shm_wait_room(&its_lane, 1 * S);
    }
    CHECK(end == SHM_DIED && sent >= 100 && sent <= 121 && world.idles <= 7);
    start(SHM_WAIT_ADAPTIVE);
    its_segment.still.checked_ns = world.now_ns;
    world.full = true;
    CHECK(shm_wait_room(&its_lane, 1 * S) == SHM_TIMEOUT && world.naps > 0);
    world.full = false;
}

int main(void)
{
    unit_begin();
    periodic();
    jittered();
    host_stands_still();
    one_late_host_in_ten();
    missing_message();
    two_rhythms_in_turn();
    nonsense();
    foreign_clock();
    misses();
    displaced();
    crowded();
    lateness();
    one_cpu();
    spin();
    block();
    counters();
    keeps_off();
    time_outs();
    laps();
    other_ends();
    waits_for_something_else();
    waits_for_room();
    return unit_end();
}
