/*
 * client.h - one run of cliente_c: what its main (cliente_c.c), its command line (options.c) and
 * its files (transfer.c) share.
 */
#ifndef CLIENT_H
#define CLIENT_H

#include <signal.h>

#include "report.h"
#include "shm_name.h"

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
    enum wait_mode wait;
    bool lossless, echo, verify, json, quiet, ndjson;
    const char *output, *source; /* a path, "-", or NULL */
    char name[SHM_NAME_SIZE];    /* normalised */
};

/* Does not return where the options are wrong (one line, EXIT_USAGE), nor after --help, --version
 * and --layout. */
struct options options_parse(int argc, char **argv);

/* Why the loop ended. */
enum end {
    GO_ON = 0,
    END_DONE,    /* --count, all of --source, a signal; or a failure that has been said */
    END_HOST,    /* report.host says how */
    END_SILENT,  /* nothing within the time-out */
    END_DROPPED, /* the host took us for dead */
    END_LAPPED,  /* each message was overwritten before it was read */
    END_DAMAGED, /* the segment holds what no host writes */
};

struct client {
    struct options options;
    struct segment segment;
    struct lane down, up;
    struct waiter waiter;
    struct report report;
    enum lane_result claim; /* what the last try said, ... */
    uint32_t other;         /* ... and who holds the place */
    FILE *text;             /* statistics: stdout, unless the payloads go there */
    int file;               /* the descriptor of --output, or of --source */
    bool regular;           /* such a file is never full, nor empty, for the moment */
    char *stage;            /* what --output gets, where it is not written from the slot */
    uint64_t next_live_ns;  /* UINT64_MAX: no live line */
    enum exit_code exit_code;
};

extern volatile sig_atomic_t client_stop; /* a signal came: its number */

/* One line on standard error: program, segment, what. EXIT_DONE: it goes on all the same. */
__attribute__((format(printf, 3, 4))) enum end client_say(struct client *c, enum exit_code code,
                                                          const char *format, ...);

/* Is there a reason to end? Call it now and then; what is new about the host is said. */
enum end client_look(struct client *c, uint64_t now_ns);

/* Until ready(c), or a reason to end. next: the message to sleep for; 0: nothing to sleep on. */
enum end client_wait(struct client *c, bool (*ready)(struct client *), uint64_t next);

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

#endif
