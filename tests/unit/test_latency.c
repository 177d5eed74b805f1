/* src/latency.c against exact percentiles of the same values. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "latency.h"
#include "unit.h"

enum { COUNT = 20000 };

static int ascending(const void *a, const void *b)
{
    const uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;
    return (x > y) - (x < y);
}

static uint64_t random64(void)
{
    static uint64_t state = 0x9E3779B97F4A7C15u; /* xorshift64, fixed: the same run every time */
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    return state;
}

static void against_exact(unsigned bits)
{
    static const double fractions[] = {0, 0.001, 0.5, 0.9, 0.99, 0.999, 1};
    static struct latency latency;
    static uint64_t values[COUNT];
    double sum = 0;

    latency_reset(&latency);
    for (int i = 0; i < COUNT; i++) {
        values[i] = random64() >> (64 - 1 - random64() % bits); /* all magnitudes up to bits */
        sum += (double)values[i];
        latency_record(&latency, values[i]);
    }
    qsort(values, COUNT, sizeof values[0], ascending);
    CHECK(latency.count == COUNT && latency.min_ns == values[0]);
    CHECK(latency.max_ns == values[COUNT - 1]);
    CHECK(fabs(latency.sum_ns - sum) <= 1e-9 * sum);
    for (size_t i = 0; i < sizeof fractions / sizeof fractions[0]; i++) {
        const long rank = (long)ceil(fractions[i] * COUNT - 1e-6);
        const uint64_t exact = values[rank > 0 ? rank - 1 : 0];
        const uint64_t found = latency_percentile(&latency, fractions[i]);
        CHECK(found >= exact && found - exact <= exact / 128);
    }
    uint64_t counts[LATENCY_OCTAVES];
    latency_octaves(&latency, counts);
    for (unsigned octave = 0, i = 0; octave < LATENCY_OCTAVES; octave++) {
        for (; i < COUNT && values[i] >> octave <= 1; i++)
            counts[octave]--;
        CHECK(counts[octave] == 0);
    }
}

int main(void)
{
    static struct latency latency;

    unit_begin();
    latency_reset(&latency);
    CHECK(latency_percentile(&latency, 0.5) == 0);
    for (uint64_t i = 1; i <= 100; i++)
        latency_record(&latency, i); /* below 128 ns every value has a bucket of its own */
    CHECK(latency_percentile(&latency, 0.5) == 50 && latency_percentile(&latency, 0.99) == 99);
    CHECK(latency_percentile(&latency, 0.999) == 100);
    latency_record(&latency, UINT64_MAX);
    latency_record(&latency, 0);
    CHECK(latency.min_ns == 0 && latency_percentile(&latency, 1) == UINT64_MAX);
    against_exact(10);
    against_exact(30);
    against_exact(62);

    const struct clock_facts facts = clock_measure();
    CHECK(facts.resolution_ns > 0 && facts.cost_ns > 0 && facts.cost_ns < 1e6);
    const uint64_t earlier = clock_now_ns();
    CHECK(clock_now_ns() >= earlier);
    CHECK(strncmp(SHM_CLOCK_NAME, "CLOCK_", 6) == 0);
    return unit_end();
}
