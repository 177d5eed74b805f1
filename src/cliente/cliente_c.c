/* Begins and ends a run of cliente_c; what happens to a message is in transfer.c. */
#include "client.h"

#include <fcntl.h>
#include <stdarg.h>

volatile sig_atomic_t client_stop;

static void on_signal(int number)
{
    client_stop = number;
}

enum shm_result client_say(struct client *c, enum exit_code code, const char *format, ...)
{
    char text[8192];
    va_list arguments;

    if (code != EXIT_DONE && c->exit_code != EXIT_DONE)
        return SHM_SYSTEM;
    c->exit_code = code != EXIT_DONE ? code : c->exit_code;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *at = text; *at != '\0'; at++) /* one line, whatever was typed */
        if ((unsigned char)*at < ' ')
            *at = '?';
    if (c->next_live_ns != UINT64_MAX)
        fputs("\r\033[K", c->text);
    fflush(c->text);
    fprintf(stderr, "cliente_c: %s%s%s%s\n", c->options.name, c->options.name[0] ? ": " : "", text,
            code == EXIT_USAGE ? "; see cliente_c --help" : "");
    return SHM_SYSTEM;
}

/* How each result ends a run. text: what to say, where the segment or the library does not. */
static const struct {
    enum exit_code code;
    const char *text;
} ends[-SHM_SYSTEM + 1] = {
    [-SHM_AGAIN] = {EXIT_NO_HOST, "the last client died and its host has not dropped it: stalled?"},
    [-SHM_ABSENT] = {EXIT_NO_HOST, NULL},
    [-SHM_STARTING] = {EXIT_NO_HOST, NULL},
    [-SHM_STALLED] = {EXIT_NO_HOST, NULL},
    [-SHM_TIMEOUT] = {EXIT_NO_HOST, NULL},
    [-SHM_DIED] = {EXIT_HOST_DIED, NULL},
    [-SHM_LAPPED] = {EXIT_DATA, "each message was overwritten before it was read; more --slots, a "
                                "lower --rate, --newest or --lossless"},
    [-SHM_DROPPED] = {EXIT_DATA, "the host dropped this client, which had not moved for "
                                 "--stall-timeout; read faster, or raise that"},
    [-SHM_DAMAGED] = {EXIT_REFUSED, "the segment holds what no host writes; restart host.py"},
    [-SHM_REFUSED] = {EXIT_REFUSED, NULL},
    [-SHM_SYSTEM] = {EXIT_SYSTEM, NULL},
};

/* The library calls it in every wait. */
static bool idle(void *context, enum shm_result host)
{
    struct client *c = context;
    const bool stalled = host == SHM_STALLED;

    if (c->stalled != stalled && (stalled || host == SHM_OK)) {
        c->stalled = stalled;
        client_say(c, EXIT_DONE, "its host %s",
                   stalled ? "is stalled: silent for over a second" : "goes on");
    }
    return !client_stop;
}

/* Attaches to a host, within the time-out. ended: how the last host ended; SHM_OK: there was none.
 * @return SHM_OK; SHM_STOPPED; SHM_SYSTEM, after an error line; or ended: no other host came */
static enum shm_result attach(struct client *c, enum shm_result ended)
{
    const bool again = ended != SHM_OK;
    const struct shm_lane last = c->down;
    struct shm_segment found = {.idle = idle, .context = c}; /* the report needs the old one */

    if (again && !c->options.quiet)
        client_say(c, EXIT_DONE, "its host %s; waiting for the next one",
                   ended == SHM_DIED ? "died" : "has closed the segment");
    shm_segment_detach(&c->segment);
    const enum shm_result result = shm_segment_attach(
        &found, c->options.name, again ? c->segment.header.schema : NULL, c->options.timeout_ns);
    if (result == SHM_STOPPED)
        return result;
    if (result != SHM_OK && again && result != SHM_REFUSED && result != SHM_SYSTEM)
        return ended;
    if (result != SHM_OK)
        return client_say(c, result == SHM_ENDED ? EXIT_NO_HOST : ends[-result].code, "%s",
                          found.why);
    c->segment = found;
    c->stalled = false;
    c->figures.reconnects += again;
    shm_lane_open(&c->down, &c->segment, SHM_DOWN); /* serve reports errors */
    shm_lane_open(&c->up, &c->segment, SHM_UP);
    c->down.newest = c->options.newest;
    c->down.lost = last.lost; /* its counts go on */
    c->down.skipped = last.skipped;
    c->down.retries = last.retries;
    return SHM_OK;
}

/* Do the options suit the payloads of this host? */
static enum shm_result check_payloads(struct client *c)
{
    const char *schema = c->segment.header.schema;

    if (!schema_parse(&c->schema, schema) || c->schema.size > c->segment.header.payload_capacity)
        return client_say(c, EXIT_REFUSED, "refused: \"%s\" is no schema; restart host.py", schema);
    if (c->options.ndjson && c->schema.fields == 0)
        return client_say(c, EXIT_USAGE,
                          "this host sends raw payloads, which have no fields; use --format raw");
    if (c->options.verify && *schema != '\0' && strcmp(schema, SAMPLE_SCHEMA) != 0)
        return client_say(c, EXIT_USAGE,
                          "--verify knows the demo's payloads, not \"%s\"; leave it out", schema);
    return SHM_OK;
}

/* For shm_wait. @return false: try again */
static bool try_role(void *context)
{
    struct client *c = context;
    const bool sends = c->options.source || c->options.echo;

    c->role = SHM_EMPTY;
    if (sends && !shm_role_is_held(&c->segment, SHM_ROLE_RECEIVER))
        return false;
    c->role = c->options.source ? shm_lane_produce(&c->up)
                                : shm_lane_claim(&c->down, sends ? &c->up : NULL, &c->other);
    return c->role != SHM_AGAIN;
}

/* Becomes the consumer, or the sender. */
static enum shm_result take_role(struct client *c)
{
    const enum shm_result result = shm_wait(&c->down, try_role, c, c->options.timeout_ns);

    if (result != SHM_OK && result != SHM_TIMEOUT)
        return result;
    if (c->role == SHM_EMPTY)
        return client_say(c, EXIT_NO_HOST, "the host does not receive; start it with %s",
                          c->options.echo ? "--echo" : "--sink FILE");
    if (c->role == SHM_SYSTEM)
        return client_say(c, EXIT_SYSTEM, "taking its role: %s", strerror(errno));
    if (c->role != SHM_BUSY)
        return c->role;
    if (c->other == 0)
        return client_say(c, EXIT_REFUSED, "refused: another client sends already; end it");
    return client_say(
        c, EXIT_REFUSED,
        "refused: client pid %u is the one consumer already; end it, or omit --lossless", c->other);
}

/* Reads from one host, or sends to it, until it or the run ends. @return why */
static enum shm_result serve(struct client *c)
{
    struct figures *f = &c->figures;
    const bool reads = !c->options.source && !c->options.lossless;
    enum shm_result result = reads ? shm_lane_attach(&c->down) : take_role(c);

    if (f->reconnects == 0)
        f->began = c->down.next - 1;
    if (result == SHM_OK)
        result = transfer_run(c);
    f->end_ns = shm_clock_now_ns();
    /* The host's end may be the cause of TIMEOUT and ABSENT, and the zeros in place of truncated
     * pages can cause any result. */
    const enum shm_result host = shm_segment_host(&c->segment, f->end_ns);
    if (((result == SHM_TIMEOUT || result == SHM_ABSENT) && host != SHM_OK) ||
        (host == SHM_REFUSED && result != SHM_OK && result != SHM_STOPPED))
        result = host;
    shm_lane_leave(&c->down); /* before anything is printed: a host may be waiting for us */
    shm_lane_leave(&c->up);
    f->foreign_clock |= c->segment.foreign_clock;
    return result;
}

static void conclude(struct client *c, enum shm_result result)
{
    const struct figures *f = &c->figures;
    const char *text = ends[-result].text ? ends[-result].text : c->segment.why;

    if (result == SHM_ENDED && c->options.source && shm_lane_unread(&c->up) > 0)
        client_say(c, EXIT_DATA, "the host closed before it took everything");
    else if (result == SHM_TIMEOUT)
        client_say(c, EXIT_NO_HOST, "the host lives, but %s nothing for %g s; see --timeout",
                   c->options.source ? "took" : "sent", 1e-9 * (double)c->options.timeout_ns);
    else if (ends[-result].code != EXIT_DONE)
        client_say(c, ends[-result].code, "%s", text[0] ? text : shm_result_text(result));
    if (f->crc_errors > 0 || f->verify_errors > 0 || (c->options.lossless && c->down.lost > 0))
        client_say(c, EXIT_DATA,
                   N " messages failed the CRC, " N " the byte check, " N " were lost",
                   f->crc_errors, f->verify_errors, c->down.lost);
}

static void run(struct client *c)
{
    const struct options *o = &c->options;
    struct figures *f = &c->figures;
    enum shm_result result;

    f->begin_ns = shm_clock_now_ns();
    if (attach(c, SHM_OK) != SHM_OK || check_payloads(c) != SHM_OK)
        return;
    shm_waiter_init(&c->waiter, o->wait, &c->down);
    shm_waiter_may_move(&c->waiter);
    f->attach_ns = shm_clock_now_ns() - f->begin_ns;
    if (!o->quiet && !o->json)
        report_attached(c);
    getrusage(RUSAGE_SELF, &f->begin_usage);
    f->begin_ns = shm_clock_now_ns();
    do
        result = serve(c);
    while (o->reconnect && (result == SHM_ENDED || result == SHM_DIED) &&
           (result = attach(c, result)) == SHM_OK);
    getrusage(RUSAGE_SELF, &f->end_usage);
    conclude(c, result);
    if (o->json)
        report_json(c);
    else if (!o->quiet)
        report_text(c);
}

static void take_signals(void)
{
    struct sigaction action = {.sa_handler = on_signal}; /* no SA_RESTART: it ends system calls */

    sigemptyset(&action.sa_mask);
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    if (signal(SIGHUP, SIG_IGN) != SIG_IGN) /* nohup: it stays ignored */
        sigaction(SIGHUP, &action, NULL);
    /* So a pipe without a reader, or a file at its limit, is an error of write. */
    signal(SIGPIPE, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN);
    shm_segment_guard();
}

int main(int argc, char **argv)
{
    static struct client c; /* static: the histograms are large, and begin as zeros */
    const bool no_stdout = fcntl(STDOUT_FILENO, F_GETFD) < 0;

    /* The segment must not get the number of a closed standard descriptor. /dev/null takes it,
     * opened in the wrong direction, so that using it fails. */
    for (int fd = 0; fd <= 2; fd++)
        if (fcntl(fd, F_GETFD) < 0 && open("/dev/null", fd == 0 ? O_WRONLY : O_RDONLY) < 0)
            return EXIT_SYSTEM;
    take_signals();
    shm_timer_slack();
    c.text = stdout;
    c.next_live_ns = UINT64_MAX;
    if (options_parse(&c, argc, argv)) {
        if (no_stdout && (c.text == stderr || c.options.json || !c.options.quiet))
            client_say(&c, EXIT_SYSTEM, "standard output is closed; give --quiet, or open it");
        else
            transfer_open(&c);
        if (c.exit_code == EXIT_DONE && !client_stop)
            run(&c);
    }
    shm_segment_detach(&c.segment);
    transfer_close(&c);
    /* With --output - the text goes to standard error, and errors are ignored. */
    if (c.text == stdout && (fflush(stdout) != 0 || ferror(stdout)))
        client_say(&c, EXIT_SYSTEM, "standard output: %s", strerror(errno));
    return (int)c.exit_code;
}
