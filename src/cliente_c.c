/*
 * cliente_c - attaches to the segment of host.py, reads it (or writes to it), prints timing.
 *
 * A message's way: lane_next -> use it where it lies -> lane_confirm -> lane_release -> record its
 * age. Everything else here is what to say when it ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include "client.h"
#include "payload.h"

volatile sig_atomic_t client_stop;

static void on_signal(int number)
{
    client_stop = number;
}

enum end client_say(struct client *c, enum exit_code code, const char *format, ...)
{
    va_list arguments;

    if (c->next_live_ns != UINT64_MAX)
        fputs("\r\033[K", c->text);
    fflush(c->text);
    fprintf(stderr, "cliente_c: %s: ", c->options.name);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    if (code != EXIT_DONE)
        c->exit_code = code;
    return END_DONE;
}

/* ---- waiting, with an eye on the host ---- */

static bool readable(struct client *c)
{
    return lane_readable(&c->down);
}

/* Until the place is ours, or surely somebody else's: one who is gone is dropped by the host. */
static bool claim_settled(struct client *c)
{
    c->claim = lane_claim(&c->down, (uint32_t)getpid(), &c->other);
    return c->claim != LANE_PENDING && (c->claim != LANE_BUSY || !process_is_gone(c->other));
}

enum end client_look(struct client *c, uint64_t now_ns)
{
    const enum segment_result before = c->host;

    c->host = segment_host(&c->segment, now_ns);
    if (client_stop)
        return END_DONE;
    if (lane_dropped(&c->down))
        return END_DROPPED;
    if (c->host != SEGMENT_OK && c->host != SEGMENT_STALLED)
        return END_HOST;
    if (c->host != before)
        client_say(c, EXIT_DONE, "%s", c->host == SEGMENT_OK ? "its host goes on" : c->segment.why);
    return GO_ON;
}

enum end client_wait(struct client *c, bool (*ready)(struct client *), uint64_t next)
{
    struct waiter *w = &c->waiter;
    enum end end = GO_ON;

    if (ready(c)) /* it keeps what it knows of the wait before this one */
        return GO_ON;
    waiter_begin(w);
    while (!ready(c)) {
        if (end != GO_ON) /* not at once: what came before the end still counts */
            return end;
        if (!waiter_pause(w, next))
            continue;
        if (w->trouble != NULL)
            client_say(c, EXIT_DONE, "%s", w->trouble);
        w->trouble = NULL;
        end = client_look(c, w->now_ns);
        if (end == GO_ON && w->now_ns - w->since_ns >= c->options.timeout_ns)
            end = END_SILENT;
    }
    return GO_ON;
}

static enum end end_of(enum lane_result result)
{
    return result == LANE_OK        ? GO_ON
           : result == LANE_DROPPED ? END_DROPPED
           : result == LANE_LAPPED  ? END_LAPPED
                                    : END_DAMAGED;
}

/* ---- attach ---- */

static enum exit_code exit_code_of(enum segment_result result)
{
    return result == SEGMENT_ERROR     ? EXIT_SYSTEM
           : result == SEGMENT_REFUSED ? EXIT_REFUSED
           : result == SEGMENT_DIED    ? EXIT_HOST_DIED
                                       : EXIT_NO_HOST;
}

/* Finds a living host, within the time-out. */
static enum end attach(struct client *c)
{
    const struct options *o = &c->options;
    const struct shm_header *header = &c->segment.header;
    const uint64_t begin_ns = clock_now_ns();
    const struct timespec step = {.tv_nsec = 4000000};
    enum segment_result result;

    while ((result = segment_attach(&c->segment, o->name)) != SEGMENT_OK) {
        const bool final = result == SEGMENT_REFUSED || result == SEGMENT_ERROR;
        if (client_stop)
            return END_DONE;
        if (final || clock_now_ns() - begin_ns >= o->timeout_ns)
            return client_say(c, exit_code_of(result), "%s", c->segment.why);
        nanosleep(&step, NULL);
    }
    /* What they find is looked at where the run begins, at the heads of that moment. */
    lane_open(&c->down, c->segment.base, header, SHM_DOWN);
    lane_open(&c->up, c->segment.base, header, SHM_UP);
    if (o->ndjson && header->payload_kind != SHM_SAMPLE)
        return client_say(c, EXIT_USAGE,
                          "this host sends raw payloads, which have no fields; use --format raw");
    if ((o->echo || o->source) && !lane_has_consumer(&c->up))
        return client_say(c, EXIT_NO_HOST, "the host does not receive; start it with %s",
                          o->echo ? "--echo" : "--sink FILE");
    if (o->output) {
        c->stage = malloc((size_t)header->payload_capacity + PAYLOAD_JSON_SIZE); /* either fits */
        if (c->stage == NULL)
            return client_say(c, EXIT_SYSTEM, "no memory for a message: %s", strerror(errno));
    }
    waiter_init(&c->waiter, o->wait, c->down.shared, header->flags & SHM_FLAG_BARRIER);
    c->attach_total_ns = clock_now_ns() - begin_ns;
    if (!o->quiet && !o->json)
        report_attached(c);
    return GO_ON;
}

/* From here on messages are promised: to a reader, or to the one consumer. */
static enum end begin(struct client *c)
{
    if (!c->options.lossless && !c->options.source)
        return end_of(lane_attach(&c->down));
    const enum end end = client_wait(c, claim_settled, 0);
    if ((end == GO_ON || end == END_SILENT) && c->claim == LANE_BUSY)
        return client_say(c, EXIT_REFUSED,
                          "refused: client pid %" PRIu32 " is the one consumer already; end it, or "
                          "read beside it without --lossless, --echo and --source",
                          c->other);
    if (end != GO_ON || c->claim != LANE_OK)
        return end != GO_ON ? end : end_of(c->claim);
    /* Behind the claim: a sender before us may still have been sending. */
    return end_of(lane_open(&c->up, c->segment.base, &c->segment.header, SHM_UP));
}

/* ---- the loop ---- */

static void record(struct client *c, const struct lane_message *message, uint64_t now)
{
    waiter_found(&c->waiter, message, now);
    if (c->messages++ == 0) {
        c->first_seen_ns = now;
        c->first = *message;
    }
    c->bytes += message->length;
    c->last_seen_ns = now;
    /* A time stamp a few ns ahead of a clock read on another CPU is age 0. */
    latency_record(&c->seen, now > message->timestamp_ns ? now - message->timestamp_ns : 0);
    latency_record(&c->due, now > message->due_ns ? now - message->due_ns : 0);
    if (message->timestamp_ns > now && message->timestamp_ns - now > SHM_SILENCE_NS)
        c->foreign_clock = true;
    if (now >= c->next_live_ns) {
        report_live(c, now);
        c->next_live_ns = now + 1000000000u;
    }
}

static enum end receive(struct client *c)
{
    struct lane *const lane = &c->down;
    const bool plain = !c->options.verify && !c->options.echo && !c->options.output &&
                       !(c->segment.header.flags & SHM_FLAG_CRC);
    const size_t room = sizeof c->first_payload;
    struct lane_message message;
    uint64_t empty = 0, since_ns = 0; /* since when all looks were in vain */

    while (!client_stop) {
        enum end end = GO_ON;
        enum lane_result result = lane_next(lane, &message);
        if (result == LANE_OK) {
            const uint64_t now = clock_now_ns();
            if (c->messages == 0) /* before lane_confirm vouches for it */
                memcpy(c->first_payload, message.payload,
                       message.length < room ? message.length : room);
            if (plain)
                result = lane_confirm(lane, &message);
            else
                end = transfer_use(c, &message, &result);
            if (end != GO_ON)
                return end;
            if (result == LANE_OK)
                result = lane_release(lane, &message);
            if (result == LANE_OK) {
                since_ns = 0;
                record(c, &message, now);
                if (c->messages == c->options.count)
                    return END_DONE;
                continue;
            }
        }
        /* Lapped or pending again and again: waiting has a time-out, so has this. */
        if (result != LANE_EMPTY || ++empty % 64 == 0) {
            const uint64_t now = clock_now_ns();
            since_ns = since_ns ? since_ns : now;
            if (now - since_ns > c->options.timeout_ns + SHM_SILENCE_NS)
                return end_of(result);
        }
        if (result == LANE_EMPTY || result == LANE_PENDING) {
            end = client_wait(c, readable, lane->next);
            /* Said to be there, but never whole: no host does that for so long. */
            if (end == END_SILENT && lane_next(lane, &message) == LANE_PENDING)
                end = END_DAMAGED;
        } else if (result != LANE_LAPPED) {
            end = end_of(result);
        }
        if (end != GO_ON)
            return end;
    }
    return END_DONE;
}

/* ---- the end ---- */

static void conclude(struct client *c, enum end end)
{
    const bool bad_host = c->host != SEGMENT_OK && c->host != SEGMENT_CLOSED;

    /* The zeros in place of pages that are gone can look like many another end. */
    if (end != END_DONE && c->host == SEGMENT_REFUSED)
        end = END_HOST;
    if ((end == END_HOST || end == END_SILENT) && bad_host)
        client_say(c, exit_code_of(c->host), "%s", c->segment.why);
    else if (end == END_HOST && c->options.source && lane_unread(&c->up) > 0)
        client_say(c, EXIT_DATA, "the host closed before it took everything");
    else if (end == END_SILENT)
        client_say(c, EXIT_NO_HOST,
                   "the host (pid %" PRIu64 ") lives, but %s nothing for %g s; see --timeout",
                   c->segment.header.host_pid, c->options.source ? "took" : "sent",
                   (double)c->options.timeout_ns * 1e-9);
    else if (end == END_DROPPED)
        client_say(c, EXIT_DATA,
                   "the host dropped this client: it had not moved for --stall-timeout, or its pid "
                   "is unknown there; read faster, raise that, or in a container add --pid=host");
    else if (end == END_LAPPED)
        client_say(c, EXIT_DATA,
                   "each message was overwritten before it was read; more --slots, a lower --rate, "
                   "or --lossless");
    else if (end == END_DAMAGED)
        client_say(c, EXIT_REFUSED,
                   "the segment holds what no host writes (message %" PRIu64 "); restart host.py",
                   c->down.next);
    const uint64_t lost = c->options.lossless ? c->down.lost : 0;
    if (c->exit_code == EXIT_DONE && (c->crc_errors || c->verify_errors || lost))
        client_say(c, EXIT_DATA,
                   "%" PRIu64 " messages failed the CRC, %" PRIu64 " the byte check, %" PRIu64
                   " were lost",
                   c->crc_errors, c->verify_errors, c->down.lost);
}

static void run(struct client *c)
{
    const struct options *o = &c->options;

    c->clock = clock_measure();
    latency_reset(&c->seen);
    latency_reset(&c->due);
    if (attach(c) != GO_ON)
        return;
    if (!o->quiet && !o->json && report_on_terminal(c->text))
        c->next_live_ns = clock_now_ns() + 500000000u;
    getrusage(RUSAGE_SELF, &c->begin_usage);
    c->begin_ns = clock_now_ns();
    enum end end = begin(c); /* last: what is published from here on is timed */
    c->began = c->down.next - 1;
    /* Only now: what is in FILE may be the work of a client that we would have disturbed. */
    if (end == GO_ON && o->output && c->file > STDERR_FILENO && ftruncate(c->file, 0) != 0 &&
        errno != EINVAL)
        end = client_say(c, EXIT_SYSTEM, "truncate %s: %s", o->path, strerror(errno));
    if (end == GO_ON)
        end = c->options.source ? transfer_send(c) : receive(c);
    c->end_ns = clock_now_ns();
    getrusage(RUSAGE_SELF, &c->end_usage);
    c->foreign_clock |= c->segment.foreign_clock;
    if (end != END_HOST)
        c->host = segment_host(&c->segment, c->end_ns);
    lane_leave(&c->down); /* before anything is printed: a host may be waiting for us */
    conclude(c, end);
    report_end(c);
}

int main(int argc, char **argv)
{
    static struct client c; /* static: the histograms are large, and begin as zeros */
    const bool no_stdout = fcntl(STDOUT_FILENO, F_GETFD) < 0;

    /* A pipe without its reader, a file at its limit: an error of write, with an exit code. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    /* A closed standard descriptor must not become the segment's: what stands in for it can
     * neither be read nor written. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0)
            return EXIT_SYSTEM;
    c.options = options_parse(argc, argv);
    const bool to_stdout = c.options.output && strcmp(c.options.path, "-") == 0;
    c.text = to_stdout ? stderr : stdout;
    c.segment.fd = -1;
    c.next_live_ns = UINT64_MAX;
    if (no_stdout && (to_stdout || c.options.json || !c.options.quiet)) {
        client_say(&c, EXIT_SYSTEM, "standard output is closed; give --quiet, or open it");
        return (int)c.exit_code;
    }
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: calls end early */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (signal(SIGHUP, SIG_IGN) != SIG_IGN) /* nohup: it stays ignored */
        sigaction(SIGHUP, &action, NULL);
    segment_guard();
#ifdef __linux__
    prctl(PR_SET_TIMERSLACK, 1ul, 0ul, 0ul, 0ul); /* or every sleep lasts 50 us longer */
#endif

    transfer_open(&c);
    if (c.exit_code == EXIT_DONE && !client_stop)
        run(&c);
    segment_detach(&c.segment);
    free(c.stage);
    transfer_close(&c);
    /* Beside --output - the text is a remark, on standard error. */
    if (!to_stdout && (fflush(stdout) != 0 || ferror(stdout)) && c.exit_code == EXIT_DONE)
        client_say(&c, EXIT_SYSTEM, "standard output: %s", strerror(errno));
    return (int)c.exit_code;
}
