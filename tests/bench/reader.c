/*
 * bench_reader - the C side of the benchmark: takes messages from one transport, records their age
 * with the project's own latency code, and prints one JSON object when the writer says stop.
 *
 *     bench_reader facts
 *     bench_reader shm   WAIT SIZE WARMUP JOB CPU NAME     WAIT: spin, block  JOB: take, read, echo
 *     bench_reader KIND  WAIT SIZE WARMUP JOB CPU IN OUT   KIND: file, socket, queue; descriptors
 *     bench_reader floor spin PERIOD_NS WARMUP MESSAGES CPU WRITERS_CPU
 *
 * A message is SIZE bytes: u64 stamp (the clock before the send; 0: stop), u64 n, anything, u64 n.
 * Whatever the transport, a reader does the same with it: clock, n checked at both ends (read: and
 * one look at every cache line; echo: sent back), clock. CPU -1: not pinned. Started by bench.py.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <mqueue.h>
#include <sys/prctl.h>
#endif

#include "lane.h"
#include "latency.h"
#include "segment.h"
#include "waiter.h"

#define WATCHDOG_S 60u /* SIGALRM ends whoever waits longer; the driver is more impatient */
#define LINE       64u

struct reader {
    bool spin, look, echo;
    uint64_t size, warmup;
    uint64_t count, bad; /* messages, with those of the warm-up; wrong n or torn */
    /* The message at hand. */
    const unsigned char *bytes;
    uint64_t published_ns; /* shm: the stamp that commit made; else that before the send */
    /* The transport: next waits for a message, done gives it back (false: it was torn), reply
     * sends it back. */
    bool (*next)(struct reader *), (*done)(struct reader *), (*reply)(struct reader *);
    ssize_t (*get)(int, void *, size_t);
    ssize_t (*put)(int, const void *, size_t);
    int in, out;
    unsigned char *buffer;
    struct segment segment;
    struct lane down, up;
    struct waiter waiter;
    struct lane_message message;
    /* Figures. */
    struct latency seen;  /* publish -> the reader has it */
    struct latency whole; /* before the send -> the reader has looked at all of it */
    uint64_t begin_ns, end_ns, begin_cpu_ns, end_cpu_ns;
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

static uint64_t word_at(const unsigned char *bytes, size_t at)
{
    uint64_t word;
    memcpy(&word, bytes + at, sizeof word);
    return word;
}

/* ---- kernel transports: a descriptor in, a descriptor out ---- */

static ssize_t receive_now(int fd, void *to, size_t length)
{
    return recv(fd, to, length, MSG_DONTWAIT);
}

static ssize_t receive(int fd, void *to, size_t length)
{
    return recv(fd, to, length, 0);
}

static ssize_t transmit(int fd, const void *from, size_t length)
{
    return send(fd, from, length, 0);
}

#ifdef __linux__
static ssize_t queue_get(int fd, void *to, size_t length)
{
    return mq_receive(fd, to, length, NULL);
}

static ssize_t queue_put(int fd, const void *from, size_t length)
{
    return mq_send(fd, from, length, 0) == 0 ? (ssize_t)length : -1;
}
#endif

static bool fd_next(struct reader *r)
{
    for (size_t have = 0; have < r->size;) {
        const ssize_t got = r->get(r->in, r->buffer + have, r->size - have);
        if (got > 0)
            have += (size_t)got;
        else if (got == 0 || (errno != EAGAIN && errno != EINTR))
            return false;
    }
    r->bytes = r->buffer;
    r->published_ns = word_at(r->buffer, 0);
    return true;
}

static bool fd_done(struct reader *r)
{
    (void)r;
    return true;
}

static bool fd_reply(struct reader *r)
{
    for (size_t sent = 0; sent < r->size;) {
        const ssize_t put = r->put(r->out, r->buffer + sent, r->size - sent);
        if (put <= 0)
            return false;
        sent += (size_t)put;
    }
    return true;
}

static bool fd_open(struct reader *r, const char *kind, const char *in, const char *out)
{
    r->in = atoi(in);
    r->out = atoi(out);
    r->next = fd_next, r->done = fd_done, r->reply = fd_reply;
    if (strcmp(kind, "socket") == 0) {
        r->get = r->spin ? receive_now : receive;
        r->put = transmit;
#ifdef __linux__
    } else if (strcmp(kind, "queue") == 0) {
        r->get = queue_get; /* the driver opened it with O_NONBLOCK, or without */
        r->put = queue_put;
#endif
    } else {
        r->get = read;
        r->put = write;
        if (r->spin && fcntl(r->in, F_SETFL, O_NONBLOCK) != 0)
            return false;
    }
    r->buffer = calloc(1, r->size);
    return r->buffer != NULL;
}

/* ---- shared memory: the loop of src/cliente_c.c ---- */

static bool shm_next(struct reader *r)
{
    for (;;) {
        const enum lane_result result = lane_next(&r->down, &r->message);
        if (result == LANE_OK)
            break;
        if (result != LANE_EMPTY && result != LANE_PENDING)
            return false;
        waiter_reset(&r->waiter);
        while (!lane_readable(&r->down))
            waiter_pause(&r->waiter, r->down.next);
    }
    r->bytes = r->message.payload;
    r->published_ns = r->message.timestamp_ns;
    return r->message.length == r->size;
}

static bool shm_done(struct reader *r)
{
    const bool whole = lane_confirm(&r->down, &r->message) == LANE_OK;
    lane_release(&r->down, &r->message);
    return whole;
}

static bool shm_reply(struct reader *r)
{
    unsigned char *to;
    while (lane_reserve(&r->up, &to) == LANE_FULL)
        sched_yield();
    memcpy(to, r->bytes, r->size);
    lane_commit(&r->up, (uint32_t)r->size, 0, 0);
    return true;
}

static bool shm_open_lanes(struct reader *r, const char *name)
{
    uint32_t other;
    if (segment_attach(&r->segment, name, SEGMENT_READ_WRITE) != SEGMENT_OK) {
        fprintf(stderr, "bench_reader: %s: %s\n", name, r->segment.why);
        return false;
    }
    r->next = shm_next, r->done = shm_done, r->reply = shm_reply;
    const uint32_t flags = SHM_LOSSLESS | (r->spin || !WAITER_CAN_BLOCK ? 0u : SHM_BLOCKS);
    if (lane_open(&r->down, r->segment.base, &r->segment.header, SHM_DOWN) != LANE_OK ||
        lane_open(&r->up, r->segment.base, &r->segment.header, SHM_UP) != LANE_OK ||
        lane_claim(&r->down, (uint32_t)getpid(), flags, &other) != LANE_OK)
        return false;
    waiter_init(&r->waiter, r->spin ? WAIT_SPIN : WAIT_BLOCK, r->down.shared);
    return true;
}

/* ---- the job ---- */

static bool run(struct reader *r)
{
    const size_t last = r->size - sizeof(uint64_t);

    while (r->next(r)) {
        const uint64_t seen_ns = clock_now_ns();
        const uint64_t stamp = word_at(r->bytes, 0);
        if (stamp == 0) {
            r->done(r);
            return true;
        }
        for (size_t at = 0; r->look && at < r->size; at += LINE)
            (void)*(const volatile unsigned char *)(r->bytes + at);
        const bool good =
            word_at(r->bytes, 8) == r->count + 1 && word_at(r->bytes, last) == r->count + 1;
        if (r->echo && !r->reply(r))
            return false;
        r->bad += !r->done(r) || !good;
        const uint64_t end_ns = clock_now_ns();
        if (++r->count > r->warmup) {
            latency_record(&r->seen, seen_ns > r->published_ns ? seen_ns - r->published_ns : 0);
            latency_record(&r->whole, end_ns > stamp ? end_ns - stamp : 0);
            r->end_ns = end_ns;
        } else if (r->count == r->warmup) {
            r->begin_ns = end_ns;
            r->begin_cpu_ns = cpu_ns();
        }
    }
    return false;
}

static void print_latency(const char *name, const struct latency *latency)
{
    printf("\"%s\": {\"count\": %" PRIu64 ", \"min\": %" PRIu64 ", \"p50\": %" PRIu64
           ", \"p99\": %" PRIu64 ", \"p99_9\": %" PRIu64 ", \"max\": %" PRIu64 ", \"curve\": [",
           name, latency->count, latency->count ? latency->min_ns : 0,
           latency_percentile(latency, .5), latency_percentile(latency, .99),
           latency_percentile(latency, .999), latency->max_ns);
    /* Eight points a nine: 1 - 10^(-i/8) for i = 0 ... 24, without libm. */
    double rest = 1;
    for (int i = 0; i <= 24; i++, rest /= 1.333521432163324)
        printf("%s%" PRIu64, i ? ", " : "", latency_percentile(latency, 1 - rest));
    printf("]}");
}

static void print_figures(const struct reader *r)
{
    printf("{\"count\": %" PRIu64 ", \"bad\": %" PRIu64 ", \"elapsed_ns\": %" PRIu64
           ", \"cpu_ns\": %" PRIu64 ", ",
           r->count, r->bad, r->end_ns - r->begin_ns, r->end_cpu_ns - r->begin_cpu_ns);
    print_latency("seen", &r->seen);
    printf(", ");
    print_latency("whole", &r->whole);
    printf("}\n");
}

/* ---- the floor: one cache line, two C processes, nothing else ---- */

struct hop {
    _Alignas(128) _Atomic uint64_t stamp, n; /* one line */
    _Alignas(128) _Atomic uint64_t answer;
};

static void hop_writer(struct hop *hop, uint64_t messages, uint64_t period_ns)
{
    uint64_t now = clock_now_ns();

    for (uint64_t n = 1; n <= messages; n++) {
        for (const uint64_t due = now + period_ns; now < due;)
            now = clock_now_ns();
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
        const uint64_t now = clock_now_ns();
        const uint64_t stamp = atomic_load_explicit(&hop->stamp, memory_order_relaxed);
        atomic_store_explicit(&hop->answer, n, memory_order_release);
        r->bad += n != ++r->count;
        if (r->count > r->warmup) {
            latency_record(&r->seen, now > stamp ? now - stamp : 0);
            latency_record(&r->whole, now > stamp ? now - stamp : 0);
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

int main(int argc, char **argv)
{
    static struct reader r; /* static: the histograms are large */

    guard();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGINT, SIG_IGN); /* Ctrl-C reaches the driver too, which closes our descriptors */
    latency_reset(&r.seen);
    latency_reset(&r.whole);
    if (argc == 2 && strcmp(argv[1], "facts") == 0) {
        const struct clock_facts facts = clock_measure();
        printf("{\"compiler\": \"%s\", \"clock\": \"%s\", \"clock_cost_ns\": %.1f}\n", __VERSION__,
               SHM_CLOCK_NAME, facts.cost_ns);
        return 0;
    }
    if (argc < 8 || argc > 9) {
        fprintf(stderr, "bench_reader: started by bench.py, see there\n");
        return 2;
    }
    r.spin = strcmp(argv[2], "spin") == 0;
    r.size = strtoull(argv[3], NULL, 10);
    r.warmup = strtoull(argv[4], NULL, 10);
    r.look = strcmp(argv[5], "read") == 0;
    r.echo = strcmp(argv[5], "echo") == 0;
    if (strcmp(argv[1], "floor") == 0)
        return run_floor(&r, strtoull(argv[5], NULL, 10), r.size, atol(argv[7]), atol(argv[6]));
    pin(atol(argv[6]));
    if (argc == 8 ? !shm_open_lanes(&r, argv[7]) : !fd_open(&r, argv[1], argv[7], argv[8]))
        return fail("cannot begin");
    printf("ready\n");
    fflush(stdout);
    const bool good = run(&r);
    r.end_cpu_ns = cpu_ns();
    if (argc == 8) {
        lane_leave(&r.down);
        segment_detach(&r.segment);
    }
    print_figures(&r);
    return good ? 0 : fail("the stream ended early");
}
