#define _GNU_SOURCE
#include "report.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BAR_WIDTH 40u

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
    fprintf(out, "  segment      %s   %s   %u slots of %u B a lane%s\n", segment->name,
            size_of((double)header->total_size).text, header->slot_count, header->payload_capacity,
            header->flags & SHM_FLAG_CRC ? ", each with a CRC-32" : "");
    fprintf(out, "  host         pid %" PRIu64 "   session %016" PRIx64 "\n", header->host_pid,
            header->session);
    fprintf(out, "  steps        open %s   stat %s   map %s   check %s\n",
            duration(segment->step_ns.open).text, duration(segment->step_ns.stat).text,
            duration(segment->step_ns.map).text, duration(segment->step_ns.check).text);
    fflush(out);
}

static double rate_hz(const struct report *report)
{
    const double seconds = (double)(report->last_seen_ns - report->first_seen_ns) * 1e-9;
    return report->messages > 1 && seconds > 0 ? (double)(report->messages - 1) / seconds : 0;
}

void report_live(FILE *out, const struct report *report, uint32_t length, uint64_t now_ns)
{
    const struct shm_sample *sample = &report->live_sample;

    fprintf(out, "\r  %4.0f s  %" PRIu64 " messages  %.0f a second  %" PRIu64 " lost  p50 %s",
            (double)(now_ns - report->begin_ns) * 1e-9, report->messages, rate_hz(report),
            report->lost, duration(latency_percentile(&report->seen, 0.5)).text);
    if (report->segment->header.payload_kind == SHM_SAMPLE && length >= sizeof *sample)
        fprintf(out, "  accel %+.2f %+.2f %+.2f", (double)sample->accel[0],
                (double)sample->accel[1], (double)sample->accel[2]);
    fputs("\033[K", out);
    fflush(out);
}

static void print_first(FILE *out, const struct report *report)
{
    const struct lane_message *first = &report->first;
    const struct shm_sample *sample = &report->first_sample;
    const unsigned char *bytes = (const void *)sample;

    heading(out, "first message");
    fprintf(out, "  slot         n %" PRIu64 "   length %u B   timestamp %" PRIu64 " ns", first->n,
            first->length, first->timestamp_ns);
    if (first->crc32 != 0)
        fprintf(out, "   crc32 %08x", first->crc32);
    fputc('\n', out);
    if (report->first_kind == SHM_SAMPLE && first->length >= sizeof *sample) {
        fprintf(out, "  sample       index %" PRIu64 "   time %.3f s   temperature %.2f C\n",
                sample->index, sample->time_s, (double)sample->temperature);
        fprintf(out, "  accel        %+.4f %+.4f %+.4f m/s^2   gyro %+.4f %+.4f %+.4f rad/s\n",
                (double)sample->accel[0], (double)sample->accel[1], (double)sample->accel[2],
                (double)sample->gyro[0], (double)sample->gyro[1], (double)sample->gyro[2]);
        return;
    }
    fputs("  payload      ", out);
    for (uint32_t i = 0; i < first->length && i < 24; i++)
        fprintf(out, "%02x ", bytes[i]);
    fprintf(out, "%s\n", first->length > 24 ? "..." : "");
}

static void print_row(FILE *out, const char *name, const struct latency *latency)
{
    static const double fractions[] = {0.5, 0.9, 0.99, 0.999};

    fprintf(out, "  %-16s %9s", name, duration(latency->min_ns).text);
    for (size_t i = 0; i < sizeof fractions / sizeof fractions[0]; i++)
        fprintf(out, " %9s", duration(latency_percentile(latency, fractions[i])).text);
    fprintf(out, " %9s\n", duration(latency->max_ns).text);
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

static double cpu_seconds(struct timeval begin, struct timeval end)
{
    return (double)(end.tv_sec - begin.tv_sec) + (double)(end.tv_usec - begin.tv_usec) * 1e-6;
}

static void print_latency(FILE *out, const struct report *report)
{
    heading(out, "latency");
    if (report->clock_gap_s != 0) {
        fprintf(out,
                "  none: the host's clock and ours are %" PRId64 " s apart (time namespaces?), so "
                "no age can be told\n",
                report->clock_gap_s);
        return;
    }
    fprintf(out, "  %-16s %9s %9s %9s %9s %9s %9s\n", "", "min", "p50", "p90", "p99", "p99.9",
            "max");
    print_row(out, "publish -> seen", &report->seen);
    print_row(out, "due -> seen", &report->due);
    fprintf(out, "  clock            %s   resolution %" PRIu64 " ns   a call costs %.0f ns\n\n",
            SHM_CLOCK_NAME, report->clock.resolution_ns, report->clock.cost_ns);
    print_bars(out, &report->seen);
}

void report_text(FILE *out, const struct report *report)
{
    const bool received = report->messages > 0 && !report->sending;
    const struct rusage *a = &report->begin_usage, *b = &report->end_usage;
    const double elapsed_s = (double)(report->end_ns - report->begin_ns) * 1e-9;
    const double user = cpu_seconds(a->ru_utime, b->ru_utime);
    const double system_time = cpu_seconds(a->ru_stime, b->ru_stime);

    if (report_on_terminal(out))
        fputs("\r\033[K", out); /* the live line */
    if (received)
        print_first(out, report);
    heading(out, report->sending ? "sent" : "received");
    fprintf(out, "  messages     %" PRIu64 "   lost %" PRIu64 "   retries %" PRIu64 "   %s\n",
            report->messages, report->lost, report->retries, size_of((double)report->bytes).text);
    if (report->crc_errors || report->verify_errors)
        fprintf(out, "  damaged      crc errors %" PRIu64 "   verify errors %" PRIu64 "\n",
                report->crc_errors, report->verify_errors);
    fprintf(out, "  time         %.3f s   %.1f messages a second   %s a second\n", elapsed_s,
            rate_hz(report), size_of(elapsed_s > 0 ? (double)report->bytes / elapsed_s : 0).text);
    if (received)
        fprintf(out, "  first        %s after the claim\n",
                duration(report->first_seen_ns - report->begin_ns).text);
    if (report->reattached)
        fprintf(out, "  reattached   %" PRIu64 " times\n", report->reattached);
    fprintf(out,
            "  cpu          %.1f %% of a core (wait %s): user %.3f s, system %.3f s; %ld minor "
            "faults, %ld + %ld context switches\n",
            elapsed_s > 0 ? 100 * (user + system_time) / elapsed_s : 0, report->wait, user,
            system_time, b->ru_minflt - a->ru_minflt, b->ru_nvcsw - a->ru_nvcsw,
            b->ru_nivcsw - a->ru_nivcsw);
    fprintf(out, "  host         %s\n", host_state_names[report->host]);
    if (received)
        print_latency(out, report);
}

static void json_latency(FILE *out, const char *key, const struct latency *latency, bool known)
{
    if (!known || latency->count == 0) {
        fprintf(out, ", \"%s\": null", key);
        return;
    }
    fprintf(out,
            ", \"%s\": {\"min\": %" PRIu64 ", \"p50\": %" PRIu64 ", \"p90\": %" PRIu64
            ", \"p99\": %" PRIu64 ", \"p99_9\": %" PRIu64 ", \"max\": %" PRIu64 ", \"mean\": %.1f}",
            key, latency->min_ns, latency_percentile(latency, 0.5),
            latency_percentile(latency, 0.9), latency_percentile(latency, 0.99),
            latency_percentile(latency, 0.999), latency->max_ns, latency_mean(latency));
}

void report_json(FILE *out, const struct report *report)
{
    const struct segment *segment = report->segment;
    const struct rusage *a = &report->begin_usage, *b = &report->end_usage;
    const double elapsed_s = (double)(report->end_ns - report->begin_ns) * 1e-9;
    const double user = cpu_seconds(a->ru_utime, b->ru_utime);
    const double system_time = cpu_seconds(a->ru_stime, b->ru_stime);

    fprintf(out,
            "{\"messages\": %" PRIu64 ", \"lost\": %" PRIu64 ", \"retries\": %" PRIu64
            ", \"crc_errors\": %" PRIu64 ", \"verify_errors\": %" PRIu64 ", \"bytes\": %" PRIu64
            ", \"elapsed_s\": %.6f, \"rate_hz\": %.3f, \"session\": %" PRIu64
            ", \"host_pid\": %" PRIu64 ", \"wait\": \"%s\", \"host_state\": \"%s\"",
            report->messages, report->lost, report->retries, report->crc_errors,
            report->verify_errors, report->bytes, elapsed_s, rate_hz(report),
            segment->header.session, segment->header.host_pid, report->wait,
            host_state_names[report->host]);
    fprintf(out,
            ", \"attach_us\": {\"open\": %.3f, \"stat\": %.3f, \"map\": %.3f, \"check\": %.3f, "
            "\"first\": %.3f, \"total\": %.3f}",
            (double)segment->step_ns.open * 1e-3, (double)segment->step_ns.stat * 1e-3,
            (double)segment->step_ns.map * 1e-3, (double)segment->step_ns.check * 1e-3,
            report->messages > 0 ? (double)(report->first_seen_ns - report->begin_ns) * 1e-3 : 0,
            (double)report->attach_total_ns * 1e-3);
    json_latency(out, "latency_ns", &report->seen, report->clock_gap_s == 0);
    json_latency(out, "due_latency_ns", &report->due, report->clock_gap_s == 0);
    fprintf(out,
            ", \"clock\": {\"id\": \"%s\", \"resolution_ns\": %" PRIu64 ", \"cost_ns\": %.1f}"
            ", \"cpu\": {\"user_s\": %.6f, \"system_s\": %.6f, \"percent\": %.2f, "
            "\"minor_faults\": %ld, \"voluntary_switches\": %ld, \"involuntary_switches\": %ld}"
            ", \"reattached\": %" PRIu64 ", \"missed_wakeups\": %" PRIu64 "}\n",
            SHM_CLOCK_NAME, report->clock.resolution_ns, report->clock.cost_ns, user, system_time,
            elapsed_s > 0 ? 100 * (user + system_time) / elapsed_s : 0, b->ru_minflt - a->ru_minflt,
            b->ru_nvcsw - a->ru_nvcsw, b->ru_nivcsw - a->ru_nivcsw, report->reattached,
            report->missed_wakeups);
}

void report_peek(FILE *out, const struct segment *segment)
{
    static const char *const states[] = {"STARTING", "LIVE", "CLOSED"};
    static const char *const directions[] = {"down (host -> client)", "up (client -> host)"};
    const struct shm_header *header = &segment->header;
    const uint32_t state = atomic_load_explicit(&segment->status->state, memory_order_acquire);
    const int64_t age_ns =
        (int64_t)(clock_now_ns() -
                  atomic_load_explicit(&segment->status->heartbeat_ns, memory_order_relaxed));
    const bool gone = process_is_gone(header->host_pid);

    heading(out, segment->name);
    fprintf(out,
            "  version %u   header %u B   total %" PRIu64 " B   %u slots, stride %u B, payload "
            "up to %u B\n",
            header->version, header->header_size, header->total_size, header->slot_count,
            header->slot_stride, header->payload_capacity);
    fprintf(out, "  flags %u%s   payload kind %u   session %016" PRIx64 "\n", header->flags,
            header->flags & SHM_FLAG_CRC ? " (CRC-32)" : "", header->payload_kind, header->session);
    fprintf(out, "  host pid %" PRIu64 "%s   state %s   last heartbeat %s ago\n", header->host_pid,
            gone ? " (gone)" : "", state <= SHM_CLOSED ? states[state] : "?",
            duration(age_ns > 0 ? (uint64_t)age_ns : 0).text);
    for (int i = 0; i < 2; i++) {
        struct shm_lane *lane = (void *)((char *)segment->base + SHM_LANE_AT(i));
        const struct shm_lane owned = {
            .owner = atomic_load_explicit(&lane->owner, memory_order_relaxed)};
        fprintf(out, "  lane %d %-22s head %" PRIu64 "   cursor %" PRIu64 "   consumer %u%s%s%s\n",
                i, directions[i], atomic_load_explicit(&lane->head, memory_order_relaxed),
                atomic_load_explicit(&lane->cursor, memory_order_relaxed), owned.consumer_pid,
                owned.consumer_flags & SHM_ATTACHED ? " ATTACHED" : "",
                owned.consumer_flags & SHM_LOSSLESS ? " LOSSLESS" : "",
                owned.consumer_flags & SHM_BLOCKS ? " BLOCKS" : "");
    }
}

void report_layout(FILE *out)
{
    fprintf(out, "%-12s %-18s %6s %6s\n", "block", "field", "offset", "size");
#define PRINT_FIELD(type, field, offset, size)                                                     \
    fprintf(out, "%-12s %-18s %6zu %6zu\n", #type, #field, offsetof(struct type, field),           \
            sizeof(((struct type *)0)->field));
    SHM_LAYOUT(PRINT_FIELD)
    fprintf(out, "%-12s %-18s %6u %6u\n", "segment", "header", 0u, SHM_BLOCK);
    fprintf(out, "%-12s %-18s %6u %6u\n", "segment", "status", SHM_STATUS_AT, SHM_BLOCK);
    fprintf(out, "%-12s %-18s %6zu %6u\n", "segment", "lane_down", SHM_LANE_AT(0), 2 * SHM_BLOCK);
    fprintf(out, "%-12s %-18s %6zu %6u\n", "segment", "lane_up", SHM_LANE_AT(1), 2 * SHM_BLOCK);
    fprintf(out, "%-12s %-18s %6u %6s\n", "segment", "slots", SHM_HEADER_SIZE, "-");
}
