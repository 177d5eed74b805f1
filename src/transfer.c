#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "client.h"
#include "payload.h"

/* Nothing here waits in a system call that would sit out a signal: who waits for a pipe polls. */
#define POLL_MS 50

static enum end failed(struct client *c, const char *what, int error)
{
    if (error == EFAULT) { /* the kernel met pages that are gone: so must we, for segment_host */
        (void)((volatile char *)c->segment.base)[c->segment.size - 1];
        return END_DAMAGED;
    }
    return client_say(c, EXIT_SYSTEM, "%s %s: %s; give another FILE", what, c->options.path,
                      strerror(error));
}

void transfer_open(struct client *c)
{
    const char *path = c->options.path;
    const bool sends = c->options.source;
    struct stat found;

    c->file = sends ? STDIN_FILENO : STDOUT_FILENO;
    if (path == NULL)
        return;
    if (strcmp(path, "-") != 0)
        c->file = open(path, (sends ? O_RDONLY : O_WRONLY | O_CREAT) | O_CLOEXEC, 0666);
    else if (sends && (fcntl(c->file, F_GETFL) & O_ACCMODE) == O_WRONLY)
        failed(c, "open", EBADF); /* closed: main has put something there that cannot be read */
    /* A signal ends the wait for a FIFO's other end. */
    if (c->file < 0 && !client_stop)
        failed(c, "open", errno);
    c->regular = fstat(c->file, &found) == 0 && S_ISREG(found.st_mode);
}

void transfer_close(struct client *c)
{
    if (c->file > STDERR_FILENO && close(c->file) != 0)
        failed(c, "close", errno);
}

static bool is_ready(const struct client *c, short events)
{
    struct pollfd ready = {.fd = c->file, .events = events};

    return c->regular || poll(&ready, 1, POLL_MS) > 0;
}

static enum end write_all(struct client *c, const char *from, size_t length)
{
    while (length > 0) {
        const size_t step = c->regular || length < PIPE_BUF ? length : PIPE_BUF;
        const ssize_t written = is_ready(c, POLLOUT) ? write(c->file, from, step) : 0;
        if (written < 0 && errno != EINTR && errno != EAGAIN)
            return failed(c, "write", errno);
        if (written <= 0 && client_stop)
            return END_DONE;
        if (written > 0) {
            from += written;
            length -= (size_t)written;
        }
    }
    return GO_ON;
}

static uint32_t crc_for(const struct client *c, const unsigned char *payload, uint32_t length,
                        uint64_t n)
{
    return c->segment.header.flags & SHM_FLAG_CRC ? payload_crc32(payload, length, (uint32_t)n) : 0;
}

static bool writable(struct client *c)
{
    return lane_writable(&c->up);
}

enum end transfer_use(struct client *c, const struct lane_message *message,
                      enum lane_result *result)
{
    const struct options *o = &c->options;
    const struct shm_header *header = &c->segment.header;
    const bool crc_ok = !(header->flags & SHM_FLAG_CRC) ||
                        crc_for(c, message->payload, message->length, message->n) == message->crc32;
    const bool verified = !o->verify || payload_matches(header->payload_kind, message);
    const bool writes = o->output && crc_ok;
    const char *out = (const char *)message->payload; /* nobody overwrites it, if lossless */
    size_t length = message->length;
    unsigned char *echo = NULL;
    enum end end = GO_ON;

    if (o->echo) {
        end = client_wait(c, writable, 0);
        if (end == GO_ON && lane_reserve(&c->up, &echo) == LANE_OK)
            memcpy(echo, message->payload, message->length);
    }
    if (writes && o->ndjson) {
        length = payload_json(c->stage, message);
        out = c->stage;
    } else if (writes && !o->lossless) {
        out = memcpy(c->stage, message->payload, length);
    }
    if (end == GO_ON && writes && o->lossless)
        end = write_all(c, out, length);
    *result = lane_confirm(&c->down, message);
    if (end != GO_ON || *result != LANE_OK)
        return end;
    c->crc_errors += !crc_ok;
    c->verify_errors += !verified;
    if (echo != NULL) /* before the release: the host takes a released message for answered */
        lane_commit(&c->up, message->length, 0, crc_for(c, echo, message->length, c->up.next));
    return writes && !o->lossless ? write_all(c, out, length) : GO_ON;
}

/* A host that has its --count does not look for the message that ends the stream. */
static bool all_but_the_end_taken(struct client *c)
{
    return lane_unread(&c->up) <= 1;
}

enum end transfer_send(struct client *c)
{
    /* An empty message ends the stream: else nobody could tell the end from a dead sender. */
    for (ssize_t length = 1; length != 0;) {
        unsigned char *payload;
        const bool more = c->options.count == 0 || c->messages < c->options.count;
        enum end end = client_wait(c, writable, 0);
        do /* a quiet source; meanwhile the host may go */
            end = end == GO_ON ? client_look(c, clock_now_ns()) : end;
        while (end == GO_ON && more && !is_ready(c, POLLIN));
        if (end != GO_ON)
            return end;
        if (lane_reserve(&c->up, &payload) != LANE_OK)
            continue;
        length = more ? read(c->file, payload, c->up.capacity) : 0;
        if (length < 0 && errno != EINTR)
            return failed(c, "read", errno);
        if (lane_dropped(&c->down)) /* another may be sending already */
            return END_DROPPED;
        if (length < 0)
            continue;
        lane_commit(&c->up, (uint32_t)length, 0, crc_for(c, payload, (uint32_t)length, c->up.next));
        c->last_seen_ns = clock_now_ns();
        if (length > 0 && c->messages++ == 0)
            c->first_seen_ns = c->last_seen_ns;
        c->bytes += (uint64_t)length;
    }
    const enum end end = client_wait(c, all_but_the_end_taken, 0);
    return end == GO_ON ? END_DONE : end;
}
