/*
 * client.h - the program cliente_c, on top of what all the other headers offer: its command line
 * (options.c), its loop (cliente_c.c), its files (transfer.c), and what it says (report.c).
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <signal.h>
#include <stdio.h>
#include <sys/resource.h>

#include "latency.h"
#include "segment.h"
#include "shm_sample.h"
#include "waiter.h"

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
    END_DONE,    /* --count, all of --source, a signal; or a failure that has been said */
    END_HOST,    /* client.host says how */
    END_SILENT,  /* nothing within the time-out */
    END_DROPPED, /* the host took us for dead */
    END_LAPPED,  /* each message was overwritten before it was read */
    END_DAMAGED, /* the segment holds what no host writes */
};

struct options {
    uint64_t count; /* 0: no end */
    uint64_t timeout_ns;
    enum wait_mode wait;
    bool lossless, echo, verify, json, quiet, ndjson, output, source;
    const char *path;         /* of --output, or of --source; or "-" */
    char name[SHM_NAME_SIZE]; /* normalised */
};

/* One run. Times are clock_now_ns(); the timed loop lasts from begin_ns to end_ns. */
struct client {
    struct options options;
    struct segment segment;
    struct lane down, up;
    struct waiter waiter;
    enum lane_result claim; /* what the last try said, ... */
    uint32_t other;         /* ... and who holds the place */
    int file;               /* the descriptor of --output, or of --source */
    bool regular;           /* such a file is never full, nor empty, for the moment */
    char *stage;            /* what --output gets, where it is not written from the slot */
    FILE *text;             /* statistics: stdout, unless the payloads go there */
    uint64_t next_live_ns;  /* UINT64_MAX: no live line */
    enum exit_code exit_code;
    enum segment_result host; /* when it was last looked at */

    /* Figures. */
    uint64_t messages, bytes, crc_errors, verify_errors;
    uint64_t began;           /* the head behind which it began */
    uint64_t attach_total_ns; /* waiting for the host included */
    uint64_t begin_ns, end_ns, first_seen_ns, last_seen_ns;
    struct rusage begin_usage, end_usage;
    bool foreign_clock; /* a time stamp was over a second away: latencies mean nothing */
    struct clock_facts clock;
    struct latency seen, due; /* publish -> seen, due -> seen */
    struct lane_message first;
    unsigned char first_payload[sizeof(struct shm_sample)]; /* as much of it as fits */
};

/* ---- cliente_c.c ---- */

extern volatile sig_atomic_t client_stop; /* a signal came: its number */

/* One line on standard error: program, segment, what. EXIT_DONE: it goes on all the same. */
__attribute__((format(printf, 3, 4))) enum end client_say(struct client *c, enum exit_code code,
                                                          const char *format, ...);

/* Is there a reason to end? Call it now and then; what is new about the host is said. */
enum end client_look(struct client *c, uint64_t now_ns);

/* Until ready(c), or a reason to end. next: the message to sleep for; 0: nothing to sleep on. */
enum end client_wait(struct client *c, bool (*ready)(struct client *), uint64_t next);

/* ---- options.c ---- */

/* Does not return where the options are wrong (one line, EXIT_USAGE), nor after --help, --version
 * and --layout. */
struct options options_parse(int argc, char **argv);

/* ---- transfer.c: the files at both ends ---- */

/* Opens --output or --source. What goes wrong is said, and in exit_code. */
void transfer_open(struct client *c);

/* What the run does with one message, where it lies: checks it, echoes it, writes it to --output.
 * *result is what lane_confirm said of it. */
enum end transfer_use(struct client *c, const struct lane_message *message,
                      enum lane_result *result);

/* --source: sends all of it on the up lane, and waits until the host has taken it. */
enum end transfer_send(struct client *c);

void transfer_close(struct client *c);

/* ---- report.c: at attach, once a second, at the end ---- */

bool report_on_terminal(FILE *out); /* is there somebody to show a live line to? */
void report_attached(const struct client *c);
void report_live(const struct client *c, uint64_t now_ns);
void report_end(const struct client *c);
void report_layout(void);

#endif
