/*
 * bench_reader - the C side of the benchmark: takes messages from one transport, records their age
 * with the project's own latency code, and prints one JSON object when the writer says stop.
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
#define _GNU_SOURCE
#include <dlfcn.h>
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
#define TRACED     65536u /* ages that a trace keeps */

struct reader {
    enum wait_mode wait;
    bool look, echo, trace;
    uint64_t size, warmup;
    uint64_t count, bad; /* messages, with those of the warm-up; wrong n or torn */
    /* The message at hand. */
    const unsigned char *bytes;
    uint64_t published_ns; /* shm: the stamp that commit made; else that before the send */
    uint64_t seen_ns;
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
    void *socket; /* ZeroMQ's */
    /* Figures. */
    struct latency seen;  /* publish -> the reader has it */
    struct latency whole; /* before the send -> the reader has looked at all of it */
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
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); /* as cliente_c: its sleeps end on time */
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
        r->get = r->wait == WAIT_SPIN ? receive_now : receive;
        r->put = transmit;
#ifdef __linux__
    } else if (strcmp(kind, "queue") == 0) {
        r->get = queue_get; /* the driver opened it with O_NONBLOCK, or without */
        r->put = queue_put;
#endif
    } else {
        r->get = read;
        r->put = write;
        if (r->wait == WAIT_SPIN && fcntl(r->in, F_SETFL, O_NONBLOCK) != 0)
            return false;
    }
    r->buffer = calloc(1, r->size);
    return r->buffer != NULL;
}

/* ---- ZeroMQ: loaded where there is one, so that nothing is linked to it ---- */

#define ZMQ_PAIR     0 /* <zmq.h> has these, but only where its -dev package is installed */
#define ZMQ_DONTWAIT 1
#define ZMQ_RCVHWM   24

struct zmq_message {
    _Alignas(void *) unsigned char opaque[64]; /* zmq_msg_t */
};

static struct {
    void *(*ctx_new)(void);
    void *(*socket)(void *, int);
    int (*setsockopt)(void *, int, const void *, size_t);
    int (*connect)(void *, const char *);
    int (*send)(void *, const void *, size_t, int);
    int (*msg_init)(struct zmq_message *);
    int (*msg_recv)(struct zmq_message *, void *, int);
    void *(*msg_data)(struct zmq_message *);
    void (*version)(int *, int *, int *);
} zmq;

static struct zmq_message zmq_message;

static bool zmq_load(void)
{
    const struct {
        const char *name;
        void *place;
    } functions[] = {
        {"zmq_ctx_new", &zmq.ctx_new},   {"zmq_socket", &zmq.socket},
        {"zmq_connect", &zmq.connect},   {"zmq_setsockopt", &zmq.setsockopt},
        {"zmq_send", &zmq.send},         {"zmq_msg_init", &zmq.msg_init},
        {"zmq_msg_recv", &zmq.msg_recv}, {"zmq_msg_data", &zmq.msg_data},
        {"zmq_version", &zmq.version},
    };
    void *library = dlopen("libzmq.so.5", RTLD_NOW);

    for (size_t i = 0; library != NULL && i < sizeof functions / sizeof *functions; i++) {
        void *const found = dlsym(library, functions[i].name);
        if (found == NULL)
            return false;
        memcpy(functions[i].place, &found, sizeof found); /* C has no cast to a function */
    }
    return library != NULL;
}

static bool zmq_next(struct reader *r)
{
    int got;

    do
        got = zmq.msg_recv(&zmq_message, r->socket, r->wait == WAIT_SPIN ? ZMQ_DONTWAIT : 0);
    while (got < 0 && (errno == EAGAIN || errno == EINTR));
    if (got < 0 || (uint64_t)got != r->size)
        return false;
    r->bytes = zmq.msg_data(&zmq_message);
    r->published_ns = word_at(r->bytes, 0);
    return true;
}

static bool zmq_reply(struct reader *r)
{
    return zmq.send(r->socket, r->bytes, r->size, 0) == (int)r->size;
}

/* Before pin(): its own thread may run wherever there is room. */
static bool zmq_open(struct reader *r, const char *address)
{
    const int many = r->size < 65536 ? 1000 : 16; /* as in transports.py */

    r->next = zmq_next, r->done = fd_done, r->reply = zmq_reply;
    if (!zmq_load())
        return false;
    r->socket = zmq.socket(zmq.ctx_new(), ZMQ_PAIR);
    return r->socket != NULL && zmq.msg_init(&zmq_message) == 0 &&
           zmq.setsockopt(r->socket, ZMQ_RCVHWM, &many, sizeof many) == 0 &&
           zmq.connect(r->socket, address) == 0;
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
        waiter_begin(&r->waiter);
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
    const bool released = lane_release(&r->down, &r->message) == LANE_OK;

    waiter_found(&r->waiter, &r->message, r->seen_ns);
    return whole && released;
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
    const struct shm_header *header = &r->segment.header;
    uint32_t other;

    if (segment_attach(&r->segment, name) != SEGMENT_OK) {
        fprintf(stderr, "bench_reader: %s: %s\n", name, r->segment.why);
        return false;
    }
    r->next = shm_next, r->done = shm_done, r->reply = shm_reply;
    if (lane_open(&r->down, r->segment.base, header, SHM_DOWN) != LANE_OK ||
        lane_claim(&r->down, (uint32_t)getpid(), &other) != LANE_OK ||
        lane_open(&r->up, r->segment.base, header, SHM_UP) != LANE_OK)
        return false;
    waiter_init(&r->waiter, r->wait, r->down.shared, header->flags & SHM_FLAG_BARRIER);
    return true;
}

/* ---- the job ---- */

static bool run(struct reader *r)
{
    const size_t last = r->size - sizeof(uint64_t);

    while (r->next(r)) {
        const uint64_t seen_ns = r->seen_ns = clock_now_ns();
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
        const uint64_t age_ns = seen_ns > r->published_ns ? seen_ns - r->published_ns : 0;
        if (r->trace && r->count < TRACED)
            r->ages[r->count] = age_ns;
        if (++r->count > r->warmup) {
            latency_record(&r->seen, age_ns);
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
        int version[3] = {0, 0, 0};
        if (zmq_load())
            zmq.version(&version[0], &version[1], &version[2]);
        printf("{\"compiler\": \"%s\", \"clock\": \"%s\", \"clock_cost_ns\": %.1f, "
               "\"libzmq\": \"%d.%d.%d\"}\n",
               __VERSION__, SHM_CLOCK_NAME, facts.cost_ns, version[0], version[1], version[2]);
        return 0;
    }
    if (argc < 8 || argc > 9) {
        fprintf(stderr, "bench_reader: started by bench.py, see there\n");
        return 2;
    }
    while (wait_mode_names[r.wait] != NULL && strcmp(argv[2], wait_mode_names[r.wait]) != 0)
        r.wait++;
    r.size = strtoull(argv[3], NULL, 10);
    r.warmup = strtoull(argv[4], NULL, 10);
    r.look = strcmp(argv[5], "read") == 0;
    r.echo = strcmp(argv[5], "echo") == 0;
    r.trace = strcmp(argv[5], "trace") == 0;
    const bool shm = strcmp(argv[1], "shm") == 0;
    if (strcmp(argv[1], "floor") == 0)
        return run_floor(&r, strtoull(argv[5], NULL, 10), r.size, atol(argv[7]), atol(argv[6]));
    if (strcmp(argv[1], "zmq") == 0 && !zmq_open(&r, argv[7]))
        return fail("ZeroMQ");
    pin(atol(argv[6]));
    if (shm ? !shm_open_lanes(&r, argv[7]) : argc == 9 && !fd_open(&r, argv[1], argv[7], argv[8]))
        return fail("cannot begin");
    printf("ready\n");
    fflush(stdout);
    const bool good = run(&r);
    r.end_cpu_ns = cpu_ns();
    if (shm) {
        lane_leave(&r.down);
        segment_detach(&r.segment);
    }
    print_figures(&r);
    return good ? 0 : fail("the stream ended early");
}
