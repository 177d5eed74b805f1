#include "histogram.h"

#include <string.h>

static unsigned bucket_of(uint64_t ns)
{
    if (ns < HISTOGRAM_STEPS)
        return (unsigned)ns;
    const unsigned shift = 63u - (unsigned)__builtin_clzll(ns) - HISTOGRAM_STEP_BITS;
    return (shift + 1) * HISTOGRAM_STEPS + (unsigned)((ns >> shift) - HISTOGRAM_STEPS);
}

static uint64_t highest_in(unsigned bucket)
{
    if (bucket < HISTOGRAM_STEPS)
        return bucket;
    const unsigned shift = bucket / HISTOGRAM_STEPS - 1;
    return (((uint64_t)(bucket % HISTOGRAM_STEPS) + HISTOGRAM_STEPS) << shift) +
           (((uint64_t)1 << shift) - 1);
}

void histogram_reset(struct histogram *histogram)
{
    memset(histogram, 0, sizeof *histogram);
    histogram->min_ns = UINT64_MAX;
}

void histogram_record(struct histogram *histogram, uint64_t ns)
{
    histogram->count++;
    histogram->sum_ns += (double)ns;
    histogram->bucket[bucket_of(ns)]++;
    if (ns < histogram->min_ns)
        histogram->min_ns = ns;
    if (ns > histogram->max_ns)
        histogram->max_ns = ns;
}

uint64_t histogram_percentile(const struct histogram *histogram, double fraction)
{
    if (histogram->count == 0)
        return 0;
    if (fraction <= 0)
        return histogram->min_ns;
    /* Nearest rank: the smallest value with at least fraction * count records at or below it. The
     * small allowance keeps 0.999 * 1000 from becoming 999.0000000001. */
    const double rank = fraction * (double)histogram->count - 1e-6;
    uint64_t seen = 0;
    for (unsigned i = 0; i < HISTOGRAM_BUCKETS; i++) {
        seen += histogram->bucket[i];
        if (seen > 0 && (double)seen >= rank)
            return highest_in(i) < histogram->max_ns ? highest_in(i) : histogram->max_ns;
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
