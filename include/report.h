/*
 * report.h - what the client says: at attach, once a second, at the end.
 */
#ifndef REPORT_H
#define REPORT_H

#include <stdio.h>
#include <sys/resource.h>

#include "lane.h"
#include "latency.h"
#include "segment.h"

/* One run's figures. Times are clock_now_ns(); the timed loop lasts from begin_ns to end_ns. */
struct report {
    const struct segment *segment;
    bool sending; /* --source: nothing was read */
    uint64_t messages, lost, retries, crc_errors, verify_errors, bytes;
    uint64_t missed_wakeups, reattached;
    uint64_t attach_total_ns; /* of the first attach, waiting for its host included */
    uint64_t begin_ns, end_ns, first_seen_ns, last_seen_ns;
    struct rusage begin_usage, end_usage;
    const char *wait;
    enum host_state host;
    int64_t clock_gap_s; /* not 0: latencies mean nothing, and are not printed */
    struct clock_facts clock;
    struct latency seen, due; /* publish -> seen, due -> seen; nanoseconds */
    struct lane_message first;
    uint32_t first_kind; /* the next host's may be another */
    /* Of message 1, and of the one for the live line: as much as fits, whatever it is. */
    struct shm_sample first_sample, live_sample;
};

/* Is there somebody to show a live line to? */
bool report_on_terminal(FILE *out);

void report_attached(FILE *out, const struct segment *segment);
void report_live(FILE *out, const struct report *report, uint32_t length, uint64_t now_ns);
void report_text(FILE *out, const struct report *report);
void report_json(FILE *out, const struct report *report);

/* --peek: header, status and lanes as they are now. --layout: every field's place. */
void report_peek(FILE *out, const struct segment *segment);
void report_layout(FILE *out);

#endif
