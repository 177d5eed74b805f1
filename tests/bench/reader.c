/*
 * bench_reader - the C side of the benchmark: takes messages from one transport, records their age
 * in the client's own histogram, and prints one JSON object when the writer says stop.
 *
 *     bench_reader facts
 *     bench_reader shm   WAIT SIZE WARMUP JOB CPU NAME     WAIT: adaptive (shm alone), spin, block
 *     bench_reader zmq   WAIT SIZE WARMUP JOB CPU ADDRESS  JOB: take, read, echo, trace
 *     bench_reader KIND  WAIT SIZE WARMUP JOB CPU IN OUT   KIND: file, socket, queue; descriptors
 *     bench_reader floor spin PERIOD_NS WARMUP MESSAGES CPU WRITERS_CPU
 *
 * A message is SIZE bytes: u64 stamp (the clock before the send; 0: stop), u64 n, anything, u64 n.
 * Whatever the transport, a reader does the same with it: clock, n checked at both ends (read: and
 * one look at every cache line; echo: sent back), clock. trace: prints each message's age, too. CPU
 * -1: not pinned. Started by bench.py and bench_wait.py.
 */
#define _GNU_SOURCE 1
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "client.h" /* of src/cliente: its histogram */
#include "links.h"

#define WATCHDOG_S 60u /* SIGALRM ends a reader that waits longer; the driver is more impatient */
#define LINE       64u
#define TRACED     65536u /* ages that a trace keeps */

static const char *const wait_names[] = {"adaptive", "spin", "block", NULL}; /* shm_wait_mode */

struct reader {
    struct link link;
    bool look, trace;
    uint64_t warmup;
    uint64_t count, bad;    /* messages, with those of the warm-up; wrong n or torn */
    struct histogram seen;  /* publish -> the reader has it */
    struct histogram whole; /* before the send -> the reader has looked at all of it */
    uint64_t begin_ns, end_ns, begin_cpu_ns, end_cpu_ns;
    uint64_t ages[TRACED];
};

static int fail(const char *what)
{
    fprintf(stderr, "bench_reader: %s: %s\n", what, strerror(errno));
    return 1;
}

/* The driver may be killed: nothing may outlive it, nor hang with it. */
static void guard(void)
{
    alarm(WATCHDOG_S);
#ifdef __linux__
    prctl(PR_SET_PDEATHSIG, SIGKILL);
#endif
    shm_timer_slack(); /* as cliente_c */
}

static void pin(long cpu)
{
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    if (cpu >= 0) {
        CPU_SET((unsigned)cpu, &set);
        if (sched_setaffinity(0, sizeof set, &set) != 0)
            exit(fail("sched_setaffinity"));
    }
#else
    (void)cpu;
#endif
}

static uint64_t cpu_ns(void)
{
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- the job ---- */

static bool run(struct reader *r)
{
    struct link *link = &r->link;
    const size_t last = link->size - sizeof(uint64_t);

    while (link->next(link)) {
        const uint64_t stamp = word_at(link->bytes, 0);
        if (stamp == 0) {
            link->done(link);
            return true;
        }
        for (size_t at = 0; r->look && at < link->size; at += LINE)
            (void)*(const volatile unsigned char *)(link->bytes + at);
        const uint64_t n = r->count + 1;
        const bool good = word_at(link->bytes, 8) == n && word_at(link->bytes, last) == n;
        if (link->echo && !link->reply(link))
            return false;
        r->bad += !link->done(link) || !good;
        const uint64_t end_ns = shm_clock_now_ns(), from_ns = link->published_ns;
        const uint64_t age_ns = link->seen_ns > from_ns ? link->seen_ns - from_ns : 0;
        if (r->trace && r->count < TRACED)
            r->ages[r->count] = age_ns;
        if (++r->count > r->warmup) {
            histogram_record(&r->seen, age_ns);
            histogram_record(&r->whole, end_ns > stamp ? end_ns - stamp : 0);
            r->end_ns = end_ns;
        } else if (r->count == r->warmup) {
            r->begin_ns = end_ns;
            r->begin_cpu_ns = cpu_ns();
        }
    }
    return false;
}

static void print_latency(const char *name, const struct histogram *h)
{
    printf("\"%s\": {\"count\": %" PRIu64 ", \"min\": %" PRIu64 ", \"p50\": %" PRIu64
           ", \"p90\": %" PRIu64 ", \"p99\": %" PRIu64 ", \"p99_9\": %" PRIu64 ", \"max\": %" PRIu64
           "}",
           name, h->count, h->count ? h->min_ns : 0, histogram_percentile(h, .5),
           histogram_percentile(h, .9), histogram_percentile(h, .99), histogram_percentile(h, .999),
           h->max_ns);
}

static void print_figures(const struct reader *r)
{
    printf("{\"count\": %" PRIu64 ", \"bad\": %" PRIu64 ", \"elapsed_ns\": %" PRIu64
           ", \"cpu_ns\": %" PRIu64 ", ",
           r->count, r->bad, r->end_ns - r->begin_ns, r->end_cpu_ns - r->begin_cpu_ns);
    print_latency("seen", &r->seen);
    printf(", ");
    print_latency("whole", &r->whole);
    if (r->trace) {
        printf(", \"ages\": [");
        for (uint64_t i = 0; i < r->count && i < TRACED; i++)
            printf("%s%" PRIu64, i ? ", " : "", r->ages[i]);
        printf("]");
    }
    printf("}\n");
}

/* ---- the floor: one cache line, two C processes, nothing else ---- */

struct hop {
    _Alignas(128) _Atomic uint64_t stamp, n; /* one line */
    _Alignas(128) _Atomic uint64_t answer;
};

static void hop_writer(struct hop *hop, uint64_t messages, uint64_t period_ns)
{
    uint64_t now = shm_clock_now_ns();

    for (uint64_t n = 1; n <= messages; n++) {
        for (const uint64_t due = now + period_ns; now < due;)
            now = shm_clock_now_ns();
        atomic_store_explicit(&hop->stamp, now, memory_order_relaxed);
        atomic_store_explicit(&hop->n, n, memory_order_release);
        while (atomic_load_explicit(&hop->answer, memory_order_acquire) != n)
            ;
    }
}

static void hop_reader(struct reader *r, struct hop *hop, uint64_t messages)
{
    while (r->count < messages) {
        const uint64_t n = atomic_load_explicit(&hop->n, memory_order_acquire);
        if (n == r->count)
            continue;
        const uint64_t now = shm_clock_now_ns();
        const uint64_t stamp = atomic_load_explicit(&hop->stamp, memory_order_relaxed);
        atomic_store_explicit(&hop->answer, n, memory_order_release);
        r->bad += n != ++r->count;
        if (r->count > r->warmup) {
            histogram_record(&r->seen, now > stamp ? now - stamp : 0);
            histogram_record(&r->whole, now > stamp ? now - stamp : 0);
        }
    }
}

static int run_floor(struct reader *r, uint64_t messages, uint64_t period_ns, long cpu, long mine)
{
    struct hop *hop =
        mmap(NULL, sizeof *hop, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    if (hop == MAP_FAILED)
        return fail("mmap");
    const pid_t child = fork();
    if (child < 0)
        return fail("fork");
    if (child == 0) {
        guard();
        pin(cpu);
        hop_writer(hop, messages, period_ns);
        _exit(0);
    }
    pin(mine);
    hop_reader(r, hop, messages);
    waitpid(child, NULL, 0);
    print_figures(r);
    return 0;
}

static int print_facts(void)
{
    const uint64_t begin_ns = shm_clock_now_ns();
    int version[3] = {0, 0, 0};

    for (int i = 0; i < 999; i++)
        shm_clock_now_ns();
    const double cost_ns = (double)(shm_clock_now_ns() - begin_ns) / 1000;
    link_zmq_version(version);
    printf("{\"compiler\": \"%s\", \"clock\": \"%s\", \"clock_cost_ns\": %.1f, "
           "\"libzmq\": \"%d.%d.%d\"}\n",
           __VERSION__, SHM_CLOCK_NAME, cost_ns, version[0], version[1], version[2]);
    return 0;
}

int main(int argc, char **argv)
{
    static struct reader r; /* static: the histograms are large */
    struct link *link = &r.link;

    guard();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* Ctrl-C reaches the driver too, which closes our descriptors */
    if (argc == 2 && strcmp(argv[1], "facts") == 0)
        return print_facts();
    if (argc < 8 || argc > 9) {
        fprintf(stderr, "bench_reader: started by bench.py, see there\n");
        return 2;
    }
    while (wait_names[link->wait] != NULL && strcmp(argv[2], wait_names[link->wait]) != 0)
        link->wait++;
    link->size = strtoull(argv[3], NULL, 10);
    r.warmup = strtoull(argv[4], NULL, 10);
    r.look = strcmp(argv[5], "read") == 0;
    link->echo = strcmp(argv[5], "echo") == 0;
    r.trace = strcmp(argv[5], "trace") == 0;
    const bool shm = strcmp(argv[1], "shm") == 0;
    if (strcmp(argv[1], "floor") == 0)
        return run_floor(&r, strtoull(argv[5], NULL, 10), link->size, atol(argv[7]), atol(argv[6]));
    if (strcmp(argv[1], "zmq") == 0 && !link_open_zmq(link, argv[7]))
        return fail("ZeroMQ"); /* before pin(): its own thread may run wherever there is room */
    pin(atol(argv[6]));
    if (shm         ? !link_open_shm(link, argv[7])
        : argc == 9 ? !link_open_kernel(link, argv[1], argv[7], argv[8])
                    : false)
        return fail("cannot begin");
    printf("ready\n");
    fflush(stdout);
    const bool good = run(&r);
    r.end_cpu_ns = cpu_ns();
    if (shm) {
        shm_lane_leave(&link->down);
        shm_lane_leave(&link->up);
        shm_segment_detach(&link->segment);
    }
    print_figures(&r);
    return good ? 0 : fail("the stream ended early");
}
