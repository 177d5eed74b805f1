/* client.h - the program cliente_c, on the library's public functions. Include it first. */
#ifndef CLIENT_H
#define CLIENT_H

#define _GNU_SOURCE 1
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#include "shm_waiter.h"

#define N "%" PRIu64

enum exit_code {
    EXIT_DONE = 0,
    EXIT_SYSTEM = 1,
    EXIT_USAGE = 2,
    EXIT_NO_HOST = 3,
    EXIT_HOST_DIED = 4,
    EXIT_REFUSED = 5,
    EXIT_DATA = 6,
};

/* histogram.c: durations in constant memory, in log-linear buckets as in HdrHistogram: exact below
 * 128 ns, then 128 steps an octave, so percentiles are up to 0.8 % high. Begin with zeros. */
#define HISTOGRAM_STEP_BITS 7
#define HISTOGRAM_STEPS     (1u << HISTOGRAM_STEP_BITS)
#define HISTOGRAM_BUCKETS   ((64 - HISTOGRAM_STEP_BITS + 1) * HISTOGRAM_STEPS)

struct histogram {
    uint64_t count, min_ns, max_ns;
    double sum_ns;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

void histogram_record(struct histogram *histogram, uint64_t ns);

/* @param fraction 0 ... 1
 * @return nanoseconds that this fraction of all records does not exceed; 0: nothing was recorded */
uint64_t histogram_percentile(const struct histogram *histogram, double fraction);

/* @return how many records are below ns, where ns is exact to 1/128 */
uint64_t histogram_below(const struct histogram *histogram, uint64_t ns);

/* schema.c: the fields of a payload. */
struct schema {
    struct schema_field {
        char name[SHM_SCHEMA_SIZE];
        char type;                /* of Python's struct module: b B h H i I q Q f d ? s */
        uint32_t count;           /* items; of s: bytes */
        size_t item;              /* bytes of one */
        size_t at;                /* bytes from the payload's start */
    } field[SHM_SCHEMA_SIZE / 4]; /* "a:b " is the shortest field with a name */
    unsigned fields;              /* without gaps (x); 0: raw bytes */
    size_t size;                  /* bytes, at most UINT32_MAX */
};

/* Reads "name:type name:type ..." from another process, so trusts nothing in it.
 * @return false: the SHM_SCHEMA_SIZE bytes are no such text */
bool schema_parse(struct schema *schema, const char *text);

/* Writes `, "name": value` for each field that lies whole in a payload of this length. Values are
 * as in JSON: a number, true or false, a list of them, or a string; NaN and infinities are null.
 * most: how many items, or bytes of text, of each field; another process may name 4 billion. */
void schema_write(FILE *out, const struct schema *schema, const unsigned char *payload,
                  size_t length, uint32_t most);

/* sample.c: the demo's sample, which host.py generates. */
#define SAMPLE_SCHEMA "index:Q time_s:d accel:3f gyro:3f temperature:f :20x"

struct sample {
    uint64_t index;
    double time_s;
    float accel[3];    /* m/s^2 */
    float gyro[3];     /* rad/s */
    float temperature; /* degrees C */
    uint8_t zeros[20];
};
_Static_assert(sizeof(struct sample) == 64, "the schema knows of no other gap");

/* It depends on n alone, in exact binary fractions, so that every byte can be checked. */
struct sample sample_of(uint64_t n);

/* schema: SAMPLE_SCHEMA or "". @return true when every byte is what host.py generates: the sample
 * in front where the schema says so, then byte i is (n + i) % 251 */
bool sample_matches(const char *schema, const struct shm_message *message);

struct options {
    uint64_t count; /* 0: no end */
    uint64_t timeout_ns;
    enum shm_wait_mode wait;
    const char *wait_name;
    bool lossless, newest, reconnect, echo, verify, json, quiet, ndjson, output, source;
    const char *path;         /* of --output, or of --source; or "-" */
    char name[SHM_NAME_SIZE]; /* normalised */
};

/* The file of --output or --source. */
struct transfer {
    int fd;
    bool regular;         /* a regular file: reading or writing it never has to wait */
    unsigned char *stage; /* a copy of one payload: confirmed before it is written */
    unsigned char *slot;  /* of the next message on the up lane */
    FILE *line;           /* ndjson, into text of length bytes */
    char *text;
    size_t length;
    uint64_t unread; /* --source: messages that the host had not taken at the last check */
};

/* The figures of a run (begin_ns to end_ns), over all its hosts; its lane counts the rest. */
struct figures {
    uint64_t messages, bytes, crc_errors, verify_errors, reconnects;
    uint64_t began;     /* head when it began */
    uint64_t attach_ns; /* with the wait for the first host */
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
    enum shm_result role;  /* result of the last try to take one; SHM_EMPTY: no host receives */
    uint32_t other;        /* pid of the process that holds that role; 0: unknown */
    enum exit_code exit_code;
};

extern volatile sig_atomic_t client_stop; /* a signal came: its number */

/* cliente_c.c. Prints one line on standard error. With EXIT_DONE the run goes on. Another code ends
 * it, and only the first such line is printed. @return SHM_SYSTEM */
__attribute__((format(printf, 3, 4))) enum shm_result
client_say(struct client *c, enum exit_code code, const char *format, ...);

/* options.c. @return false: there is nothing to run, because the options are wrong (one line,
 * EXIT_USAGE), or they were --help, --version or --layout */
bool options_parse(struct client *c, int argc, char **argv);

/* transfer.c. transfer_run reads from one host, or sends to it, until it or the run ends.
 * @return why; SHM_OK: it has its --count, or the host has taken all of --source */
void transfer_open(struct client *c); /* --output or --source */
enum shm_result transfer_run(struct client *c);
void transfer_close(struct client *c);

/* report.c */
void report_attached(struct client *c); /* begins the live line, on a terminal */
void report_live(const struct client *c, uint64_t now_ns);
void report_text(const struct client *c);
void report_json(const struct client *c);
void report_layout(void);

#endif
