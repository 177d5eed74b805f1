#define _GNU_SOURCE
#include "report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "payload.h"

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
struct words {
    char text[32];
};

/* Three figures, in the first unit that they suit; each is step times the one before. */
static struct words scaled(double value, double step, const char *const *unit)
{
    const char *const *const smallest = unit;
    struct words words;

    for (; unit[1] != NULL && value >= step - 0.5; unit++)
        value /= step;
    const int decimals = unit == smallest || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(words.text, sizeof words.text, "%.*f %s", decimals, value, *unit);
    return words;
}

static struct words duration(uint64_t ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s", NULL};
    return scaled((double)ns, 1000, units);
}

static struct words size_of(uint64_t bytes)
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", NULL};
    return scaled((double)bytes, 1024, units);
}

void report_attached(FILE *out, const struct segment *segment)
{
    const struct shm_header *header = &segment->header;

    heading(out, "attached");
    fprintf(out, "  segment      %s   %s\n", segment->name, size_of(header->total_size).text);
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

/* JSON has value / 10^decimals; text the same and what it is, or three figures and a unit. */
enum kind { COUNT, BAD, BYTES, NS, US, SECONDS, RATE, PERCENT, COST, NAME };
static const struct {
    int decimals;
    const char *behind;
} kinds[] = {
    [BAD] = {0, ""}, /* shown where it is not 0 */
    [US] = {3, ""},  /* this and SECONDS: held in nanoseconds */
    [SECONDS] = {9, ""}, [RATE] = {1, " a second"}, [PERCENT] = {2, " % of a core"},
    [COST] = {1, " ns"}, [NAME] = {0, ""}, /* no value: its label is what it says */
};

struct figure {
    const char *row, *label;  /* text; row: the first figure has it; label NULL: JSON alone */
    const char *object, *key; /* JSON; object: the first figure has it */
    enum kind kind;
    uint64_t value;
};

static struct words in_words(const struct figure *f, bool json)
{
    const int decimals = kinds[f->kind].decimals;
    double value = (double)f->value;
    struct words words;

    if (f->kind == NAME)
        snprintf(words.text, sizeof words.text, json ? "\"%s\"" : "%s", f->label);
    else if (f->kind == BYTES && !json)
        return size_of(f->value);
    else if ((f->kind == NS || f->kind == US || f->kind == SECONDS) && !json)
        return duration(f->value);
    else if (decimals == 0)
        snprintf(words.text, sizeof words.text, "%" PRIu64, f->value);
    else {
        for (int i = 0; i < decimals; i++)
            value /= 10;
        snprintf(words.text, sizeof words.text, "%.*f%s", decimals, value,
                 json ? "" : kinds[f->kind].behind);
    }
    return words;
}

static void text_figures(FILE *out, const struct figure *figures, size_t count)
{
    int column = 0;

    for (const struct figure *f = figures; f < figures + count; f++) {
        char cell[64];
        if (f->label == NULL || (f->kind == BAD && f->value == 0))
            continue;
        const bool alone = f->kind == NAME || f->label[0] == '\0';
        const int width = snprintf(cell, sizeof cell, "   %s%s%s", alone ? "" : f->label,
                                   alone ? "" : " ", in_words(f, false).text);
        if (f->row != NULL || column + width > LINE_WIDTH)
            column = fprintf(out, "%s  %-10s", f == figures ? "" : "\n", f->row ? f->row : "");
        column += fprintf(out, "%s", cell);
    }
    fputc('\n', out);
}

static void json_figures(FILE *out, const struct figure *figures, size_t count)
{
    bool inside = false;

    for (const struct figure *f = figures; f < figures + count; f++) {
        fputs(f == figures ? "{" : f->object != NULL && inside ? "}, " : ", ", out);
        if (f->object != NULL)
            fprintf(out, "\"%s\": {", f->object);
        inside |= f->object != NULL;
        fprintf(out, "\"%s\": %s", f->key, in_words(f, true).text);
    }
    fputc('}', out);
}

static uint64_t ns_between(struct timeval begin, struct timeval end)
{
    return (uint64_t)(end.tv_sec - begin.tv_sec) * 1000000000u +
           (uint64_t)(end.tv_usec - begin.tv_usec) * 1000u;
}

static void print_figures(FILE *out, const struct report *r, bool json)
{
    const struct rusage *a = &r->begin_usage, *b = &r->end_usage;
    const struct shm_header *header = &r->segment->header;
    const struct waiter *w = r->waiter;
    const uint64_t *steps = r->segment->step_ns;
    const uint64_t waited = w->found_spinning + w->found_sleeping;
    const uint64_t elapsed_ns = r->end_ns - r->begin_ns;
    const uint64_t first_ns = r->messages > 0 ? r->first_seen_ns - r->begin_ns : 0;
    const uint64_t user_ns = ns_between(a->ru_utime, b->ru_utime);
    const uint64_t system_ns = ns_between(a->ru_stime, b->ru_stime);
    const double used = (double)(user_ns + system_ns) / (double)(elapsed_ns + 1);
    const struct figure figures[] = {
        {"messages", "", NULL, "messages", COUNT, r->messages},
        {NULL, "lost", NULL, "lost", COUNT, r->lane->lost},
        {NULL, "retries", NULL, "retries", COUNT, r->lane->retries},
        {NULL, "bytes", NULL, "bytes", BYTES, r->bytes},
        {NULL, "CRC errors", NULL, "crc_errors", BAD, r->crc_errors},
        {NULL, "verify errors", NULL, "verify_errors", BAD, r->verify_errors},
        {"time", "", NULL, "elapsed_s", SECONDS, elapsed_ns},
        {NULL, "rate", NULL, "rate_hz", RATE, (uint64_t)(10 * rate_hz(r))},
        {"host", host_state_names[r->host], NULL, "host_state", NAME, 0},
        {NULL, NULL, NULL, "host_pid", COUNT, header->host_pid},
        {NULL, NULL, NULL, "session", COUNT, header->session},
        {NULL, NULL, NULL, "began", COUNT, r->began},
        {"waited", wait_mode_names[w->mode], NULL, "wait", NAME, 0},
        {NULL, "missed", NULL, "missed_wakeups", BAD, w->missed_wakeups},
        {NULL, "ready", "waits", "ready", COUNT, r->messages - waited},
        {NULL, "spun", NULL, "spun", COUNT, w->found_spinning},
        {NULL, "slept", NULL, "slept", COUNT, w->found_sleeping},
        {NULL, "displaced", NULL, "displaced", COUNT, w->displaced},
        {NULL, "gap", NULL, "gap_ns", NS, w->gap_ns},
        {NULL, "lateness", NULL, "lateness_ns", NS, w->lateness_ns},
        {"steps", "open", "attach_us", "open", US, steps[STEP_OPEN]},
        {NULL, "stat", NULL, "stat", US, steps[STEP_STAT]},
        {NULL, "map", NULL, "map", US, steps[STEP_MAP]},
        {NULL, "check", NULL, "check", US, steps[STEP_CHECK]},
        {NULL, "first", NULL, "first", US, first_ns},
        {NULL, "total", NULL, "total", US, r->attach_total_ns},
        {"cpu", "", "cpu", "percent", PERCENT, (uint64_t)(100 * 100 * used)},
        {NULL, "user", NULL, "user_s", SECONDS, user_ns},
        {NULL, "system", NULL, "system_s", SECONDS, system_ns},
        {NULL, "faults", NULL, "minor_faults", COUNT, (uint64_t)(b->ru_minflt - a->ru_minflt)},
        {NULL, "yielded", NULL, "voluntary_switches", COUNT, (uint64_t)(b->ru_nvcsw - a->ru_nvcsw)},
        {NULL, "preempted", NULL, "involuntary_switches", COUNT,
         (uint64_t)(b->ru_nivcsw - a->ru_nivcsw)},
        {"clock", SHM_CLOCK_NAME, "clock", "id", NAME, 0},
        {NULL, "resolution", NULL, "resolution_ns", NS, r->clock.resolution_ns},
        {NULL, "a call costs", NULL, "cost_ns", COST, (uint64_t)(10 * r->clock.cost_ns)},
    };

    (json ? json_figures : text_figures)(out, figures, sizeof figures / sizeof figures[0]);
}

/* ---- latency: the same points in both ---- */

static const struct {
    const char *text, *json;
    double fraction;
} points[] = {{"min", "min", 0},    {"p50", "p50", 0.5},       {"p90", "p90", 0.9},
              {"p99", "p99", 0.99}, {"p99.9", "p99_9", 0.999}, {"max", "max", 1}};
enum { POINTS = sizeof points / sizeof points[0] };

/* latency NULL: the head of the table */
static void print_row(FILE *out, const char *name, const struct latency *latency)
{
    fprintf(out, "  %-16s", name);
    for (size_t i = 0; i < POINTS; i++)
        fprintf(out, " %9s",
                latency == NULL ? points[i].text
                                : duration(latency_percentile(latency, points[i].fraction)).text);
    fputc('\n', out);
}

static void print_latency(FILE *out, const struct report *report)
{
    static const char bar[] = "########################################";
    const struct latency *seen = &report->seen;
    uint64_t counts[LATENCY_OCTAVES], most = 1;

    heading(out, "latency");
    if (report->foreign_clock) {
        fputs("  none: a time stamp of the host's is over a second away from our clock\n"
              "  (time namespaces?), so no age can be told\n",
              out);
        return;
    }
    print_row(out, "", NULL);
    print_row(out, "publish -> seen", seen);
    print_row(out, "due -> seen", &report->due);
    fputc('\n', out);
    latency_octaves(seen, counts);
    for (unsigned i = 0; i < LATENCY_OCTAVES; i++)
        most = counts[i] > most ? counts[i] : most;
    for (unsigned i = latency_octave(seen->min_ns); i <= latency_octave(seen->max_ns); i++)
        fprintf(out, "  below %-10s %9" PRIu64 " %.*s\n", duration(2ull << i).text, counts[i],
                (int)((counts[i] * (sizeof bar - 1) + most - 1) / most), bar);
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

    if (report_on_terminal(out))
        fputs("\r\033[K", out); /* the live line */
    if (received)
        print_first(out, report);
    heading(out, report->sending ? "sent" : "received");
    print_figures(out, report, false);
    if (received)
        print_latency(out, report);
}

void report_json(FILE *out, const struct report *report)
{
    print_figures(out, report, true);
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
