#include "client.h"

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

bool sample_matches(const char *schema, const struct shm_message *message)
{
    const struct sample expected = sample_of(message->n);
    const uint32_t head = *schema == '\0' ? 0 : sizeof expected;
    const uint32_t first = (uint32_t)(message->n % 251);

    /* Compare bytes: the promise is about bytes. NOLINTNEXTLINE */
    if (message->length < head || memcmp(message->payload, &expected, head) != 0)
        return false;
    for (uint32_t i = head; i < message->length; i++)
        if (message->payload[i] != (first + i) % 251)
            return false;
    return true;
}
