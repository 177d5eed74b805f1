/* src/payload.c: the checksum's published check value, the pattern, the JSON line. */
#include <string.h>

#include "payload.h"
#include "unit.h"

int main(void)
{
    const unsigned char *digits = (const unsigned char *)"123456789";
    unsigned char payload[300];
    char line[PAYLOAD_JSON_SIZE(sizeof payload)];
    struct lane_message message = {.n = 7, .timestamp_ns = 5, .length = 300, .payload = payload};

    unit_begin();
    CHECK(payload_crc32(digits, 9, 0) == 0xCBF43926u); /* ITU-T V.42 check value */
    CHECK(payload_crc32(digits + 4, 5, payload_crc32(digits, 4, 0)) == 0xCBF43926u);
    CHECK(payload_crc32(digits, 0, 77) == 77);

    const struct shm_sample sample = payload_sample(7);
    memcpy(payload, &sample, sizeof sample);
    for (unsigned i = sizeof sample; i < sizeof payload; i++)
        payload[i] = (unsigned char)((7 + i) % 251);
    CHECK(payload_matches(SHM_SAMPLE, &message));
    for (unsigned i = 0; i < sizeof payload; i++) { /* every single byte counts */
        payload[i] ^= 1;
        CHECK(!payload_matches(SHM_SAMPLE, &message));
        payload[i] ^= 1;
    }
    message.length = 63;
    CHECK(!payload_matches(SHM_SAMPLE, &message));
    for (unsigned i = 0; i < 63; i++)
        payload[i] = (unsigned char)((7 + i) % 251);
    CHECK(payload_matches(SHM_RAW, &message));
    CHECK(!payload_matches(SHM_SAMPLE, &message));

    static const struct {
        const char *bytes, *base64;
    } cases[] = {{"", ""}, {"f", "Zg=="}, {"fo", "Zm8="}, {"foo", "Zm9v"}, {"foobar", "Zm9vYmFy"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) { /* RFC 4648, section 10 */
        char expected[128];
        message.payload = (const unsigned char *)cases[i].bytes;
        message.length = (uint32_t)strlen(cases[i].bytes);
        const int length =
            snprintf(expected, sizeof expected,
                     "{\"n\": 7, \"timestamp_ns\": 5, \"length\": %u, \"payload\": \"%s\"}\n",
                     message.length, cases[i].base64);
        CHECK(payload_json(line, SHM_RAW, &message) == (size_t)length);
        CHECK(memcmp(line, expected, (size_t)length) == 0);
    }
    return unit_end();
}
