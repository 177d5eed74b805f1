#define _GNU_SOURCE
#include "latency.h"

#include <string.h>

uint64_t clock_now_ns(void)
{
    struct timespec t;
    clock_gettime(SHM_CLOCK, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

struct clock_facts clock_measure(void)
{
    enum { ROUNDS = 16, CALLS = 200 };
    struct clock_facts facts = {.resolution_ns = 0, .cost_ns = 1e9};
    struct timespec resolution;

    if (clock_getres(SHM_CLOCK, &resolution) == 0)
        facts.resolution_ns =
            (uint64_t)resolution.tv_sec * 1000000000u + (uint64_t)resolution.tv_nsec;
    for (int round = 0; round < ROUNDS; round++) {
        const uint64_t begin = clock_now_ns();
        uint64_t end = begin;
        for (int call = 0; call < CALLS; call++)
            end = clock_now_ns();
        const double cost = (double)(end - begin) / CALLS;
        if (cost < facts.cost_ns)
            facts.cost_ns = cost;
    }
    return facts;
}

static unsigned bucket_of(uint64_t ns)
{
    if (ns < LATENCY_STEPS)
        return (unsigned)ns;
    const unsigned shift = latency_octave(ns) - LATENCY_STEP_BITS;
    return (shift + 1) * LATENCY_STEPS + (unsigned)((ns >> shift) - LATENCY_STEPS);
}

static uint64_t highest_in(unsigned bucket)
{
    if (bucket < LATENCY_STEPS)
        return bucket;
    const unsigned shift = bucket / LATENCY_STEPS - 1;
    return (((uint64_t)(bucket % LATENCY_STEPS) + LATENCY_STEPS) << shift) +
           (((uint64_t)1 << shift) - 1);
}

void latency_reset(struct latency *latency)
{
    memset(latency, 0, sizeof *latency);
    latency->min_ns = UINT64_MAX;
}

void latency_record(struct latency *latency, uint64_t ns)
{
    latency->count++;
    latency->sum_ns += (double)ns;
    latency->bucket[bucket_of(ns)]++;
    if (ns < latency->min_ns)
        latency->min_ns = ns;
    if (ns > latency->max_ns)
        latency->max_ns = ns;
}

uint64_t latency_percentile(const struct latency *latency, double fraction)
{
    if (latency->count == 0)
        return 0;
    if (fraction <= 0)
        return latency->min_ns;
    /* Nearest rank: the smallest value with at least fraction * count records at or below it. The
     * small allowance keeps 0.999 * 1000 from becoming 999.0000000001. */
    const double rank = fraction * (double)latency->count - 1e-6;
    uint64_t seen = 0;
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++) {
        seen += latency->bucket[i];
        if (seen > 0 && (double)seen >= rank)
            return highest_in(i) < latency->max_ns ? highest_in(i) : latency->max_ns;
    }
    return latency->max_ns;
}

void latency_octaves(const struct latency *latency, uint64_t counts[LATENCY_OCTAVES])
{
    memset(counts, 0, LATENCY_OCTAVES * sizeof counts[0]);
    for (unsigned i = 0; i < LATENCY_BUCKETS; i++)
        counts[latency_octave(highest_in(i))] += latency->bucket[i];
}
