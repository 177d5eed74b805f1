#define _GNU_SOURCE
#include "report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "payload.h"

#define BAR_WIDTH  40u
#define LINE_WIDTH 79 /* a terminal of 80 columns, and none to spare for the cursor */

bool report_on_terminal(FILE *out)
{
    const char *term = getenv("TERM");
    return isatty(fileno(out)) && term != NULL && strcmp(term, "dumb") != 0;
}

static void heading(FILE *out, const char *text)
{
    const char *no_colour = getenv("NO_COLOR");
    const bool colour = report_on_terminal(out) && (no_colour == NULL || no_colour[0] == '\0');
    fprintf(out, colour ? "\n\033[1m%s\033[0m\n" : "\n%s\n", text);
}

/* Returned by value: several of them go into one line. */
struct quantity {
    char text[24];
};

/* Three figures and a unit. */
static struct quantity duration(uint64_t ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    struct quantity result;
    double value = (double)ns;
    unsigned unit = 0;

    while (unit < 3 && value >= 999.5) {
        value /= 1000;
        unit++;
    }
    const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(result.text, sizeof result.text, "%.*f %s", decimals, value, units[unit]);
    return result;
}

static struct quantity size_of(double bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB"};
    struct quantity result;
    unsigned unit = 0;

    while (unit < 4 && bytes >= 1024) {
        bytes /= 1024;
        unit++;
    }
    snprintf(result.text, sizeof result.text, unit ? "%.1f %s" : "%.0f %s", bytes, units[unit]);
    return result;
}

void report_attached(FILE *out, const struct segment *segment)
{
    const struct shm_header *header = &segment->header;

    heading(out, "attached");
    fprintf(out, "  segment      %s   %s\n", segment->name,
            size_of((double)header->total_size).text);
    fprintf(out, "  each lane    %u slots of %u B%s\n", header->slot_count,
            header->payload_capacity, header->flags & SHM_FLAG_CRC ? ", with CRC" : "");
    fprintf(out, "  host         pid %" PRIu64 "   session %016" PRIx64 "\n", header->host_pid,
            header->session);
    fflush(out);
}

static double rate_hz(const struct report *report)
{
    const double seconds = (double)(report->last_seen_ns - report->first_seen_ns) * 1e-9;
    return report->messages > 1 && seconds > 0 ? (double)(report->messages - 1) / seconds : 0;
}

void report_live(FILE *out, const struct report *report, uint64_t now_ns)
{
    char line[LINE_WIDTH + 1]; /* one that wraps cannot be overwritten */

    snprintf(line, sizeof line,
             "  %4.0f s  %" PRIu64 " messages  %.0f a second  %" PRIu64 " lost  p50 %s",
             (double)(now_ns - report->begin_ns) * 1e-9, report->messages, rate_hz(report),
             report->lane->lost, duration(latency_percentile(&report->seen, 0.5)).text);
    fprintf(out, "\r%s\033[K", line);
    fflush(out);
}

/* ---- the figures of a run: one table, printed as text or as JSON ---- */

/* What a figure is, and so how each of the two prints it. */
enum unit {
    COUNT, /* whole */
    BAD,   /* whole; in text only where it is not 0 */
    BYTES, /* whole */
    NS,    /* whole nanoseconds; text: in the unit that suits */
    US,    /* whole nanoseconds; JSON: microseconds */
    SECONDS,
    RATE,
    PERCENT,
    COST, /* nanoseconds, with a fraction */
    NAME,
};

struct figure {
    const char *row, *label;  /* text; row NULL: JSON alone */
    const char *object, *key; /* JSON; object NULL: at the top */
    enum unit unit;
    uint64_t whole;
    double real;
    const char *name;
};

enum { FIGURES_MAX = 48 };

static double seconds_between(struct timeval begin, struct timeval end)
{
    return (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_usec - begin.tv_usec) * 1e-6;
}

/* Figures of one row, or one object, stand together. @return how many */
static size_t figures_of(const struct report *r, struct figure *out)
{
    const struct rusage *a = &r->begin_usage, *b = &r->end_usage;
    const struct waiter *w = r->waiter;
    const double elapsed_s = (double)(r->end_ns - r->begin_ns) * 1e-9;
    const double user_s = seconds_between(a->ru_utime, b->ru_utime);
    const double system_s = seconds_between(a->ru_stime, b->ru_stime);
    const uint64_t waited = w->found_spinning + w->found_sleeping;
    const uint64_t *steps = r->segment->step_ns;
    const struct figure figures[] = {
        {"messages", "", NULL, "messages", COUNT, r->messages, 0, NULL},
        {"messages", "lost", NULL, "lost", COUNT, r->lane->lost, 0, NULL},
        {"messages", "retries", NULL, "retries", COUNT, r->lane->retries, 0, NULL},
        {"messages", "bytes", NULL, "bytes", BYTES, r->bytes, 0, NULL},
        {"damaged", "CRC errors", NULL, "crc_errors", BAD, r->crc_errors, 0, NULL},
        {"damaged", "verify errors", NULL, "verify_errors", BAD, r->verify_errors, 0, NULL},
        {"time", "", NULL, "elapsed_s", SECONDS, 0, elapsed_s, NULL},
        {"time", "rate", NULL, "rate_hz", RATE, 0, rate_hz(r), NULL},
        {"host", "", NULL, "host_state", NAME, 0, 0, host_state_names[r->host]},
        {NULL, NULL, NULL, "host_pid", COUNT, r->segment->header.host_pid, 0, NULL},
        {NULL, NULL, NULL, "session", COUNT, r->segment->header.session, 0, NULL},
        {NULL, NULL, NULL, "began", COUNT, r->began, 0, NULL},
        {"waited", "", NULL, "wait", NAME, 0, 0, wait_mode_names[w->mode]},
        {"waited", "missed", NULL, "missed_wakeups", BAD, w->missed_wakeups, 0, NULL},
        {"waited", "ready", "waits", "ready", COUNT, r->messages - waited, 0, NULL},
        {"waited", "spun", "waits", "spun", COUNT, w->found_spinning, 0, NULL},
        {"waited", "slept", "waits", "slept", COUNT, w->found_sleeping, 0, NULL},
        {"waited", "displaced", "waits", "displaced", COUNT, w->displaced, 0, NULL},
        {"waited", "gap", "waits", "gap_ns", NS, w->gap_ns, 0, NULL},
        {"waited", "lateness", "waits", "lateness_ns", NS, w->lateness_ns, 0, NULL},
        {"steps", "open", "attach_us", "open", US, steps[STEP_OPEN], 0, NULL},
        {"steps", "stat", "attach_us", "stat", US, steps[STEP_STAT], 0, NULL},
        {"steps", "map", "attach_us", "map", US, steps[STEP_MAP], 0, NULL},
        {"steps", "check", "attach_us", "check", US, steps[STEP_CHECK], 0, NULL},
        {"steps", "first", "attach_us", "first", US,
         r->messages > 0 ? r->first_seen_ns - r->begin_ns : 0, 0, NULL},
        {"steps", "total", "attach_us", "total", US, r->attach_total_ns, 0, NULL},
        {"cpu", "", "cpu", "percent", PERCENT, 0,
         elapsed_s > 0 ? 100 * (user_s + system_s) / elapsed_s : 0, NULL},
        {"cpu", "user", "cpu", "user_s", SECONDS, 0, user_s, NULL},
        {"cpu", "system", "cpu", "system_s", SECONDS, 0, system_s, NULL},
        {"cpu", "faults", "cpu", "minor_faults", COUNT, (uint64_t)(b->ru_minflt - a->ru_minflt), 0,
         NULL},
        {"cpu", "switches", "cpu", "voluntary_switches", COUNT,
         (uint64_t)(b->ru_nvcsw - a->ru_nvcsw), 0, NULL},
        {"cpu", "+", "cpu", "involuntary_switches", COUNT, (uint64_t)(b->ru_nivcsw - a->ru_nivcsw),
         0, NULL},
        {"clock", "", "clock", "id", NAME, 0, 0, SHM_CLOCK_NAME},
        {"clock", "resolution", "clock", "resolution_ns", NS, r->clock.resolution_ns, 0, NULL},
        {"clock", "a call costs", "clock", "cost_ns", COST, 0, r->clock.cost_ns, NULL},
    };
    _Static_assert(sizeof figures / sizeof figures[0] <= FIGURES_MAX, "FIGURES_MAX");

    memcpy(out, figures, sizeof figures);
    return sizeof figures / sizeof figures[0];
}

static struct quantity in_words(const struct figure *f)
{
    struct quantity q;

    switch (f->unit) {
    case BYTES: return size_of((double)f->whole);
    case NS:
    case US: return duration(f->whole);
    case SECONDS: snprintf(q.text, sizeof q.text, "%.3f s", f->real); break;
    case RATE: snprintf(q.text, sizeof q.text, "%.1f a second", f->real); break;
    case PERCENT: snprintf(q.text, sizeof q.text, "%.1f %% of a core", f->real); break;
    case COST: snprintf(q.text, sizeof q.text, "%.0f ns", f->real); break;
    case NAME: snprintf(q.text, sizeof q.text, "%s", f->name); break;
    default: snprintf(q.text, sizeof q.text, "%" PRIu64, f->whole); break;
    }
    return q;
}

static bool same_text(const char *a, const char *b)
{
    return a == b || (a != NULL && b != NULL && strcmp(a, b) == 0);
}

static void print_rows(FILE *out, const struct figure *figures, size_t count)
{
    const char *row = NULL; /* the one being printed, so far up to this column */
    int column = 0;

    for (const struct figure *f = figures; f < figures + count; f++) {
        char cell[64];
        if (f->row == NULL || (f->unit == BAD && f->whole == 0))
            continue;
        int width = snprintf(cell, sizeof cell, "%s%s%s", f->label, f->label[0] ? " " : "",
                             in_words(f).text);
        const bool begins = !same_text(row, f->row);
        if (begins || column + 3 + width > LINE_WIDTH) {
            fputs(row == NULL ? "" : "\n", out);
            column = fprintf(out, "  %-12s ", begins ? f->row : "");
        } else {
            column += fprintf(out, "%s", strcmp(f->label, "+") == 0 ? " " : "   ");
        }
        row = f->row;
        column += fprintf(out, "%s", cell);
    }
    fputc('\n', out);
}

static void json_value(FILE *out, const struct figure *f)
{
    switch (f->unit) {
    case US: fprintf(out, "%.3f", (double)f->whole * 1e-3); break;
    case SECONDS: fprintf(out, "%.6f", f->real); break;
    case RATE: fprintf(out, "%.3f", f->real); break;
    case PERCENT: fprintf(out, "%.2f", f->real); break;
    case COST: fprintf(out, "%.1f", f->real); break;
    case NAME: fprintf(out, "\"%s\"", f->name); break;
    default: fprintf(out, "%" PRIu64, f->whole); break;
    }
}

/* ---- latency: the same points in both ---- */

static const struct {
    const char *text, *json;
    double fraction;
} points[] = {{"min", "min", 0},    {"p50", "p50", 0.5},       {"p90", "p90", 0.9},
              {"p99", "p99", 0.99}, {"p99.9", "p99_9", 0.999}, {"max", "max", 1}};
enum { POINTS = sizeof points / sizeof points[0] };

static void print_row(FILE *out, const char *name, const struct latency *latency)
{
    fprintf(out, "  %-16s", name);
    for (size_t i = 0; i < POINTS; i++)
        fprintf(out, " %9s", duration(latency_percentile(latency, points[i].fraction)).text);
    fputc('\n', out);
}

static void print_bars(FILE *out, const struct latency *latency)
{
    uint64_t most = 1;

    for (unsigned bit = 0; bit < 63; bit++) {
        const uint64_t count = latency_between(latency, bit ? 1ull << bit : 0, 2ull << bit);
        most = count > most ? count : most;
    }
    for (unsigned bit = 0; bit < 63; bit++) {
        const uint64_t low = bit ? 1ull << bit : 0, high = 2ull << bit;
        const uint64_t count = latency_between(latency, low, high);
        if (high <= latency->min_ns || low > latency->max_ns)
            continue;
        fprintf(out, "  below %-10s %9" PRIu64 " ", duration(high).text, count);
        for (uint64_t i = 0; i < (count * BAR_WIDTH + most - 1) / most; i++)
            fputc('#', out);
        fputc('\n', out);
    }
}

static void print_latency(FILE *out, const struct report *report)
{
    heading(out, "latency");
    if (report->foreign_clock) {
        fputs("  none: a time stamp of the host's is over a second away from our clock\n"
              "  (time namespaces?), so no age can be told\n",
              out);
        return;
    }
    fprintf(out, "  %-16s", "");
    for (size_t i = 0; i < POINTS; i++)
        fprintf(out, " %9s", points[i].text);
    fputc('\n', out);
    print_row(out, "publish -> seen", &report->seen);
    print_row(out, "due -> seen", &report->due);
    fputc('\n', out);
    print_bars(out, &report->seen);
}

static void json_latency(FILE *out, const char *key, const struct latency *latency, bool known)
{
    fprintf(out, ", \"%s\": ", key);
    if (!known || latency->count == 0) {
        fputs("null", out);
        return;
    }
    for (size_t i = 0; i < POINTS; i++)
        fprintf(out, "%s\"%s\": %" PRIu64, i ? ", " : "{", points[i].json,
                latency_percentile(latency, points[i].fraction));
    fprintf(out, ", \"mean\": %.1f}", latency_mean(latency));
}

/* ---- the whole ---- */

static void print_first(FILE *out, const struct report *report)
{
    const struct lane_message *first = &report->first;

    heading(out, "first message");
    fprintf(out, "  slot         n %" PRIu64 "   %u B", first->n, first->length);
    if (first->crc32 != 0)
        fprintf(out, "   CRC %08x", first->crc32);
    fprintf(out, "\n  time stamp   %" PRIu64 " ns\n", first->timestamp_ns);
    if (report->segment->header.payload_kind == SHM_SAMPLE &&
        first->length >= sizeof(struct shm_sample)) {
        payload_print(out, &report->first_payload.sample);
        return;
    }
    fputs("  payload     ", out);
    for (uint32_t i = 0; i < first->length && i < 20; i++)
        fprintf(out, " %02x", report->first_payload.bytes[i]);
    fprintf(out, "%s\n", first->length > 20 ? " ..." : "");
}

void report_text(FILE *out, const struct report *report)
{
    const bool received = report->messages > 0 && !report->sending;
    struct figure figures[FIGURES_MAX];

    if (report_on_terminal(out))
        fputs("\r\033[K", out); /* the live line */
    if (received)
        print_first(out, report);
    heading(out, report->sending ? "sent" : "received");
    print_rows(out, figures, figures_of(report, figures));
    if (received)
        print_latency(out, report);
}

void report_json(FILE *out, const struct report *report)
{
    struct figure figures[FIGURES_MAX];
    const size_t count = figures_of(report, figures);
    const char *object = NULL;

    for (const struct figure *f = figures; f < figures + count; f++) {
        const bool same = same_text(f->object, object);
        fputs(f == figures ? "{" : !same && object != NULL ? "}, " : ", ", out);
        if (!same)
            fprintf(out, "\"%s\": {", f->object);
        object = f->object;
        fprintf(out, "\"%s\": ", f->key);
        json_value(out, f);
    }
    fputc('}', out);
    json_latency(out, "latency_ns", &report->seen, !report->foreign_clock);
    json_latency(out, "due_latency_ns", &report->due, !report->foreign_clock);
    fputs("}\n", out);
}

void report_layout(FILE *out)
{
    fprintf(out, "%-12s %-18s %6s %6s\n", "block", "field", "offset", "size");
#define PRINT_FIELD(type, field, offset, size)                                                     \
    fprintf(out, "%-12s %-18s %6zu %6zu\n", #type, #field, offsetof(struct type, field),           \
            sizeof(((struct type *)0)->field));
    SHM_LAYOUT(PRINT_FIELD)
#define PRINT_SAMPLE(kind, name, dimension, unit, ...)                                             \
    if (strcmp(#kind, "pad") != 0)                                                                 \
    PRINT_FIELD(shm_sample, name, 0, 0)
    SHM_SAMPLE_FIELDS(PRINT_SAMPLE)
    fprintf(out, "%-12s %-18s %6u %6u\n", "segment", "header", 0u, SHM_BLOCK);
    fprintf(out, "%-12s %-18s %6u %6u\n", "segment", "status", SHM_STATUS_AT, SHM_BLOCK);
    fprintf(out, "%-12s %-18s %6zu %6u\n", "segment", "lane_down", SHM_LANE_AT(0), 3 * SHM_BLOCK);
    fprintf(out, "%-12s %-18s %6zu %6u\n", "segment", "lane_up", SHM_LANE_AT(1), 3 * SHM_BLOCK);
    fprintf(out, "%-12s %-18s %6u %6s\n", "segment", "slots", SHM_HEADER_SIZE, "-");
}
