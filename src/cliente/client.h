/*
 * client.h - the program cliente_c, on the library's public functions: its command line
 * (options.c), its loop (cliente_c.c), its files (transfer.c), what it prints (report.c, layout.c).
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

#include "histogram.h"
#include "schema.h"
#include "shm_waiter.h"

enum exit_code {
    EXIT_DONE = 0,
    EXIT_SYSTEM = 1,
    EXIT_USAGE = 2,
    EXIT_NO_HOST = 3,
    EXIT_HOST_DIED = 4,
    EXIT_REFUSED = 5,
    EXIT_DATA = 6,
};

struct options {
    uint64_t count; /* 0: no end */
    uint64_t timeout_ns;
    enum shm_wait_mode wait;
    bool lossless, newest, reconnect, echo, verify, json, quiet, ndjson, output, source;
    const char *path;         /* of --output, or of --source; or "-" */
    char name[SHM_NAME_SIZE]; /* normalised */
};

/* The file of --output or --source. */
struct transfer {
    int fd;
    bool regular;         /* such a file is never full, nor empty, for the moment */
    unsigned char *stage; /* one payload: it is confirmed before it is written */
    struct text line;     /* its ndjson */
    uint64_t unread;      /* --source: messages that the host had not taken at the last check */
};

/* The figures of a run, over all its hosts. The timed part lasts from begin_ns to end_ns. */
struct figures {
    uint64_t messages, bytes, crc_errors, verify_errors, reconnects;
    uint64_t lost, skipped, retries; /* of the hosts before; the lane counts for this one */
    uint64_t began;                  /* the head after which it began */
    uint64_t attach_ns;              /* waiting for the first host included */
    uint64_t begin_ns, end_ns, first_seen_ns, last_seen_ns;
    struct rusage begin_usage, end_usage;
    bool foreign_clock;         /* a time stamp was over a second away: latencies mean nothing */
    struct histogram seen, due; /* publish -> seen, due -> seen */
};

struct client {
    struct options options;
    struct shm_segment segment;
    struct shm_lane down, up;
    struct shm_waiter waiter;
    struct schema schema;
    struct transfer transfer;
    struct figures figures;
    char first[190];       /* the first message in words, as much of it as fits on three lines */
    FILE *text;            /* statistics: stdout, unless the payloads go there */
    uint64_t next_live_ns; /* UINT64_MAX: no live line */
    bool stalled;          /* it said that its host is */
    enum shm_result role;  /* what the last try to get a role returned, ... */
    uint32_t other;        /* ... and the pid of the process that holds it; 0: unknown */
    enum exit_code exit_code;
};

/* ---- cliente_c.c ---- */

extern volatile sig_atomic_t client_stop; /* a signal came: its number */

/* One line on standard error: program, segment, what. code: why the run fails, and only the first
 * such line is printed; EXIT_DONE: it goes on. @return SHM_SYSTEM */
__attribute__((format(printf, 3, 4))) enum shm_result
client_say(struct client *c, enum exit_code code, const char *format, ...);

/* ---- options.c ---- */

extern const char *const wait_mode_names[]; /* by enum shm_wait_mode; ends with NULL */

/* Does not return where the options are wrong (one line, EXIT_USAGE), nor after --help, --version
 * and --layout. */
struct options options_parse(int argc, char **argv);

/* ---- transfer.c ---- */

void transfer_open(struct client *c); /* --output or --source */
void transfer_close(struct client *c);

/* The run is sure to begin, with this segment: makes room for its payloads, empties --output. */
enum shm_result transfer_begin(struct client *c);

/* Uses one message, where it lies: checks it, echoes it, copies it for --output.
 * @return SHM_OK or SHM_BAD_CRC: it is to be released; or why it does not count */
enum shm_result transfer_use(struct client *c, const struct shm_message *message);

/* Writes it to --output, from the copy. */
enum shm_result transfer_write(struct client *c, const struct shm_message *message);

/* --source: sends all of it on the up lane, and waits until the host has taken it. */
enum shm_result transfer_send(struct client *c);

/* ---- report.c, layout.c ---- */

void report_attached(struct client *c); /* begins the live line, where somebody sees it */
void report_live(const struct client *c, uint64_t now_ns);
void report_end(const struct client *c);
void report_layout(void);

#endif
