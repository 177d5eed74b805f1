#define _GNU_SOURCE
#include "sample.h"

#include <string.h>

#define PATTERN_MODULUS 251u

/* A sine made of two parabolas, period 1024, -1 ... 1. */
static float swing(uint64_t n)
{
    const double x = ((double)(n & 1023) - 512) / 512;
    return (float)(4 * x * (x < 0 ? 1 + x : 1 - x));
}

struct sample sample_of(uint64_t n)
{
    return (struct sample){
        .index = n,
        .time_s = (double)n * 0.001,
        .accel = {0.5f * swing(n), 0.25f * swing(n + 256), 9.8125f + 0.0625f * swing(2 * n)},
        .gyro = {0.25f * swing(n + 256), -0.125f * swing(n), 0.03125f * swing(4 * n)},
        .temperature = 36.5f + 0.25f * swing(n + 512),
    };
}

bool sample_can_match(const char *schema)
{
    return *schema == '\0' || strcmp(schema, SAMPLE_SCHEMA) == 0;
}

bool sample_matches(const char *schema, const struct shm_message *message)
{
    uint32_t i = 0;

    if (*schema != '\0') {
        const struct sample expected = sample_of(message->n);
        if (message->length < sizeof expected ||
            /* Compare bytes: the promise is about bytes. NOLINTNEXTLINE */
            memcmp(message->payload, &expected, sizeof expected) != 0)
            return false;
        i = sizeof expected;
    }
    for (uint32_t value = (uint32_t)((message->n + i) % PATTERN_MODULUS); i < message->length;
         i++) {
        if (message->payload[i] != value)
            return false;
        value = value + 1 == PATTERN_MODULUS ? 0 : value + 1;
    }
    return true;
}
