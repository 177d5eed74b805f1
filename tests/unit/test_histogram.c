/* src/cliente/histogram.c against exact percentiles of the same values. */
#include "client.h"

#include <math.h>

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
    static struct histogram histogram;
    static uint64_t values[COUNT];
    double sum = 0;

    memset(&histogram, 0, sizeof histogram);
    for (int i = 0; i < COUNT; i++) {
        values[i] = random64() >> (64 - 1 - random64() % bits); /* all magnitudes up to bits */
        sum += (double)values[i];
        histogram_record(&histogram, values[i]);
    }
    qsort(values, COUNT, sizeof values[0], ascending);
    CHECK(histogram.count == COUNT && histogram.min_ns == values[0]);
    CHECK(histogram.max_ns == values[COUNT - 1]);
    CHECK(fabs(histogram.sum_ns - sum) <= 1e-9 * sum);
    for (size_t i = 0; i < sizeof fractions / sizeof fractions[0]; i++) {
        const long rank = (long)ceil(fractions[i] * COUNT - 1e-6);
        const uint64_t exact = values[rank > 0 ? rank - 1 : 0];
        const uint64_t found = histogram_percentile(&histogram, fractions[i]);
        CHECK(found >= exact && found - exact <= exact / 128);
    }
    for (unsigned octave = 0, i = 0; octave < 63; octave++) {
        while (i < COUNT && values[i] >> octave == 0)
            i++;
        CHECK(histogram_below(&histogram, UINT64_C(1) << octave) == i);
    }
}

int main(void)
{
    static struct histogram histogram;

    unit_begin();
    CHECK(histogram_percentile(&histogram, 0.5) == 0);
    for (uint64_t i = 1; i <= 100; i++)
        histogram_record(&histogram, i); /* below 128 ns every value has a bucket of its own */
    CHECK(histogram_percentile(&histogram, 0.5) == 50);
    CHECK(histogram_percentile(&histogram, 0.99) == 99);
    CHECK(histogram_percentile(&histogram, 0.999) == 100);
    histogram_record(&histogram, UINT64_MAX);
    histogram_record(&histogram, 0);
    CHECK(histogram.min_ns == 0 && histogram_percentile(&histogram, 1) == UINT64_MAX);
    against_exact(10);
    against_exact(30);
    against_exact(62);
    return unit_end();
}
