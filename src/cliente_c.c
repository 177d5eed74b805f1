/*
 * cliente_c - attaches to the segment of host.py, reads it (or writes to it), prints timing.
 *
 * A message's way: lane_next -> use it where it lies -> lane_confirm -> record its age ->
 * lane_release. Everything else here is options, and what to say when it ends.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "payload.h"
#include "report.h"
#include "waiter.h"

#define VERSION "1.0.0"

enum exit_code {
    EXIT_DONE = 0,
    EXIT_SYSTEM = 1,
    EXIT_USAGE = 2,
    EXIT_NO_HOST = 3,
    EXIT_HOST_DIED = 4,
    EXIT_REFUSED = 5,
    EXIT_DATA = 6,
};

/* Why the loop ended. */
enum end {
    GO_ON = 0,
    END_DONE,    /* --count, all of --source, a signal; or a failure that say has reported */
    END_HOST,    /* report.host says how */
    END_SILENT,  /* nothing within the time-out */
    END_DROPPED, /* the host took us for dead */
    END_LAPPED,  /* each message was overwritten before it was read */
    END_DAMAGED, /* the segment holds what no host writes */
};

struct options {
    uint64_t count, timeout_ns;
    enum wait_mode wait;
    bool lossless, echo, verify, reattach, observe, peek, json, quiet, ndjson;
    const char *output, *source;
    int cpu; /* -1: any */
    char name[SHM_NAME_SIZE];
};

struct client {
    struct options options;
    struct segment segment;
    struct lane down, up;
    struct waiter waiter;
    struct report report;
    FILE *text;            /* statistics: standard output, unless the payloads go there */
    int output, source;    /* descriptors, or -1 */
    bool output_is_file;   /* a regular one: never full for the moment */
    char *stage;           /* what --output gets, where it is not written from the slot */
    uint64_t next_live_ns; /* UINT64_MAX: no live line */
    enum exit_code exit_code;
};

static volatile sig_atomic_t stop;
static bool no_stdin, no_stdout; /* closed from the start; /dev/null stands in */

static void on_signal(int number)
{
    stop = number;
}

/* One line on standard error: program, segment, what. EXIT_DONE: it goes on all the same. */
__attribute__((format(printf, 3, 4))) static enum end say(struct client *c, enum exit_code code,
                                                          const char *format, ...)
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

/* ---- options ---- */

static const char usage_text[] =
    "usage: cliente_c [options] [NAME]                                         (/shmprueba)\n"
    "\n"
    "  -n, --count N        stop after N messages; 0: until the host closes or Ctrl-C\n"
    "                       (5000; 0 with --output)\n"
    "  -t, --timeout S      longest wait for a host, or for the next message    (5)\n"
    "  -w, --wait MODE      adaptive | spin | yield | sleep | block             (adaptive)\n"
    "  -l, --lossless       ask the host never to overwrite what this client has not read\n"
    "  -e, --echo           send each message back on the up lane\n"
    "  -o, --output FILE    write the payloads to FILE ('-': standard output)\n"
    "  -s, --source FILE    publish FILE ('-': standard input) on the up lane\n"
    "  -f, --format F       of --output: raw | ndjson                           (raw)\n"
    "  -v, --verify         check every byte of every message against the known pattern\n"
    "  -r, --reattach       when the host goes away, wait for the next one\n"
    "      --observe        read-only mapping, no cursor: any number of these\n"
    "      --peek           print header, status and lanes as they are now, and exit\n"
    "      --layout         print every field's offset and size, and exit\n"
    "  -c, --cpu N          pin to a CPU (Linux)\n"
    "  -j, --json           one JSON object on standard output at the end, nothing else there\n"
    "  -q, --quiet    -h, --help    --version\n"
    "\n"
    "exit: 0 done, 1 system error, 2 usage, 3 no host, 4 host died, 5 segment refused,\n"
    "      6 data lost or damaged where the run promised otherwise\n";

__attribute__((format(printf, 1, 2), noreturn)) static void usage_error(const char *format, ...)
{
    va_list arguments;

    fputs("cliente_c: ", stderr);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputs("; see cliente_c --help\n", stderr);
    exit(EXIT_USAGE);
}

static uint64_t parse_number(const char *option, const char *text, uint64_t most)
{
    char *end;

    errno = 0;
    const uint64_t value = strtoull(text, &end, 10);
    if (text[0] < '0' || text[0] > '9' || *end != '\0' || errno != 0 || value > most)
        usage_error("%s %s: not a whole number from 0 to %" PRIu64, option, text, most);
    return value;
}

static uint64_t parse_seconds(const char *option, const char *text)
{
    char *end;
    const double value = strtod(text, &end); /* would take 0x5, or a blank before it, too */

    if (text[strspn(text, "0123456789.e+-")] || end == text || *end ||
        !(value >= 0 && value <= 1e6))
        usage_error("%s %s: not a number of seconds from 0 to 1000000", option, text);
    return (uint64_t)(value * 1e9);
}

static enum wait_mode parse_wait(const char *text)
{
    int mode = 0;

    while (wait_mode_names[mode] != NULL && strcmp(text, wait_mode_names[mode]) != 0)
        mode++;
    if (wait_mode_names[mode] == NULL)
        usage_error("--wait %s: not one of adaptive, spin, yield, sleep, block", text);
    if (mode == WAIT_BLOCK && !WAITER_CAN_BLOCK)
        usage_error("--wait block: this system has no futex; use adaptive, spin, yield or sleep");
    return (enum wait_mode)mode;
}

static void pin(const struct options *options)
{
    if (options->cpu < 0)
        return;
#ifdef __linux__
    cpu_set_t set;
    CPU_ZERO(&set);
    CPU_SET((unsigned)options->cpu, &set);
    if (sched_setaffinity(0, sizeof set, &set) != 0)
        usage_error("--cpu %d: %s; `nproc` tells how many there are", options->cpu,
                    strerror(errno));
#else
    usage_error("--cpu %d: this system cannot pin a process to a CPU", options->cpu);
#endif
}

static struct options parse_options(int argc, char **argv)
{
    enum { OBSERVE = 'z' + 1, PEEK, LAYOUT, VERSION_ASKED, END };
    static const struct option longs[] = {
        {"count", required_argument, NULL, 'n'},
        {"timeout", required_argument, NULL, 't'},
        {"wait", required_argument, NULL, 'w'},
        {"lossless", no_argument, NULL, 'l'},
        {"echo", no_argument, NULL, 'e'},
        {"output", required_argument, NULL, 'o'},
        {"source", required_argument, NULL, 's'},
        {"format", required_argument, NULL, 'f'},
        {"verify", no_argument, NULL, 'v'},
        {"reattach", no_argument, NULL, 'r'},
        {"observe", no_argument, NULL, OBSERVE},
        {"peek", no_argument, NULL, PEEK},
        {"layout", no_argument, NULL, LAYOUT},
        {"cpu", required_argument, NULL, 'c'},
        {"json", no_argument, NULL, 'j'},
        {"quiet", no_argument, NULL, 'q'},
        {"help", no_argument, NULL, 'h'},
        {"version", no_argument, NULL, VERSION_ASKED},
        {NULL, 0, NULL, 0},
    };
    static const char shorts[] = ":n:t:w:leo:s:f:vrc:jqh";
    const char *given[END] = {NULL}; /* by option: its value, or "" */
    int option;

    opterr = 0; /* one line of ours, not getopt's */
    while ((option = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (option == ':')
            usage_error("%s: its value is missing", argv[optind - 1]);
        if (option == '?' && optopt > 0 && optopt <= 'z' && strchr(shorts, optopt) == NULL)
            usage_error("-%c: unknown option", optopt);
        if (option == '?')
            usage_error("%s: unknown option, or a value where none belongs", argv[optind - 1]);
        given[option] = optarg != NULL ? optarg : "";
    }
    if (given['h'])
        fputs(usage_text, stdout);
    else if (given[VERSION_ASKED])
        printf("cliente_c %s (segment version %u)\n", VERSION, SHM_VERSION);
    else if (given[LAYOUT])
        report_layout(stdout);
    if (given['h'] || given[VERSION_ASKED] || given[LAYOUT]) {
        if (!no_stdout && fflush(stdout) == 0 && !ferror(stdout))
            exit(EXIT_DONE);
        fprintf(stderr, "cliente_c: standard output: %s\n",
                no_stdout ? "it is closed" : strerror(errno));
        exit(EXIT_SYSTEM);
    }

    const char *format = given['f'] ? given['f'] : "raw";
    struct options o = {
        .count = given['n']                 ? parse_number("--count", given['n'], INT64_MAX)
                 : given['o'] || given['s'] ? 0
                                            : 5000,
        .timeout_ns = parse_seconds("--timeout", given['t']    ? given['t']
                                                 : given[PEEK] ? "0"
                                                               : "5"),
        .wait = parse_wait(given['w'] ? given['w'] : "adaptive"),
        .lossless = given['l'],
        .echo = given['e'],
        .verify = given['v'],
        .reattach = given['r'],
        .observe = given[OBSERVE],
        .peek = given[PEEK],
        .json = given['j'],
        .quiet = given['q'],
        .ndjson = strcmp(format, "ndjson") == 0,
        .output = given['o'],
        .source = given['s'],
        .cpu = given['c'] ? (int)parse_number("--cpu", given['c'], 1023) : -1,
    };
    if (!o.ndjson && strcmp(format, "raw") != 0)
        usage_error("--format %s: not one of raw, ndjson", format);
    if (optind + 1 < argc)
        usage_error("%s: one NAME is enough", argv[optind + 1]);
    if (o.observe && (o.lossless || o.echo || o.source || o.wait == WAIT_BLOCK))
        usage_error("--observe: read-only, goes with none of --lossless, --echo, --source, "
                    "--wait block");
    if (o.source && (o.output || o.echo || o.verify || o.lossless || o.reattach))
        usage_error("--source: sends, goes with none of --output, --echo, --verify, --lossless, "
                    "--reattach");
    if (given['f'] && !o.output)
        usage_error("--format: tells how --output writes; give --output FILE, or '-'");
    if (o.json && o.peek)
        usage_error("--peek: prints text, goes not with --json");
    if (o.json && o.output && strcmp(o.output, "-") == 0)
        usage_error("--json: standard output is taken by --output -");

    const char *name = optind < argc ? argv[optind] : SHM_DEFAULT_NAME;
    const enum shm_name_result result = shm_name_normalise(SHM_OS_HERE, name, strlen(name), o.name);
    if (result != SHM_NAME_OK)
        usage_error("segment name '%s' %s", result == SHM_NAME_CONTROL ? "" : name,
                    shm_name_error(result));
    if (strlen(o.name) > SHM_NAME_MAX_MACOS && !o.quiet)
        fprintf(stderr,
                "cliente_c: %s: this name is too long for macOS (%u bytes with the slash)\n",
                o.name, SHM_NAME_MAX_MACOS);
    return o;
}

/* ---- waiting, with an eye on the host ---- */

static enum end host_ended(struct client *c, enum host_state host)
{
    c->report.host = host;
    return END_HOST;
}

/* Until ready(lane), or a reason to end. next: the message to block for; 0: nothing to block on. */
static enum end wait_until(struct client *c, bool (*ready)(struct lane *), struct lane *lane,
                           uint64_t next)
{
    waiter_reset(&c->waiter);
    while (!ready(lane)) {
        if (!waiter_pause(&c->waiter, next))
            continue;
        if (stop)
            return END_DONE;
        lane_restore(&c->down);
        const enum host_state host = segment_host(&c->segment, c->waiter.now_ns);
        if (host == HOST_SHRUNK)
            return host_ended(c, host);
        if (host == HOST_CLOSED || host == HOST_DIED) /* what it published before still counts */
            return ready(lane) ? GO_ON : host_ended(c, host);
        if (host == HOST_STALLED && c->options.reattach && segment_unlinked(&c->segment))
            return host_ended(c, host); /* another may have this name already */
        if (host != c->report.host) {
            c->report.host = host;
            say(c, EXIT_DONE, "the host (pid %" PRIu64 ") %s", c->segment.header.host_pid,
                host == HOST_STALLED ? "is stalled: no sign of life for over a second; waiting"
                                     : "goes on");
        }
        if (c->waiter.now_ns - c->waiter.since_ns >= c->options.timeout_ns)
            return ready(lane) ? GO_ON : END_SILENT;
    }
    return GO_ON;
}

/* ---- attach ---- */

static enum end claim(struct client *c)
{
    const uint32_t flags =
        (c->options.lossless ? SHM_LOSSLESS : 0u) | (c->waiter.sleep_on != NULL ? SHM_BLOCKS : 0u);
    enum lane_result result;
    uint32_t other = 0;
    int tries = 0;

    do
        result = lane_claim(&c->down, (uint32_t)getpid(), flags, &other);
    while (result == LANE_DROPPED && ++tries < 100);
    if (result == LANE_BUSY)
        return say(c, EXIT_REFUSED,
                   "refused: client pid %" PRIu32 " is reading it already; end that one, or watch "
                   "beside it with --observe",
                   other);
    return result == LANE_OK ? GO_ON : END_DAMAGED;
}

/* Finds a living host, within the time-out, and takes the lanes. */
static enum end attach(struct client *c)
{
    const uint64_t old_session = c->segment.header.session;
    const uint64_t begin = clock_now_ns(), deadline = begin + c->options.timeout_ns;
    const enum segment_access access = c->options.peek      ? SEGMENT_PEEK
                                       : c->options.observe ? SEGMENT_OBSERVE
                                                            : SEGMENT_READ_WRITE;
    struct timespec step = {.tv_nsec = 1000000};
    enum segment_result result;

    for (;;) {
        result = segment_attach(&c->segment, c->options.name, access);
        if (result == SEGMENT_OK && c->segment.header.session != old_session)
            break;
        if (result == SEGMENT_OK) /* the host we just lost, not quite gone yet */
            segment_detach(&c->segment);
        if (stop)
            return END_DONE;
        if (result == SEGMENT_REFUSED)
            return say(c, EXIT_REFUSED, "%s", c->segment.why);
        if (result == SEGMENT_ERROR)
            return say(c, EXIT_SYSTEM, "%s", c->segment.why);
        if (clock_now_ns() >= deadline)
            return say(c, result == SEGMENT_DIED ? EXIT_HOST_DIED : EXIT_NO_HOST,
                       "%s (waited %g s)", c->segment.why, (double)c->options.timeout_ns * 1e-9);
        nanosleep(&step, NULL);
        if (step.tv_nsec < 16000000)
            step.tv_nsec *= 2;
    }
    if (c->options.peek)
        return GO_ON;

    if (lane_open(&c->down, c->segment.base, &c->segment.header, SHM_DOWN) != LANE_OK ||
        lane_open(&c->up, c->segment.base, &c->segment.header, SHM_UP) != LANE_OK)
        return END_DAMAGED;
    if ((c->options.echo || c->options.source) && !lane_has_consumer(&c->up))
        return say(c, EXIT_NO_HOST, "the host does not receive; start it with %s",
                   c->options.echo ? "--echo" : "--sink FILE");
    waiter_init(&c->waiter, c->options.wait, c->options.observe ? NULL : c->down.shared);
    if (c->report.attach_total_ns == 0)
        c->report.attach_total_ns = clock_now_ns() - begin;
    if (!c->options.quiet && !c->options.json)
        report_attached(c->text, &c->segment);
    if (c->options.output != NULL) {
        free(c->stage); /* the next host's messages may be larger */
        c->stage = malloc(PAYLOAD_JSON_SIZE(c->segment.header.payload_capacity));
        if (c->stage == NULL)
            return say(c, EXIT_SYSTEM, "no memory for a message of %" PRIu32 " bytes",
                       c->segment.header.payload_capacity);
    }
    c->report.host = HOST_LIVE;
    return GO_ON;
}

/* Adds up what lane, waiter and segment noted; they begin anew at the next host. */
static void take_counts(struct client *c)
{
    c->report.lost += c->down.lost;
    c->report.retries += c->down.retries;
    c->report.missed_wakeups += c->waiter.missed_wakeups;
    c->down.lost = c->down.retries = c->waiter.missed_wakeups = 0;
    if (c->segment.clock_gap_s != 0)
        c->report.clock_gap_s = c->segment.clock_gap_s;
}

/* Only called when the host went away and nothing readable is left of it. */
static enum end reattach(struct client *c)
{
    const uint64_t begin = clock_now_ns();
    const char *how = host_state_names[c->report.host];
    const struct segment old = c->segment;

    take_counts(c);
    lane_leave(&c->down);
    segment_detach(&c->segment);
    enum end end = attach(c);
    if (end == GO_ON && !c->options.observe)
        end = claim(c);
    if (end != GO_ON) {
        c->segment.header = old.header; /* the report is of what was received from that one */
        c->segment.step_ns = old.step_ns;
        return end;
    }
    c->report.reattached++;
    say(c, EXIT_DONE,
        "the host %s; reattached to session %016" PRIx64 " (pid %" PRIu64 ") after %.3f s; "
        "nothing was left unread of the old one, %" PRIu64 " messages of the new one missed",
        how, c->segment.header.session, c->segment.header.host_pid,
        (double)(clock_now_ns() - begin) * 1e-9, c->down.head);
    return GO_ON;
}

/* ---- the two loops ---- */

/* Never waits in write itself: a signal just before it would be missed. */
static enum end write_all(struct client *c, const void *bytes, size_t length)
{
    struct pollfd ready = {.fd = c->output, .events = POLLOUT};
    const char *from = bytes;

    while (length > 0) {
        if (!c->output_is_file && poll(&ready, 1, 50) <= 0) {
            if (stop)
                return END_DONE;
            continue;
        }
        const size_t step = c->output_is_file || length < PIPE_BUF ? length : PIPE_BUF;
        const ssize_t written = write(c->output, from, step);
        if (written >= 0) {
            from += written;
            length -= (size_t)written;
        } else if (errno == EFAULT) { /* how the kernel meets pages that are gone */
            return host_ended(c, HOST_SHRUNK);
        } else if (errno != EINTR && errno != EAGAIN) {
            return say(c, EXIT_SYSTEM, "write to %s: %s; give another FILE", c->options.output,
                       strerror(errno));
        }
    }
    return GO_ON;
}

static uint32_t crc_for(const struct client *c, const unsigned char *payload, uint32_t length,
                        uint64_t n)
{
    return c->segment.header.flags & SHM_FLAG_CRC ? payload_crc32(payload, length, (uint32_t)n) : 0;
}

/* What the run does with one message, where it lies; *result is what lane_confirm said of it. */
static enum end use(struct client *c, const struct lane_message *message, enum lane_result *result)
{
    struct report *r = &c->report;
    const uint32_t kind = c->segment.header.payload_kind;
    const uint32_t crc = crc_for(c, message->payload, message->length, message->n);
    const bool crc_ok = !(c->segment.header.flags & SHM_FLAG_CRC) || crc == message->crc32;
    const bool verified = !c->options.verify || payload_matches(kind, message);
    const bool writes = c->output >= 0 && crc_ok, lossless = c->options.lossless;
    const void *out = c->stage;
    size_t length = message->length;
    unsigned char *echo = NULL;
    enum end end = GO_ON;

    if (c->options.echo) {
        end = wait_until(c, lane_writable, &c->up, 0);
        if (end == GO_ON && lane_reserve(&c->up, &echo) == LANE_OK)
            memcpy(echo, message->payload, message->length);
    }
    if (writes && c->options.ndjson)
        length = payload_json(c->stage, kind, message);
    else if (writes && lossless)
        out = message->payload;
    else if (writes)
        memcpy(c->stage, message->payload, length);
    if (end == GO_ON && writes && lossless) /* nobody overwrites it yet */
        end = write_all(c, out, length);
    *result = lane_confirm(&c->down, message);
    if (end != GO_ON || *result != LANE_OK)
        return end;
    r->crc_errors += !crc_ok;
    r->verify_errors += !verified;
    if (echo != NULL)
        lane_commit(&c->up, message->length, 0, crc_for(c, echo, message->length, c->up.next));
    if (writes && !lossless)
        end = write_all(c, out, length);
    return end;
}

static void record(struct client *c, const struct lane_message *message, uint64_t now)
{
    struct report *const r = &c->report;

    if (r->messages++ == 0) {
        r->first_seen_ns = now;
        r->first = *message;
        r->first_kind = c->segment.header.payload_kind;
        r->first_sample = r->live_sample;
    }
    r->bytes += message->length;
    r->last_seen_ns = now;
    /* A timestamp a few ns ahead of a clock read on another CPU is age 0. */
    latency_record(&r->seen, now > message->timestamp_ns ? now - message->timestamp_ns : 0);
    latency_record(&r->due, now > message->due_ns ? now - message->due_ns : 0);
    if (message->timestamp_ns > now && message->timestamp_ns - now > SHM_SILENCE_NS) /* not ours */
        r->clock_gap_s = -(int64_t)((message->timestamp_ns - now) / 1000000000);
    if (now >= c->next_live_ns) {
        take_counts(c);
        report_live(c->text, r, message->length, now);
        c->next_live_ns = now + 1000000000u;
    }
}

static enum end receive(struct client *c)
{
    struct report *const r = &c->report;
    struct lane *const lane = &c->down;
    const bool plain = !c->options.verify && !c->options.echo && c->output < 0 &&
                       !(c->segment.header.flags & SHM_FLAG_CRC);
    const size_t room = sizeof r->live_sample;
    struct lane_message message;
    uint64_t empty = 0, since_ns = 0; /* since when all looks were in vain */

    while (!stop) {
        enum end end = GO_ON;
        enum lane_result result = lane_next(lane, &message);
        if (result == LANE_OK) {
            const uint64_t now = clock_now_ns();
            if (r->messages == 0 || now >= c->next_live_ns) /* before lane_confirm vouches for it */
                memcpy(&r->live_sample, message.payload,
                       message.length < room ? message.length : room);
            if (plain)
                result = lane_confirm(lane, &message);
            else
                end = use(c, &message, &result);
            if (end != GO_ON)
                return end;
            if (result == LANE_OK) {
                since_ns = 0;
                record(c, &message, now);
                lane_release(lane, &message);
                if (r->messages == c->options.count)
                    return END_DONE;
                continue;
            }
        }
        /* Lapped, pending or dropped again and again: waiting has a time-out, so has this. */
        if (result != LANE_EMPTY || ++empty % 64 == 0) {
            const uint64_t now = clock_now_ns();
            since_ns = since_ns ? since_ns : now;
            if (now - since_ns > c->options.timeout_ns + SHM_SILENCE_NS)
                return result == LANE_LAPPED ? END_LAPPED : END_DAMAGED;
        }
        switch (result) {
        case LANE_EMPTY:
        case LANE_PENDING:
            end = wait_until(c, lane_readable, lane, lane->next);
            /* Said to be there, but never whole: no host does that for so long. */
            if (end == END_SILENT && lane_next(lane, &message) == LANE_PENDING)
                return END_DAMAGED;
            break;
        case LANE_LAPPED: break;
        case LANE_DROPPED:
            if (c->options.lossless || c->options.echo)
                return END_DROPPED;
            lane->lost -= lane->next; /* swept away with a dead predecessor: what was missed */
            end = claim(c);
            lane->lost += lane->next;
            break;
        default: return END_DAMAGED;
        }
        if (end != GO_ON)
            return end;
    }
    return END_DONE;
}

/* A host that has its --count does not look for the message that ends the stream. */
static bool all_but_the_end_taken(struct lane *lane)
{
    return lane_unread(lane) <= 1;
}

/* An empty message ends the stream: nobody could tell a finished sender from a dead one else. */
static enum end send_source(struct client *c)
{
    struct pollfd ready = {.fd = c->source, .events = POLLIN};
    struct report *const r = &c->report;

    for (ssize_t length = 1; length != 0;) {
        unsigned char *payload;
        const bool more = c->options.count == 0 || r->messages < c->options.count;
        const enum end end = stop ? END_DONE : wait_until(c, lane_writable, &c->up, 0);
        if (end != GO_ON)
            return end;
        do { /* a quiet source; meanwhile the host may go */
            const enum host_state host = segment_host(&c->segment, clock_now_ns());
            if (stop)
                return END_DONE;
            if (host != HOST_LIVE && host != HOST_STALLED)
                return host_ended(c, host);
        } while (more && poll(&ready, 1, 50) <= 0);
        if (lane_reserve(&c->up, &payload) != LANE_OK)
            continue;
        length = more ? read(c->source, payload, c->up.capacity) : 0;
        if (length < 0 && errno == EINTR)
            continue;
        if (length < 0 && errno == EFAULT)
            return host_ended(c, HOST_SHRUNK);
        if (length < 0)
            return say(c, EXIT_SYSTEM, "read %s: %s; give another FILE", c->options.source,
                       strerror(errno));
        lane_commit(&c->up, (uint32_t)length, 0, crc_for(c, payload, (uint32_t)length, c->up.next));
        if (length > 0) {
            r->last_seen_ns = clock_now_ns();
            if (r->messages++ == 0)
                r->first_seen_ns = r->last_seen_ns;
            r->bytes += (uint64_t)length;
        }
    }
    const enum end end = wait_until(c, all_but_the_end_taken, &c->up, 0);
    return end == GO_ON ? END_DONE : end;
}

/* ---- the end ---- */

static void conclude(struct client *c, enum end end)
{
    struct report *r = &c->report;

    /* The zeros in place of its pages can look like many another end. */
    if (end != END_DONE && r->host == HOST_SHRUNK)
        say(c, EXIT_REFUSED, "the segment was truncated under this client; restart host.py");
    else if (end == END_HOST && r->host == HOST_DIED)
        say(c, EXIT_HOST_DIED, "the host (pid %" PRIu64 ") died; start host.py again",
            c->segment.header.host_pid);
    else if (end == END_HOST && c->options.source && lane_unread(&c->up) > 0)
        say(c, EXIT_DATA, "the host closed before it took everything");
    else if (end == END_SILENT && r->host == HOST_STALLED)
        say(c, EXIT_NO_HOST,
            "the host (pid %" PRIu64 ") is stalled: silent for %g s; continue or restart it",
            c->segment.header.host_pid, (double)c->options.timeout_ns * 1e-9);
    else if (end == END_SILENT)
        say(c, EXIT_NO_HOST,
            r->sending
                ? "the host (pid %" PRIu64 ") lives, but took nothing for %g s; see --timeout"
                : "the host (pid %" PRIu64 ") lives, but sent nothing for %g s; see --timeout",
            c->segment.header.host_pid, (double)c->options.timeout_ns * 1e-9);
    else if (end == END_DROPPED)
        say(c, EXIT_DATA,
            "the host dropped this client: it had not moved for the host's --stall-timeout, or its "
            "pid is unknown there; read faster, raise that, or in a container add --pid=host");
    else if (end == END_LAPPED)
        say(c, EXIT_DATA,
            "each message was overwritten before it was read, %" PRIu64 " of them; more --slots, a "
            "lower --rate, or --lossless",
            r->lost);
    else if (end == END_DAMAGED)
        say(c, EXIT_REFUSED,
            "the segment holds what no host writes (message %" PRIu64 "); restart host.py",
            c->down.next);
    if (c->exit_code == EXIT_DONE && (r->crc_errors || r->verify_errors))
        say(c, EXIT_DATA, "%" PRIu64 " messages failed the CRC, %" PRIu64 " the byte check",
            r->crc_errors, r->verify_errors);
    if (c->exit_code == EXIT_DONE && r->lost && (c->options.lossless || c->options.echo))
        say(c, EXIT_DATA, "%" PRIu64 " messages were lost", r->lost);
}

static void run(struct client *c)
{
    struct report *r = &c->report;

    r->segment = &c->segment;
    r->sending = c->source >= 0;
    r->clock = clock_measure();
    latency_reset(&r->seen);
    latency_reset(&r->due);
    enum end end = attach(c);
    if (c->options.peek && end == GO_ON) {
        report_peek(c->text, &c->segment);
        segment_detach(&c->segment);
        return;
    }
    if (report_on_terminal(c->text) && !c->options.quiet && !c->options.json)
        c->next_live_ns = clock_now_ns() + 500000000u;
    getrusage(RUSAGE_SELF, &r->begin_usage);
    r->begin_ns = clock_now_ns();
    if (end == GO_ON && !c->options.observe) /* last: what is published from here on is timed */
        end = claim(c);
    const bool attached = end == GO_ON;
    /* Only now: what is in FILE may be the work of a client that we would have disturbed. */
    if (attached && c->output > STDERR_FILENO && ftruncate(c->output, 0) != 0 && errno != EINVAL)
        end = say(c, EXIT_SYSTEM, "truncate %s: %s", c->options.output, strerror(errno));
    while (end == GO_ON) {
        end = c->source >= 0 ? send_source(c) : receive(c);
        if (end == END_HOST && c->options.reattach && r->host != HOST_SHRUNK)
            end = reattach(c);
    }
    r->end_ns = clock_now_ns();
    getrusage(RUSAGE_SELF, &r->end_usage);
    take_counts(c);
    if (c->segment.base != NULL && end != END_HOST)
        r->host = segment_host(&c->segment, r->end_ns);
    r->wait = wait_mode_names[c->options.wait];
    if (c->segment.base != NULL) /* before anything is printed: a lossless host may be waiting */
        lane_leave(&c->down);
    conclude(c, end);
    if (attached && c->options.json)
        report_json(stdout, r);
    else if (attached && !c->options.quiet)
        report_text(c->text, r);
    segment_detach(&c->segment);
}

static int open_file(struct client *c, const char *path, int flags, int standard)
{
    if (path == NULL)
        return -1;
    errno = EBADF; /* if a closed standard stream is asked for */
    const int fd = strcmp(path, "-") != 0                 ? open(path, flags | O_CLOEXEC, 0666)
                   : standard == STDIN_FILENO && no_stdin ? -1
                                                          : standard;
    if (fd < 0 && !stop) /* a FIFO waits for its other end */
        say(c, EXIT_SYSTEM, "open %s: %s; give another FILE", path, strerror(errno));
    return fd;
}

int main(int argc, char **argv)
{
    static struct client c; /* static: the histograms are large, and begin as zeros */

    no_stdin = fcntl(STDIN_FILENO, F_GETFD) < 0;
    no_stdout = fcntl(STDOUT_FILENO, F_GETFD) < 0;
    /* A pipe without its reader, a file at its limit: an error of write, with an exit code. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    /* A closed standard descriptor must not become the segment's. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", O_RDWR) < 0)
            return EXIT_SYSTEM;
    c.options = parse_options(argc, argv);
    const bool to_stdout = c.options.output != NULL && strcmp(c.options.output, "-") == 0;
    c.text = to_stdout ? stderr : stdout;
    c.segment.fd = c.output = c.source = -1;
    c.next_live_ns = UINT64_MAX;
    if (no_stdout && (to_stdout || c.options.json || !c.options.quiet)) {
        say(&c, EXIT_SYSTEM, "standard output is closed; give --quiet, or open it");
        return (int)c.exit_code;
    }
    pin(&c.options);
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: calls end early */
    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (signal(SIGHUP, SIG_IGN) != SIG_IGN) /* nohup: it stays ignored */
        sigaction(SIGHUP, &action, NULL);
    segment_guard();

    c.output = open_file(&c, c.options.output, O_WRONLY | O_CREAT, STDOUT_FILENO);
    c.source = open_file(&c, c.options.source, O_RDONLY, STDIN_FILENO);
    struct stat found;
    c.output_is_file = c.output >= 0 && fstat(c.output, &found) == 0 && S_ISREG(found.st_mode);
    if (c.exit_code == EXIT_DONE && !stop)
        run(&c);
    if (c.output >= 0 && !to_stdout && close(c.output) != 0)
        say(&c, EXIT_SYSTEM, "close %s: %s", c.options.output, strerror(errno));
    free(c.stage);
    /* Beside --output - the text is a remark, on standard error. */
    if (!to_stdout && (fflush(stdout) != 0 || ferror(stdout)) && c.exit_code == EXIT_DONE)
        say(&c, EXIT_SYSTEM, "standard output: %s", strerror(errno));
    return (int)c.exit_code;
}
