#include "client.h"

static unsigned bucket_of(uint64_t ns)
{
    const unsigned bits = 64u - (unsigned)__builtin_clzll(ns | HISTOGRAM_STEPS); /* at least 8 */
    const unsigned shift = bits - HISTOGRAM_STEP_BITS - 1;

    return shift * HISTOGRAM_STEPS + (unsigned)(ns >> shift);
}

static uint64_t highest_in(unsigned bucket)
{
    const uint64_t shift = bucket < HISTOGRAM_STEPS ? 0 : bucket / HISTOGRAM_STEPS - 1;

    return ((bucket - shift * HISTOGRAM_STEPS + 1) << shift) - 1;
}

void histogram_record(struct histogram *histogram, uint64_t ns)
{
    if (histogram->count++ == 0 || ns < histogram->min_ns)
        histogram->min_ns = ns;
    if (ns > histogram->max_ns)
        histogram->max_ns = ns;
    histogram->sum_ns += (double)ns;
    histogram->bucket[bucket_of(ns)]++;
}

uint64_t histogram_percentile(const struct histogram *histogram, double fraction)
{
    /* Nearest rank; the allowance keeps 0.999 * 1000 from becoming 999.0000000001. */
    const double rank = fraction * (double)histogram->count - 1e-6;
    uint64_t seen = 0;

    if (fraction <= 0)
        return histogram->min_ns;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen > 0 && (double)seen >= rank && highest_in(i) < histogram->max_ns)
            return highest_in(i);
    }
    return histogram->max_ns;
}

uint64_t histogram_below(const struct histogram *histogram, uint64_t ns)
{
    uint64_t count = 0;

    for (unsigned i = 0; i < bucket_of(ns); i++)
        count += histogram->bucket[i];
    return count;
}
