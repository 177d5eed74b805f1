/*
 * latency.h - the shared clock, and a histogram of durations in constant memory.
 */
#ifndef LATENCY_H
#define LATENCY_H

#include <stdint.h>
#include <time.h>

/* Both programs must read the same clock. CLOCK_MONOTONIC of macOS has a resolution of 1 us only;
 * CLOCK_UPTIME_RAW, chosen by symbol because only macOS has it, has the hardware's. */
#ifdef CLOCK_UPTIME_RAW
#define SHM_CLOCK      CLOCK_UPTIME_RAW
#define SHM_CLOCK_NAME "CLOCK_UPTIME_RAW"
#else
#define SHM_CLOCK      CLOCK_MONOTONIC
#define SHM_CLOCK_NAME "CLOCK_MONOTONIC"
#endif

/* @return nanoseconds on the shared clock; cannot fail, both clocks are always there. */
uint64_t clock_now_ns(void);

struct clock_facts {
    uint64_t resolution_ns;
    double cost_ns; /* one call, the cheapest of some rounds: what every figure contains */
};
struct clock_facts clock_measure(void);

/* Log-linear buckets as in HdrHistogram: exact below 128 ns, then 128 steps an octave, so that a
 * percentile is at most 1/128 (0.8 %) above the exact one; min, max and mean are exact. */
#define LATENCY_STEP_BITS 7
#define LATENCY_STEPS     (1u << LATENCY_STEP_BITS)
#define LATENCY_BUCKETS   ((64 - LATENCY_STEP_BITS + 1) * LATENCY_STEPS)

struct latency {
    uint64_t count, min_ns, max_ns;
    double sum_ns;
    uint64_t bucket[LATENCY_BUCKETS];
};

void latency_reset(struct latency *latency);
void latency_record(struct latency *latency, uint64_t ns);

/* @param fraction 0 ... 1; the value that this part of all records does not exceed
 * @return nanoseconds, between min_ns and max_ns; 0 where nothing was recorded */
uint64_t latency_percentile(const struct latency *latency, double fraction);

/* Octave i: 2^i to just below 2^(i+1) ns; 0 ns is in the first one, too. */
#define LATENCY_OCTAVES 64
static inline unsigned latency_octave(uint64_t ns)
{
    return 63u - (unsigned)__builtin_clzll(ns | 1);
}

/* Counts the records of each. */
void latency_octaves(const struct latency *latency, uint64_t counts[LATENCY_OCTAVES]);

#endif
