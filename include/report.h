/*
 * report.h - what the client says: at attach, once a second, at the end.
 */
#ifndef REPORT_H
#define REPORT_H

#include <stdio.h>
#include <sys/resource.h>

#include "latency.h"
#include "segment.h"
#include "shm_sample.h"
#include "waiter.h"

/* One run's figures. Times are clock_now_ns(); the timed loop lasts from begin_ns to end_ns. */
struct report {
    const struct segment *segment;
    const struct lane *lane; /* that was read: lost, retries */
    const struct waiter *waiter;
    bool sending; /* --source: nothing was read */
    uint64_t messages, crc_errors, verify_errors, bytes;
    uint64_t began;           /* the head behind which it began */
    uint64_t attach_total_ns; /* waiting for the host included */
    uint64_t begin_ns, end_ns, first_seen_ns, last_seen_ns;
    struct rusage begin_usage, end_usage;
    enum host_state host;
    bool foreign_clock; /* a time stamp was over a second away: latencies mean nothing */
    struct clock_facts clock;
    struct latency seen, due; /* publish -> seen, due -> seen; nanoseconds */
    struct lane_message first;
    union { /* as much of it as fits */
        struct shm_sample sample;
        unsigned char bytes[sizeof(struct shm_sample)];
    } first_payload;
};

/* Is there somebody to show a live line to? */
bool report_on_terminal(FILE *out);

void report_attached(FILE *out, const struct segment *segment);
void report_live(FILE *out, const struct report *report, uint64_t now_ns);
void report_text(FILE *out, const struct report *report);
void report_json(FILE *out, const struct report *report);

/* --layout: every field's place. */
void report_layout(FILE *out);

#endif
