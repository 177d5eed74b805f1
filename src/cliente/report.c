#include "client.h"

#include <stdarg.h>
#include <sys/ioctl.h>

#define WIDTH 79 /* 80 columns, less one for the cursor */
#define D     (double)

/* min p50 p90 p99 p99.9 max: the fraction of records at or below each */
static const double points[] = {0, 0.5, 0.9, 0.99, 0.999, 1};
enum { POINTS = sizeof points / sizeof points[0] };

static const char *const host_states[] = {[-SHM_OK] = "live",
                                          [-SHM_STALLED] = "stalled",
                                          [-SHM_ENDED] = "closed",
                                          [-SHM_DIED] = "died",
                                          [-SHM_REFUSED] = "died"};

/* Three digits, in the smallest unit that has room for them. Valid until the next call. */
static const char *duration(uint64_t ns)
{
    static const char *const units[] = {"ns", "us", "ms", "s"};
    static char text[32];
    double value = (double)ns;
    unsigned unit = 0;

    for (; unit < 3 && value >= 999.5; unit++)
        value /= 1000;
    const int decimals = unit == 0 || value >= 99.95 ? 0 : value >= 9.995 ? 1 : 2;
    snprintf(text, sizeof text, "%.*f %s", decimals, value, units[unit]);
    return text;
}

static double elapsed_s(const struct figures *f)
{
    return 1e-9 * (double)(f->end_ns - f->begin_ns + 1);
}

static double rate_hz(const struct figures *f)
{
    const double seconds = 1e-9 * (double)(f->last_seen_ns - f->first_seen_ns);
    return f->messages > 1 && seconds > 0 ? (double)(f->messages - 1) / seconds : 0;
}

static double between_s(struct timeval begin, struct timeval end)
{
    return (double)(end.tv_sec - begin.tv_sec) + 1e-6 * (double)(end.tv_usec - begin.tv_usec);
}

static double cpu_percent(const struct figures *f)
{
    const struct rusage *a = &f->begin_usage, *b = &f->end_usage;
    const double cpu_s = between_s(a->ru_utime, b->ru_utime) + between_s(a->ru_stime, b->ru_stime);
    return 100 * cpu_s / elapsed_s(f);
}

/* @return how many messages were there without a wait */
static uint64_t ready(const struct client *c)
{
    const uint64_t waited = c->waiter.found_spinning + c->waiter.found_sleeping;
    return c->figures.messages > waited ? c->figures.messages - waited : 0;
}

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

void report_live(const struct client *c, uint64_t now_ns)
{
    const struct figures *f = &c->figures;
    struct winsize size = {.ws_col = 0};
    char line[160];

    ioctl(fileno(c->text), TIOCGWINSZ, &size);
    snprintf(line, sizeof line, "%4.0f s  " N " messages  %.0f a second  " N " lost  median %s",
             1e-9 * (double)(now_ns - f->begin_ns), f->messages, rate_hz(f), c->down.lost,
             duration(histogram_percentile(&f->seen, 0.5)));
    /* One column less than the terminal has: a line that wraps cannot be overwritten. */
    fprintf(c->text, "\r%.*s\033[K", size.ws_col > 0 ? size.ws_col - 1 : WIDTH, line);
    fflush(c->text);
}

/* Prints lines of WIDTH, broken at blanks where there are any. Nothing, if the text is empty. */
__attribute__((format(printf, 3, 4))) static void print_folded(FILE *out, const char *label,
                                                               const char *format, ...)
{
    const size_t room = WIDTH - 15;
    char whole[256], *text = whole;
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(whole, sizeof whole, format, arguments);
    va_end(arguments);
    while (*text != '\0') {
        size_t length = strlen(text) > room ? room : strlen(text);
        while (text[length] != '\0' && length > 1 && text[length] != ' ')
            length--;
        length = length > 1 ? length : room;
        fprintf(out, "%-15s%.*s\n", label, (int)length, text);
        text += length + (text[length] == ' ');
        label = "";
    }
}

/* @return why the median is above "about 1 us", which a person expects; or "" */
static const char *why_slow(const struct client *c)
{
    const struct shm_waiter *w = &c->waiter;
    const uint64_t half = c->figures.messages / 2;

    if (histogram_percentile(&c->figures.seen, 0.5) <= 2000)
        return "";
    if (w->mode == SHM_WAIT_BLOCK)
        return "it slept until each message woke it (--wait block)";
    if (w->one_cpu)
        return "it may use one CPU only, and its host needs that, too";
    if (ready(c) > half)
        return "it fell behind: too many messages for the CPU that it got";
    if (w->found_spinning < half || 64 * w->displaced > c->figures.messages)
        return "other programs had the CPUs, or the messages came off schedule";
    return "its host ran on the same CPU, or this machine is slow";
}

static void print_latency(FILE *out, const struct histogram *seen, const struct histogram *due)
{
    static const char bar[] = "########################################";
    static const uint64_t ends_ns[] = {1000, 10000, 100000, 1000000, UINT64_MAX};
    static const char *const labels[] = {"below 1 us", "below 10 us", "below 100 us", "below 1 ms",
                                         "1 ms and more"};

    fputs("\nlatency               min       p50       p90       p99     p99.9       max\n", out);
    fputs("publish -> seen", out);
    for (size_t i = 0; i < POINTS; i++)
        fprintf(out, " %9s", duration(histogram_percentile(seen, points[i])));
    fputs("\ndue -> seen    ", out);
    for (size_t i = 0; i < POINTS; i++)
        fprintf(out, " %9s", duration(histogram_percentile(due, points[i])));
    for (size_t i = 0, before = 0; i < sizeof ends_ns / sizeof ends_ns[0]; i++) {
        const uint64_t count = histogram_below(seen, ends_ns[i]) - before;
        const uint64_t length = (count * (sizeof bar - 1) + seen->count - 1) / seen->count;
        fprintf(out, "\n%-15s%10" PRIu64 " %.*s", labels[i], count, (int)length, bar);
        before += count;
    }
    fputc('\n', out);
}

void report_text(const struct client *c)
{
    FILE *out = c->text;
    const struct figures *f = &c->figures;
    const struct shm_waiter *w = &c->waiter;
    const bool received = f->seen.count > 0;

    if (c->next_live_ns != UINT64_MAX)
        fputs("\r\033[K", out);
    if (received)
        print_folded(out, "first message", "%s", c->first);
    print_folded(out, c->options.source ? "sent" : "messages",
                 N " in %.2f s, %.1f a second; lost " N, f->messages, elapsed_s(f), rate_hz(f),
                 c->down.lost);
    if (c->options.newest)
        print_folded(out, "skipped", N, c->down.skipped);
    print_folded(out, "waited", "%s: " N " times spinning, " N " asleep, " N " not at all",
                 c->options.wait_name, w->found_spinning, w->found_sleeping, ready(c));
    print_folded(out, "cpu", "%.1f %% of a core; host %s", cpu_percent(f),
                 host_states[-c->segment.host]);
    if (received && f->foreign_clock)
        print_folded(out, "no latency", "%s",
                     "a time stamp was over a second away from our clock (time namespaces?)");
    else if (received) {
        print_folded(out, "why not 1 us", "%s", why_slow(c));
        print_latency(out, &f->seen, &f->due);
    }
}

/* keys: separated by blanks; values: one for each key. */
static void json_numbers(const char *before, const char *keys, const double *values)
{
    for (; *keys != '\0'; before = ", ") {
        const size_t length = strcspn(keys, " ");
        printf("%s\"%.*s\": %.15g", before, (int)length, keys, *values++);
        keys += length + (keys[length] == ' ');
    }
}

static void json_latency(const char *key, const struct histogram *histogram, bool known)
{
    double values[POINTS + 1] = {[POINTS] = histogram->sum_ns / (double)histogram->count};

    for (size_t i = 0; i < POINTS; i++)
        values[i] = (double)histogram_percentile(histogram, points[i]);
    printf(known ? ", \"%s\": " : ", \"%s\": null", key);
    if (known)
        json_numbers("{", "min p50 p90 p99 p99_9 max mean", values);
    printf(known ? "}" : "");
}

void report_json(const struct client *c)
{
    const struct figures *f = &c->figures;
    const struct shm_waiter *w = &c->waiter;
    const uint64_t *steps = c->segment.step_ns;
    const struct rusage *a = &f->begin_usage, *b = &f->end_usage;
    const bool known = f->seen.count > 0 && !f->foreign_clock;
    struct timespec resolution = {0, 0};

    printf("{\"wait\": \"%s\", \"host_state\": \"%s\", \"session\": \"" N "\"",
           c->options.wait_name, host_states[-c->segment.host], c->segment.header.session);
    json_numbers(", ",
                 "messages lost skipped retries crc_errors verify_errors bytes elapsed_s rate_hz "
                 "host_pid missed_wakeups began reconnects",
                 (double[]){D f->messages, D c->down.lost, D c->down.skipped, D c->down.retries,
                            D f->crc_errors, D f->verify_errors, D f->bytes, elapsed_s(f),
                            rate_hz(f), D c->segment.header.host_pid, D w->missed_wakeups,
                            D f->began, D f->reconnects});
    json_numbers(", \"waits\": {", "ready spun slept displaced gap_ns lateness_ns off_cpu",
                 (double[]){D ready(c), D w->found_spinning, D w->found_sleeping, D w->displaced,
                            D w->gap_ns, D w->lateness_ns, w->off_cpu});
    json_numbers("}, \"attach_us\": {", "open stat map check first total",
                 (double[]){1e-3 * D steps[SHM_STEP_OPEN], 1e-3 * D steps[SHM_STEP_STAT],
                            1e-3 * D steps[SHM_STEP_MAP], 1e-3 * D steps[SHM_STEP_CHECK],
                            f->messages > 0 ? 1e-3 * D(f->first_seen_ns - f->begin_ns) : 0,
                            1e-3 * D f->attach_ns});
    json_numbers("}, \"cpu\": {",
                 "user_s system_s percent minor_faults voluntary_switches involuntary_switches",
                 (double[]){between_s(a->ru_utime, b->ru_utime),
                            between_s(a->ru_stime, b->ru_stime), cpu_percent(f),
                            D(b->ru_minflt - a->ru_minflt), D(b->ru_nvcsw - a->ru_nvcsw),
                            D(b->ru_nivcsw - a->ru_nivcsw)});
    printf("}");
    json_latency("latency_ns", &f->seen, known);
    json_latency("due_latency_ns", &f->due, known);
    clock_getres(SHM_CLOCK, &resolution);
    const uint64_t begin_ns = shm_clock_now_ns();
    for (int call = 1; call < 1000; call++)
        shm_clock_now_ns();
    const double cost_ns = 1e-3 * D(shm_clock_now_ns() - begin_ns); /* every figure contains it */
    printf(", \"clock\": {\"id\": \"%s\"", SHM_CLOCK_NAME);
    json_numbers(", ", "resolution_ns cost_ns",
                 (double[]){1e9 * D resolution.tv_sec + D resolution.tv_nsec, cost_ns});
    puts("}}");
}

#define PRINT_FIELD(block, field, offset, size, type)                                              \
    printf("%-15s %-17s %6zu %5zu %s\n", #block, #field, (size_t)(offset), (size_t)(size), type);

static const char facts[] =
    "\n/dev/shm/NAME on Linux; sizes and offsets (in a block) in bytes; %s endian.\n"
    "Lane_up's slots follow lane_down's. Message n (from 1): slot n %% slot_count.\n"
    "magic      " SHM_MAGIC "\n"
    "version    %u\n"
    "flags      bit 0: every message has a CRC-32\n"
    "state      %d starting, %d live, %d closed\n"
    "cpu        the host's CPU at its last heartbeat + 1; 0: unknown\n"
    "place      high 16 bits: epoch, odd: held, even: left; low 48 bits: messages the\n"
    "           consumer is done with, all ones: it is claiming\n"
    "locks      of a byte (Linux: F_OFD_SETLK) while their holder lives: 0 host, 1\n"
    "           consumer of lane_down, 2 producer of lane_up, 3 consumer of lane_up\n"
    "seq        2n-1: message n is being written; 2n: it is whole\n"
    "crc32      zlib.crc32(payload, n & 0xffffffff), or 0\n"
    "*_ns       %s; due_ns is timestamp_ns where there is no schedule\n"
    "schema     NAME:[COUNT]TYPE, or gap :[COUNT]x, one blank between; \"\": raw bytes.\n"
    "           NAME [A-Za-z_][A-Za-z0-9_]*, unique. TYPE b B (8 bits, signed, not)\n"
    "           h H (16) i I (32) q Q (64) f d (float) ? (bool) s (COUNT bytes, text)\n";

void report_layout(void)
{
    const size_t lane = sizeof(struct shm_lane_block);

    printf("%-15s %-17s %6s %5s %s\n", "block", "field", "offset", "size", "type");
    SHM_LAYOUT(PRINT_FIELD)
    PRINT_FIELD(shm_slot, payload, offsetof(struct shm_slot, payload), 0, "bytes")
    PRINT_FIELD(segment, header, 0, sizeof(struct shm_header), "shm_header")
    PRINT_FIELD(segment, status, SHM_STATUS_AT, sizeof(struct shm_status), "shm_status")
    PRINT_FIELD(segment, lane_down, SHM_LANE_AT(SHM_DOWN), lane, "shm_lane_block")
    PRINT_FIELD(segment, lane_up, SHM_LANE_AT(SHM_UP), lane, "shm_lane_block")
    PRINT_FIELD(segment, slots, SHM_HEADER_SIZE, 0, "shm_slot[]")
    printf(facts, __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? "little" : "big", SHM_VERSION,
           SHM_STATE_STARTING, SHM_STATE_LIVE, SHM_STATE_CLOSED, SHM_CLOCK_NAME);
}
