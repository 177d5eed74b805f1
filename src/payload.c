#include "payload.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define PATTERN_MODULUS 251u

uint32_t payload_crc32(const unsigned char *bytes, size_t length, uint32_t start)
{
    static uint32_t table[256]; /* filled on first use; this program has one thread */
    uint32_t crc = ~start;

    if (table[1] == 0) {
        for (uint32_t i = 0; i < 256; i++) {
            uint32_t value = i;
            for (int bit = 0; bit < 8; bit++)
                value = (value >> 1) ^ (value & 1 ? 0xEDB88320u : 0);
            table[i] = value;
        }
    }
    for (size_t i = 0; i < length; i++)
        crc = (crc >> 8) ^ table[(crc ^ bytes[i]) & 0xff];
    return ~crc;
}

/* A sine made of two parabolas, period 1024, -1 ... 1. */
static float swing(uint64_t n)
{
    const double x = ((double)(n & 1023) - 512) / 512;
    return (float)(4 * x * (x < 0 ? 1 + x : 1 - x));
}

struct shm_sample payload_sample(uint64_t n)
{
    return (struct shm_sample){
        .index = n,
        .time_s = (double)n * 0.001,
        .accel = {0.5f * swing(n), 0.25f * swing(n + 256), 9.8125f + 0.0625f * swing(2 * n)},
        .gyro = {0.25f * swing(n + 256), -0.125f * swing(n), 0.03125f * swing(4 * n)},
        .temperature = 36.5f + 0.25f * swing(n + 512),
    };
}

bool payload_matches(uint32_t kind, const struct lane_message *message)
{
    uint32_t i = 0;

    if (kind == SHM_SAMPLE) {
        const struct shm_sample expected = payload_sample(message->n);
        if (message->length < sizeof expected ||
            /* Bytes, not members: they are what is promised. NOLINTNEXTLINE */
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

static size_t base64(char *out, const unsigned char *in, size_t length)
{
    static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    char *to = out;

    for (size_t i = 0; i < length; i += 3) {
        const size_t left = length - i;
        const uint32_t three = (uint32_t)in[i] << 16 | (left > 1 ? (uint32_t)in[i + 1] << 8 : 0) |
                               (left > 2 ? in[i + 2] : 0u);
        *to++ = digits[three >> 18];
        *to++ = digits[three >> 12 & 63];
        *to++ = left > 1 ? digits[three >> 6 & 63] : '=';
        *to++ = left > 2 ? digits[three & 63] : '=';
    }
    return (size_t)(to - out);
}

size_t payload_json(char *out, uint32_t kind, const struct lane_message *message)
{
    const size_t room = PAYLOAD_JSON_SIZE(0);
    size_t at = (size_t)snprintf(
        out, room, "{\"n\": %" PRIu64 ", \"timestamp_ns\": %" PRIu64 ", \"length\": %" PRIu32,
        message->n, message->timestamp_ns, message->length);
    struct shm_sample sample;

    if (kind == SHM_SAMPLE && message->length >= sizeof sample) {
        static const char *const before[] = {
            ", \"time_s\": ",      ", \"accel\": [", ", ", ", ", "], \"gyro\": [", ", ", ", ",
            "], \"temperature\": "};
        memcpy(&sample, message->payload, sizeof sample);
        const double values[] = {sample.time_s,           (double)sample.accel[0],
                                 (double)sample.accel[1], (double)sample.accel[2],
                                 (double)sample.gyro[0],  (double)sample.gyro[1],
                                 (double)sample.gyro[2],  (double)sample.temperature};
        at += (size_t)snprintf(out + at, room - at, ", \"index\": %" PRIu64, sample.index);
        for (size_t i = 0; i < sizeof values / sizeof values[0]; i++)
            if (isfinite(values[i]))
                at += (size_t)snprintf(out + at, room - at, "%s%.12g", before[i], values[i]);
            else /* JSON knows neither NaN nor infinity */
                at += (size_t)snprintf(out + at, room - at, "%snull", before[i]);
    } else {
        at += (size_t)snprintf(out + at, room - at, ", \"payload\": \"");
        at += base64(out + at, message->payload, message->length);
        out[at++] = '"';
    }
    out[at++] = '}';
    out[at++] = '\n';
    return at;
}
