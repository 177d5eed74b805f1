/*
 * histogram.h - a histogram of durations in constant memory.
 */
#ifndef HISTOGRAM_H
#define HISTOGRAM_H

#include <stdint.h>

/* Log-linear buckets as in HdrHistogram: exact below 128 ns, then 128 steps an octave, so that a
 * percentile is at most 1/128 (0.8 %) above the exact one; min, max and mean are exact. */
#define HISTOGRAM_STEP_BITS 7
#define HISTOGRAM_STEPS     (1u << HISTOGRAM_STEP_BITS)
#define HISTOGRAM_BUCKETS   ((64 - HISTOGRAM_STEP_BITS + 1) * HISTOGRAM_STEPS)

struct histogram {
    uint64_t count, min_ns, max_ns;
    double sum_ns;
    uint64_t bucket[HISTOGRAM_BUCKETS];
};

void histogram_reset(struct histogram *histogram);
void histogram_record(struct histogram *histogram, uint64_t ns);

/* @param fraction 0 ... 1
 * @return nanoseconds that this fraction of all records does not exceed; 0: nothing was recorded */
uint64_t histogram_percentile(const struct histogram *histogram, double fraction);

/* @return how many records are below ns, where ns is exact to 1/128 */
uint64_t histogram_below(const struct histogram *histogram, uint64_t ns);

#endif
