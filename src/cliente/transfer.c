#include "client.h"

#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <sys/stat.h>

static enum shm_result failed(struct client *c, const char *what)
{
    return client_say(c, EXIT_SYSTEM, "%s %s: %s; give another FILE", what, c->options.path,
                      strerror(errno));
}

void transfer_open(struct client *c)
{
    const char *path = c->options.path;
    const bool sends = c->options.source;
    struct transfer *t = &c->transfer;
    struct stat found;

    if (path == NULL)
        return;
    t->fd = sends ? STDIN_FILENO : STDOUT_FILENO;
    if (strcmp(path, "-") != 0)
        t->fd = open(path, (sends ? O_RDONLY : O_WRONLY | O_CREAT) | O_CLOEXEC, 0666);
    /* Closed standard input is an unreadable /dev/null by now. A signal ends the open of a FIFO. */
    if ((t->fd < 0 || (sends && read(t->fd, &found, 0) < 0)) && !client_stop)
        failed(c, "open");
    t->regular = fstat(t->fd, &found) == 0 && S_ISREG(found.st_mode);
}

void transfer_close(struct client *c)
{
    if (c->transfer.fd > STDERR_FILENO && close(c->transfer.fd) != 0)
        failed(c, "close");
}

/* Can FILE be read, or written, at once? A short wait: no signal ends it that came before. */
static bool is_ready(void *context)
{
    const struct client *c = context;
    struct pollfd ready = {.fd = c->transfer.fd, .events = c->options.source ? POLLIN : POLLOUT};

    return c->transfer.regular || poll(&ready, 1, 50) > 0;
}

static enum shm_result write_all(struct client *c, const char *from, size_t length)
{
    const struct transfer *t = &c->transfer;

    while (length > 0) {
        const size_t step = t->regular || length < PIPE_BUF ? length : PIPE_BUF;
        const ssize_t written = is_ready(c) ? write(t->fd, from, step) : 0;
        if (written < 0 && errno != EINTR && errno != EAGAIN)
            return failed(c, "write");
        if (written <= 0 && client_stop)
            return SHM_STOPPED;
        from += written > 0 ? written : 0;
        length -= written > 0 ? (size_t)written : 0;
    }
    return SHM_OK;
}

/* No key twice: a field of the payload's own with this name comes in place of ours. */
static void add_key(struct client *c, const char *name, uint64_t value)
{
    for (unsigned i = 0; i < c->schema.fields; i++)
        if (strcmp(c->schema.field[i].name, name) == 0)
            return;
    fprintf(c->transfer.line, ", \"%s\": " N, name, value);
}

static enum shm_result write_message(struct client *c, const struct shm_message *message)
{
    struct transfer *t = &c->transfer;

    if (!c->options.ndjson)
        return write_all(c, (const char *)t->stage, message->length);
    rewind(t->line);
    add_key(c, "n", message->n);
    add_key(c, "timestamp_ns", message->timestamp_ns);
    add_key(c, "length", message->length);
    schema_write(t->line, &c->schema, t->stage, message->length, UINT32_MAX);
    fputs(ftell(t->line) > 0 ? "}\n" : ", }\n", t->line);
    if (fflush(t->line) != 0)
        return failed(c, "make a line for");
    t->text[1] = '{'; /* in place of the first ", " */
    return write_all(c, t->text + 1, t->length - 1);
}

/* Puts the first message into words: its fields, or its first bytes if it has none. */
static void describe_first(struct client *c, const struct shm_message *message)
{
    const struct transfer *t = &c->transfer;
    const uint32_t room = sizeof c->first - 1;

    rewind(t->line);
    fprintf(t->line, "n " N ", %" PRIu32 " B", message->n, message->length);
    schema_write(t->line, &c->schema, t->stage, message->length, room);
    for (uint32_t i = 0; c->schema.fields == 0 && i < message->length && i < 16; i++)
        fprintf(t->line, " %02x", t->stage[i]);
    if (fflush(t->line) != 0)
        return;
    memcpy(c->first, t->text, t->length < room ? t->length : room);
    if (t->length <= room)
        return;
    c->first[room - sizeof " ..."] = '\0'; /* end after a word */
    memcpy(strrchr(c->first, ' '), " ...", sizeof " ...");
}

static bool reserve(void *context)
{
    struct client *c = context;
    return shm_lane_reserve(&c->up, &c->transfer.slot) == SHM_OK;
}

static void record(struct client *c, const struct shm_message *message)
{
    struct figures *f = &c->figures;
    const uint64_t now_ns = message->seen_ns;

    if (f->messages++ == 0)
        f->first_seen_ns = now_ns;
    f->bytes += message->length;
    f->last_seen_ns = now_ns;
    /* A time stamp may be a few ns ahead of a clock read on another CPU: count that as age 0. */
    histogram_record(&f->seen, now_ns > message->timestamp_ns ? now_ns - message->timestamp_ns : 0);
    histogram_record(&f->due, now_ns > message->due_ns ? now_ns - message->due_ns : 0);
    f->foreign_clock |= message->timestamp_ns > now_ns + SHM_STALLED_NS;
    if (now_ns >= c->next_live_ns) {
        report_live(c, now_ns);
        c->next_live_ns = now_ns + 1000000000u;
    }
}

/* Uses one message in its slot, confirms and releases it, records its age, writes it on.
 * @return SHM_OK, also after a wrong CRC, which is counted; otherwise why it does not count */
static enum shm_result use(struct client *c, const struct shm_message *message)
{
    const struct options *o = &c->options;
    struct transfer *t = &c->transfer;
    const bool first = c->figures.messages == 0;
    const bool verified = !o->verify || sample_matches(c->segment.header.schema, message);
    enum shm_result result = o->echo ? shm_wait(&c->down, reserve, c, o->timeout_ns) : SHM_OK;

    if (result != SHM_OK)
        return result;
    if (o->echo)
        memcpy(t->slot, message->payload, message->length);
    if (o->output || first)
        memcpy(t->stage, message->payload, message->length);
    result = shm_lane_confirm(&c->down, message);
    if (result != SHM_OK && result != SHM_BAD_CRC)
        return result;
    if (first)
        describe_first(c, message);
    c->figures.crc_errors += result == SHM_BAD_CRC;
    c->figures.verify_errors += !verified;
    if (o->echo) /* before the release: then the host expects the answer */
        shm_lane_commit(&c->up, message->length, 0);
    shm_lane_release(&c->down, message);
    record(c, message);
    return o->output && result == SHM_OK ? write_message(c, message) : SHM_OK;
}

static enum shm_result receive(struct client *c)
{
    struct shm_message message;

    while (!client_stop) {
        enum shm_result result = shm_receive(&c->waiter, c->options.timeout_ns, &message);
        if (result == SHM_TIMEOUT && c->options.reconnect && c->segment.host == SHM_STALLED)
            continue;
        if (result != SHM_OK)
            return result;
        result = use(c, &message);
        if (result != SHM_OK && result != SHM_LAPPED) /* lapped for too long: shm_receive says so */
            return result;
        if (result == SHM_OK && c->figures.messages == c->options.count)
            return SHM_OK;
    }
    return SHM_STOPPED;
}

static bool has_taken_more(void *context)
{
    const struct client *c = context;
    return shm_lane_unread(&c->up) < c->transfer.unread;
}

static enum shm_result send_all(struct client *c)
{
    struct figures *f = &c->figures;
    enum shm_result result;
    bool stopped = false;

    /* An empty message ends the stream: without it, the host would take us for dead. */
    for (ssize_t length = 1; length != 0;) {
        const bool more = !stopped && (c->options.count == 0 || f->messages < c->options.count);
        result = shm_wait_room(&c->up, UINT64_MAX); /* while the host lives */
        if (more && result == SHM_OK)               /* a quiet source has no time-out */
            result = shm_wait(&c->up, is_ready, c, UINT64_MAX);
        if (client_stop && !stopped) { /* send the end; a second signal stops that, too */
            stopped = true;
            client_stop = 0;
            continue;
        }
        if (result != SHM_OK)
            return result;
        (void)reserve(c); /* there is room */
        length =
            more ? read(c->transfer.fd, c->transfer.slot, c->segment.header.payload_capacity) : 0;
        /* EFAULT: the slot was cut off, which shm_wait_room finds in a moment. */
        if (length < 0 && errno != EINTR && errno != EAGAIN && errno != EFAULT)
            return failed(c, "read");
        if (length < 0)
            continue;
        shm_lane_commit(&c->up, (uint32_t)length, 0);
        f->last_seen_ns = shm_clock_now_ns();
        if (length > 0 && f->messages++ == 0)
            f->first_seen_ns = f->last_seen_ns;
        f->bytes += (uint64_t)length;
    }
    /* Do not wait for the last message: a host that has its --count does not take it. */
    while (result == SHM_OK && !stopped && (c->transfer.unread = shm_lane_unread(&c->up)) > 1)
        result = shm_wait(&c->up, has_taken_more, c, c->options.timeout_ns);
    return result;
}

enum shm_result transfer_run(struct client *c)
{
    struct transfer *t = &c->transfer;

    free(t->stage);
    t->stage = malloc(c->segment.header.payload_capacity);
    if (t->line == NULL)
        t->line = open_memstream(&t->text, &t->length);
    if (t->stage == NULL || t->line == NULL)
        return client_say(c, EXIT_SYSTEM, "no memory for a message: %s", strerror(errno));
    /* Truncate only now: a run that cannot begin must leave FILE as it is, perhaps the output of
     * another run. EINVAL: it is no regular file, so there is nothing to truncate. */
    if (c->options.output && t->fd > STDERR_FILENO && c->figures.reconnects == 0 &&
        ftruncate(t->fd, 0) != 0 && errno != EINVAL)
        return failed(c, "truncate");
    return c->options.source ? send_all(c) : receive(c);
}
