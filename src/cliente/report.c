#define _GNU_SOURCE
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "client.h"

#define WIDTH    79    /* 80 columns, less one for the cursor */
#define INDENT   15    /* the column after a line's label */
#define ABOUT_US 2000u /* a median up to this, in ns, is "about 1 us" */
#define N        "%" PRIu64

static const struct {
    const char *name;
    double part; /* the fraction of records at or below it */
} points[] = {{"min", 0}, {"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
enum { POINTS = sizeof points / sizeof points[0] };

static const char *const host_states[] = {[-SHM_OK] = "live",
                                          [-SHM_STALLED] = "stalled",
                                          [-SHM_ENDED] = "closed",
                                          [-SHM_DIED] = "died",
                                          [-SHM_REFUSED] = "died"};

/* Returned by value: several of them go into one line. */
struct words {
    char text[32];
};

/* Three digits, in the smallest unit that has room for them. */
static struct words duration(uint64_t ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    double value = (double)ns;
    unsigned unit = 0;
    struct words words;

    for (; unit < 3 && value >= 999.5; unit++)
        value /= 1000;
    const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(words.text, sizeof words.text, "%.*f %s", decimals, value, units[unit]);
    return words;
}

/* ---- while it runs ---- */

void report_attached(struct client *c)
{
    const struct shm_header *header = &c->segment.header;
    const char *term = getenv("TERM");

    fprintf(c->text, "attached       %s: %u slots of %u B%s, host pid " N "\n", c->segment.name,
            header->slot_count, header->payload_capacity,
            header->flags & SHM_FLAG_CRC ? " + CRC" : "", header->host_pid);
    fflush(c->text);
    if (isatty(fileno(c->text)) && term != NULL && strcmp(term, "dumb") != 0)
        c->next_live_ns = shm_clock_now_ns() + 500000000u;
}

static double rate_hz(const struct figures *f)
{
    const double seconds = (double)(f->last_seen_ns - f->first_seen_ns) * 1e-9;
    return f->messages > 1 && seconds > 0 ? (double)(f->messages - 1) / seconds : 0;
}

void report_live(const struct client *c, uint64_t now_ns)
{
    const struct figures *f = &c->figures;
    struct winsize size = {.ws_col = 0};
    char line[160];

    ioctl(fileno(c->text), TIOCGWINSZ, &size);
    snprintf(line, sizeof line, "%4.0f s  " N " messages  %.0f a second  " N " lost  median %s",
             (double)(now_ns - f->begin_ns) * 1e-9, f->messages, rate_hz(f), f->lost + c->down.lost,
             duration(histogram_percentile(&f->seen, 0.5)).text);
    /* One column less than the terminal has: a line that wraps cannot be overwritten. */
    fprintf(c->text, "\r%.*s\033[K", size.ws_col > 0 ? size.ws_col - 1 : WIDTH, line);
    fflush(c->text);
}

/* ---- figures that are derived ---- */

static double seconds(struct timeval begin, struct timeval end)
{
    return (double)(end.tv_sec - begin.tv_sec) + 1e-6 * (double)(end.tv_usec - begin.tv_usec);
}

struct derived {
    double elapsed_s, rate_hz, user_s, system_s, cpu_percent;
    uint64_t ready; /* messages found without a wait */
};

static struct derived derive(const struct client *c)
{
    const struct figures *f = &c->figures;
    const uint64_t waited = c->waiter.found_spinning + c->waiter.found_sleeping;
    struct derived d = {
        .elapsed_s = 1e-9 * (double)(f->end_ns - f->begin_ns + 1),
        .rate_hz = rate_hz(f),
        .user_s = seconds(f->begin_usage.ru_utime, f->end_usage.ru_utime),
        .system_s = seconds(f->begin_usage.ru_stime, f->end_usage.ru_stime),
        .ready = f->messages > waited ? f->messages - waited : 0,
    };

    d.cpu_percent = 100 * (d.user_s + d.system_s) / d.elapsed_s;
    return d;
}

/* ---- text ---- */

static void print_bars(FILE *out, const struct histogram *histogram)
{
    static const char bar[] = "########################################";
    static const uint64_t ends_ns[] = {1000, 10000, 100000, 1000000, UINT64_MAX};
    static const char *const labels[] = {"below 1 us", "below 10 us", "below 100 us", "below 1 ms",
                                         "1 ms and more"};

    for (size_t i = 0, before = 0; i < sizeof ends_ns / sizeof ends_ns[0]; i++) {
        const uint64_t count = histogram_below(histogram, ends_ns[i]) - before;
        const int length =
            (int)((count * (sizeof bar - 1) + histogram->count - 1) / histogram->count);
        fprintf(out, "%-15s%10" PRIu64 " %.*s\n", labels[i], count, length, bar);
        before += count;
    }
}

/* Prints text in lines of WIDTH, broken at blanks where it has any. */
static void print_folded(FILE *out, const char *label, const char *text)
{
    const size_t room = WIDTH - INDENT;

    while (*text != '\0') {
        size_t length = strlen(text) > room ? room : strlen(text);
        while (text[length] != '\0' && length > 1 && text[length] != ' ')
            length--;
        length = length > 1 ? length : room;
        fprintf(out, "%-*s%.*s\n", INDENT, label, (int)length, text);
        text += length + (text[length] == ' ');
        label = "";
    }
}

/* @return why the median is above "about 1 us", which a person expects; or "" */
static const char *why_slow(const struct client *c, uint64_t ready)
{
    const struct shm_waiter *w = &c->waiter;
    const uint64_t half = c->figures.messages / 2;

    if (histogram_percentile(&c->figures.seen, 0.5) <= ABOUT_US)
        return "";
    if (w->mode == SHM_WAIT_BLOCK)
        return "it slept until each message woke it (--wait block)";
    if (w->one_cpu)
        return "it may use one CPU only, and its host needs that, too";
    if (ready > half)
        return "it fell behind: too many messages for the CPU that it got";
    if (w->found_spinning < half)
        return "other programs had the CPUs, or the messages came off schedule";
    return "its host ran on the same CPU, or this machine is slow";
}

static void print_counts(FILE *out, const struct client *c, const struct derived *d)
{
    const struct figures *f = &c->figures;
    const struct shm_waiter *w = &c->waiter;

    fprintf(out, "%-15s" N " in %.2f s, %.1f a second; lost " N,
            c->options.source ? "sent" : "messages", f->messages, d->elapsed_s, d->rate_hz,
            f->lost);
    if (c->options.newest)
        fprintf(out, ", skipped " N, f->skipped);
    if (f->crc_errors + f->verify_errors > 0)
        fprintf(out, "; wrong CRC " N ", wrong bytes " N, f->crc_errors, f->verify_errors);
    fprintf(out, "\nwaited         %s: " N " times spinning, " N " asleep, " N " not at all",
            wait_mode_names[w->mode], w->found_spinning, w->found_sleeping, d->ready);
    fprintf(out, "\ncpu            %.1f %% of a core; host %s\n", d->cpu_percent,
            host_states[-c->segment.host]);
}

static void print_latency(FILE *out, const struct client *c)
{
    const struct histogram *const rows[] = {&c->figures.seen, &c->figures.due};
    static const char *const labels[] = {"publish -> seen", "due -> seen"};

    fprintf(out, "\n%-*s", INDENT, "latency");
    for (size_t i = 0; i < POINTS; i++)
        fprintf(out, " %9s", points[i].name);
    for (size_t row = 0; row < 2; row++) {
        fprintf(out, "\n%-*s", INDENT, labels[row]);
        for (size_t i = 0; i < POINTS; i++)
            fprintf(out, " %9s", duration(histogram_percentile(rows[row], points[i].part)).text);
    }
    fputc('\n', out);
    print_bars(out, rows[0]);
}

static void print_text(FILE *out, const struct client *c, const struct derived *d)
{
    const bool received = c->figures.messages > 0 && !c->options.source;

    if (c->next_live_ns != UINT64_MAX)
        fputs("\r\033[K", out);
    if (received)
        print_folded(out, "first message", c->first);
    print_counts(out, c, d);
    if (received && c->figures.foreign_clock)
        print_folded(out, "no latency",
                     "a time stamp was over a second away from our clock (time namespaces?)");
    else if (received) {
        print_folded(out, "why not 1 us", why_slow(c, d->ready));
        print_latency(out, c);
    }
}

/* ---- JSON ---- */

/* keys: separated by blanks; values: one for each key. */
static void json_numbers(const char *keys, const double *values)
{
    for (const char *comma = ""; *keys != '\0'; comma = ", ") {
        const size_t length = strcspn(keys, " ");
        printf("%s\"%.*s\": %.15g", comma, (int)length, keys, *values++);
        keys += length + (keys[length] == ' ');
    }
}

static void json_latency(const char *key, const struct histogram *histogram, bool known)
{
    double values[POINTS + 1] = {[POINTS] = histogram->sum_ns / (double)histogram->count};

    for (size_t i = 0; i < POINTS; i++)
        values[i] = (double)histogram_percentile(histogram, points[i].part);
    known = known && histogram->count > 0;
    printf(known ? ", \"%s\": {" : ", \"%s\": null", key);
    if (known)
        json_numbers("min p50 p90 p99 p99_9 max mean", values);
    printf(known ? "}" : "");
}

/* cost_ns: the time of one call, in the fastest round; every figure contains it. */
static void json_clock(void)
{
    enum { ROUNDS = 16, CALLS = 200 };
    struct timespec resolution = {0, 0};
    uint64_t least_ns = UINT64_MAX;

    clock_getres(SHM_CLOCK, &resolution);
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t begin_ns = shm_clock_now_ns();
        for (int call = 1; call < CALLS; call++)
            shm_clock_now_ns();
        const uint64_t cost_ns = shm_clock_now_ns() - begin_ns;
        least_ns = cost_ns < least_ns ? cost_ns : least_ns;
    }
    printf(", \"clock\": {\"id\": \"%s\", ", SHM_CLOCK_NAME);
    json_numbers("resolution_ns cost_ns",
                 (double[]){1e9 * (double)resolution.tv_sec + (double)resolution.tv_nsec,
                            (double)least_ns / CALLS});
}

#define D (double)

static void print_json(const struct client *c, const struct derived *d)
{
    const struct figures *f = &c->figures;
    const struct shm_header *header = &c->segment.header;
    const struct shm_waiter *w = &c->waiter;
    const uint64_t *steps = c->segment.step_ns;
    const struct rusage *a = &f->begin_usage, *b = &f->end_usage;

    printf("{\"wait\": \"%s\", \"host_state\": \"%s\", \"session\": \"" N "\", ",
           wait_mode_names[w->mode], host_states[-c->segment.host], header->session);
    json_numbers("messages lost skipped retries crc_errors verify_errors bytes elapsed_s rate_hz "
                 "host_pid missed_wakeups began reconnects",
                 (double[]){D f->messages, D f->lost, D f->skipped, D f->retries, D f->crc_errors,
                            D f->verify_errors, D f->bytes, d->elapsed_s, d->rate_hz,
                            D header->host_pid, D w->missed_wakeups, D f->began, D f->reconnects});
    printf(", \"waits\": {");
    json_numbers("ready spun slept displaced gap_ns lateness_ns off_cpu",
                 (double[]){D d->ready, D w->found_spinning, D w->found_sleeping, D w->displaced,
                            D w->gap_ns, D w->lateness_ns, w->off_cpu});
    printf("}, \"attach_us\": {");
    json_numbers("open stat map check first total",
                 (double[]){1e-3 * D steps[SHM_STEP_OPEN], 1e-3 * D steps[SHM_STEP_STAT],
                            1e-3 * D steps[SHM_STEP_MAP], 1e-3 * D steps[SHM_STEP_CHECK],
                            f->messages > 0 ? 1e-3 * D(f->first_seen_ns - f->begin_ns) : 0,
                            1e-3 * D f->attach_ns});
    printf("}, \"cpu\": {");
    json_numbers("user_s system_s percent minor_faults voluntary_switches involuntary_switches",
                 (double[]){d->user_s, d->system_s, d->cpu_percent, D(b->ru_minflt - a->ru_minflt),
                            D(b->ru_nvcsw - a->ru_nvcsw), D(b->ru_nivcsw - a->ru_nivcsw)});
    printf("}");
    json_latency("latency_ns", &f->seen, !f->foreign_clock);
    json_latency("due_latency_ns", &f->due, !f->foreign_clock);
    json_clock();
    puts("}}");
}

void report_end(const struct client *c)
{
    const struct derived d = derive(c);

    if (c->options.json)
        print_json(c, &d);
    else if (!c->options.quiet)
        print_text(c->text, c, &d);
}
