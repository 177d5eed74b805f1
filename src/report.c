#define _GNU_SOURCE
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "client.h"
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

void report_attached(const struct client *c)
{
    const struct shm_header *header = &c->segment.header;

    heading(c->text, "attached");
    fprintf(c->text, "  segment      %s   %s\n", c->segment.name, size_of(header->total_size).text);
    fprintf(c->text, "  each lane    %u slots of %u B%s\n", header->slot_count,
            header->payload_capacity, header->flags & SHM_FLAG_CRC ? ", with CRC" : "");
    fprintf(c->text, "  host         pid %" PRIu64 "   session %016" PRIx64 "\n", header->host_pid,
            header->session);
    fflush(c->text);
}

static double rate_hz(const struct client *c)
{
    const double seconds = (double)(c->last_seen_ns - c->first_seen_ns) * 1e-9;
    return c->messages > 1 && seconds > 0 ? (double)(c->messages - 1) / seconds : 0;
}

void report_live(const struct client *c, uint64_t now_ns)
{
    char line[LINE_WIDTH + 1]; /* one that wraps cannot be overwritten */

    snprintf(line, sizeof line,
             "  %4.0f s  %" PRIu64 " messages  %.0f a second  %" PRIu64 " lost  p50 %s",
             (double)(now_ns - c->begin_ns) * 1e-9, c->messages, rate_hz(c), c->down.lost,
             duration(latency_percentile(&c->seen, 0.5)).text);
    fprintf(c->text, "\r%s\033[K", line);
    fflush(c->text);
}

/* ---- the figures of a run: one table, printed as text or as JSON ---- */

enum kind { COUNT, BAD, BYTES, NS, US, SECONDS, RATE, PERCENT, COST, NAME };
static const struct {
    int decimals; /* JSON has value / scale with so many */
    double scale;
    const char *behind; /* text has it, too, and this behind it; NULL: in three figures */
} kinds[] = {
    [COUNT] = {0, 1, ""},
    [BAD] = {0, 1, ""},         /* text: only where it is not 0 */
    [US] = {3, 1e3, NULL},      /* held in nanoseconds, as ... */
    [SECONDS] = {9, 1e9, NULL}, /* ... these */
    [RATE] = {1, 1e1, " a second"},
    [PERCENT] = {2, 1e2, " % of a core"},
    [COST] = {1, 1e1, " ns"},
    [NAME] = {0, 1, NULL}, /* has no value: its label is what it says */
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
    const char *behind = kinds[f->kind].behind;
    struct words words;

    if (f->kind == NAME)
        snprintf(words.text, sizeof words.text, json ? "\"%s\"" : "%s", f->label);
    else if (!json && behind == NULL)
        return f->kind == BYTES ? size_of(f->value) : duration(f->value);
    else if (decimals == 0)
        snprintf(words.text, sizeof words.text, "%" PRIu64, f->value);
    else
        snprintf(words.text, sizeof words.text, "%.*f%s", decimals,
                 (double)f->value / kinds[f->kind].scale, json ? "" : behind);
    return words;
}

static void text_figures(FILE *out, const struct figure *figures, size_t count)
{
    int column = 0;

    for (const struct figure *f = figures; f < figures + count; f++) {
        char cell[64];
        if (f->label == NULL || (f->kind == BAD && f->value == 0))
            continue;
        const char *label = f->kind == NAME ? "" : f->label;
        const int width = snprintf(cell, sizeof cell, "   %s%s%s", label, *label ? " " : "",
                                   in_words(f, false).text);
        if (f->row != NULL || column + width > LINE_WIDTH)
            column = fprintf(out, "%s  %-10s", f == figures ? "" : "\n", f->row ? f->row : "");
        column += fprintf(out, "%s", cell);
    }
    fputc('\n', out);
}

static void json_figures(const struct figure *figures, size_t count)
{
    const char *end = ""; /* of the object at hand */

    for (const struct figure *f = figures; f < figures + count; f++) {
        printf("%s%s", f->object ? end : "", f == figures ? "{" : ", ");
        if (f->object != NULL)
            printf("\"%s\": {", f->object);
        end = f->object ? "}" : end;
        printf("\"%s\": %s", f->key, in_words(f, true).text);
    }
    printf("%s", end);
}

static uint64_t ns_between(struct timeval begin, struct timeval end)
{
    return (uint64_t)(end.tv_sec - begin.tv_sec) * 1000000000u +
           (uint64_t)(end.tv_usec - begin.tv_usec) * 1000u;
}

static void print_figures(const struct client *c)
{
    const struct rusage *a = &c->begin_usage, *b = &c->end_usage;
    const struct waiter *w = &c->waiter;
    const uint64_t *steps = c->segment.step_ns;
    const uint64_t waited = w->found_spinning + w->found_sleeping;
    const uint64_t elapsed_ns = c->end_ns - c->begin_ns;
    const uint64_t first_ns = c->messages > 0 ? c->first_seen_ns - c->begin_ns : 0;
    const uint64_t user_ns = ns_between(a->ru_utime, b->ru_utime);
    const uint64_t system_ns = ns_between(a->ru_stime, b->ru_stime);
    const double used = (double)(user_ns + system_ns) / (double)(elapsed_ns + 1);
    const struct figure figures[] = {
        {"messages", "", NULL, "messages", COUNT, c->messages},
        {NULL, "lost", NULL, "lost", COUNT, c->down.lost},
        {NULL, "retries", NULL, "retries", COUNT, c->down.retries},
        {NULL, "bytes", NULL, "bytes", BYTES, c->bytes},
        {NULL, "CRC errors", NULL, "crc_errors", BAD, c->crc_errors},
        {NULL, "verify errors", NULL, "verify_errors", BAD, c->verify_errors},
        {"time", "", NULL, "elapsed_s", SECONDS, elapsed_ns},
        {NULL, "rate", NULL, "rate_hz", RATE, (uint64_t)(10 * rate_hz(c))},
        {"host", segment_host_names[-c->host], NULL, "host_state", NAME, 0},
        {NULL, NULL, NULL, "host_pid", COUNT, c->segment.header.host_pid},
        {NULL, NULL, NULL, "session", COUNT, c->segment.header.session},
        {NULL, NULL, NULL, "began", COUNT, c->began},
        {"waited", wait_mode_names[w->mode], NULL, "wait", NAME, 0},
        {NULL, "missed", NULL, "missed_wakeups", BAD, w->missed_wakeups},
        {NULL, "ready", "waits", "ready", COUNT, c->messages - waited},
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
        {NULL, "total", NULL, "total", US, c->attach_total_ns},
        {"cpu", "", "cpu", "percent", PERCENT, (uint64_t)(100 * 100 * used)},
        {NULL, "user", NULL, "user_s", SECONDS, user_ns},
        {NULL, "system", NULL, "system_s", SECONDS, system_ns},
        {NULL, "faults", NULL, "minor_faults", COUNT, (uint64_t)(b->ru_minflt - a->ru_minflt)},
        {NULL, "yielded", NULL, "voluntary_switches", COUNT, (uint64_t)(b->ru_nvcsw - a->ru_nvcsw)},
        {NULL, "preempted", NULL, "involuntary_switches", COUNT,
         (uint64_t)(b->ru_nivcsw - a->ru_nivcsw)},
        {"clock", SHM_CLOCK_NAME, "clock", "id", NAME, 0},
        {NULL, "resolution", NULL, "resolution_ns", NS, c->clock.resolution_ns},
        {NULL, "a call costs", NULL, "cost_ns", COST, (uint64_t)(10 * c->clock.cost_ns)},
    };

    if (c->options.json)
        json_figures(figures, sizeof figures / sizeof figures[0]);
    else
        text_figures(c->text, figures, sizeof figures / sizeof figures[0]);
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

static void print_latency(FILE *out, const struct client *c)
{
    static const char bar[] = "########################################";
    uint64_t counts[LATENCY_OCTAVES], most = 1;

    heading(out, "latency");
    if (c->foreign_clock) {
        fputs("  none: a time stamp over a second away from our clock (time namespaces?)\n", out);
        return;
    }
    print_row(out, "", NULL);
    print_row(out, "publish -> seen", &c->seen);
    print_row(out, "due -> seen", &c->due);
    fputc('\n', out);
    latency_octaves(&c->seen, counts);
    for (unsigned i = 0; i < LATENCY_OCTAVES; i++)
        most = counts[i] > most ? counts[i] : most;
    for (unsigned i = latency_octave(c->seen.min_ns); i <= latency_octave(c->seen.max_ns); i++)
        fprintf(out, "  below %-10s %9" PRIu64 " %.*s\n", duration(2ull << i).text, counts[i],
                (int)((counts[i] * (sizeof bar - 1) + most - 1) / most), bar);
}

static void json_latency(const char *key, const struct latency *latency, bool known)
{
    printf(", \"%s\": %s", key, known && latency->count > 0 ? "{" : "null");
    if (!known || latency->count == 0)
        return;
    for (size_t i = 0; i < POINTS; i++)
        printf("\"%s\": %" PRIu64 ", ", points[i].json,
               latency_percentile(latency, points[i].fraction));
    printf("\"mean\": %.1f}", latency->sum_ns / (double)latency->count);
}

/* ---- the whole ---- */

static void print_first(FILE *out, const struct client *c)
{
    const struct lane_message *first = &c->first;

    heading(out, "first message");
    fprintf(out, "  slot         n %" PRIu64 "   %u B   CRC %08x\n", first->n, first->length,
            first->crc32);
    fprintf(out, "  time stamp   %" PRIu64 " ns\n", first->timestamp_ns);
    if (c->segment.header.payload_kind == SHM_SAMPLE &&
        first->length >= sizeof(struct shm_sample)) {
        payload_print(out, c->first_payload);
        return;
    }
    fputs("  payload     ", out);
    for (uint32_t i = 0; i < first->length && i < 20; i++)
        fprintf(out, " %02x", c->first_payload[i]);
    fputs(first->length > 20 ? " ...\n" : "\n", out);
}

void report_end(const struct client *c)
{
    const bool received = c->messages > 0 && !c->options.source;

    if (c->options.json) {
        print_figures(c);
        json_latency("latency_ns", &c->seen, !c->foreign_clock);
        json_latency("due_latency_ns", &c->due, !c->foreign_clock);
        puts("}");
    } else if (!c->options.quiet) {
        if (c->next_live_ns != UINT64_MAX)
            fputs("\r\033[K", c->text);
        if (received)
            print_first(c->text, c);
        heading(c->text, c->options.source ? "sent" : "received");
        print_figures(c);
        if (received)
            print_latency(c->text, c);
    }
}

#define PRINT_PLACE(block, field, offset, size)                                                    \
    printf("%-12s %-18s %6zu %6zu\n", block, field, (size_t)(offset), (size_t)(size));
#define PRINT_FIELD(type, field, offset, size)                                                     \
    PRINT_PLACE(#type, #field, offsetof(struct type, field), sizeof(((struct type *)0)->field))
#define PRINT_SAMPLE(kind, name, dimension, unit, ...)                                             \
    if (strcmp(#kind, "pad") != 0)                                                                 \
    PRINT_FIELD(shm_sample, name, , )

void report_layout(void)
{
    printf("%-12s %-18s %6s %6s\n", "block", "field", "offset", "size");
    SHM_LAYOUT(PRINT_FIELD)
    SHM_SAMPLE_FIELDS(PRINT_SAMPLE)
    PRINT_PLACE("segment", "header", 0, SHM_BLOCK)
    PRINT_PLACE("segment", "status", SHM_STATUS_AT, SHM_BLOCK)
    PRINT_PLACE("segment", "lane_down", SHM_LANE_AT(SHM_DOWN), sizeof(struct shm_lane))
    PRINT_PLACE("segment", "lane_up", SHM_LANE_AT(SHM_UP), sizeof(struct shm_lane))
    printf("%-12s %-18s %6u %6s\n", "segment", "slots", SHM_HEADER_SIZE, "-");
}
