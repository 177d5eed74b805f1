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
    bool regular;         /* a regular file: reading or writing it never has to wait */
    unsigned char *stage; /* a copy of one payload: confirmed before it is written */
    struct text line;     /* its ndjson */
    uint64_t unread;      /* --source: messages that the host had not taken at the last check */
};

/* The figures of a run, over all its hosts. The timed part lasts from begin_ns to end_ns. */
struct figures {
    uint64_t messages, bytes, crc_errors, verify_errors, reconnects;
    uint64_t lost, skipped, retries; /* of earlier hosts; the lane counts those of this one */
    uint64_t began;                  /* head when it began */
    uint64_t attach_ns;              /* with the wait for the first host */
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
    bool stalled;          /* it has said that its host is stalled */
    enum shm_result role;  /* the result of the last try to take a role */
    uint32_t other;        /* pid of the process that holds that role; 0: unknown */
    enum exit_code exit_code;
};

/* ---- cliente_c.c ---- */

extern volatile sig_atomic_t client_stop; /* a signal came: its number */

/* Prints one line on standard error. With EXIT_DONE the run goes on. Another code ends it, and only
 * the first such line is printed. @return SHM_SYSTEM */
__attribute__((format(printf, 3, 4))) enum shm_result
client_say(struct client *c, enum exit_code code, const char *format, ...);

/* ---- options.c ---- */

extern const char *const wait_mode_names[]; /* by enum shm_wait_mode; ends with NULL */

/* Does not return if the options are wrong (one line, EXIT_USAGE), nor after --help, --version and
 * --layout. */
struct options options_parse(int argc, char **argv);

/* ---- transfer.c ---- */

void transfer_open(struct client *c); /* --output or --source */
void transfer_close(struct client *c);

/* Call it once the run is sure to begin: makes room for payloads, truncates --output. */
enum shm_result transfer_begin(struct client *c);

/* Uses one message in its slot: checks it, echoes it, copies it for --output.
 * @return SHM_OK or SHM_BAD_CRC: release it; otherwise why it does not count */
enum shm_result transfer_use(struct client *c, const struct shm_message *message);

/* Writes the copy to --output. */
enum shm_result transfer_write(struct client *c, const struct shm_message *message);

/* --source: sends all of it on the up lane, and waits until the host has taken it. */
enum shm_result transfer_send(struct client *c);

/* ---- report.c, layout.c ---- */

void report_attached(struct client *c); /* begins the live line, on a terminal */
void report_live(const struct client *c, uint64_t now_ns);
void report_end(const struct client *c);
void report_layout(void);

#endif
