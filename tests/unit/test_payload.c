/* src/payload.c: the checksum's published check value, the pattern, the fields in words. */
#include <math.h>
#include <string.h>

#include "payload.h"
#include "unit.h"

static unsigned char payload[300];
static struct lane_message message = {.n = 7, .timestamp_ns = 5, .payload = payload};

static void pattern(void)
{
    const struct shm_sample sample = shm_sample_of(7);

    message.length = sizeof payload;
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
}

/* The line of this sample, without what comes before its fields. */
static void gives(const struct shm_sample *sample, const char *fields)
{
    char line[PAYLOAD_JSON_SIZE], expected[1024];

    memcpy(payload, sample, sizeof *sample);
    message.length = sizeof *sample;
    const int length = snprintf(expected, sizeof expected,
                                "{\"n\": 7, \"timestamp_ns\": 5, \"length\": 64%s}\n", fields);
    const size_t written = payload_json(line, &message);
    CHECK(written == (size_t)length && memcmp(line, expected, written) == 0);
}

int main(void)
{
    const unsigned char *digits = (const unsigned char *)"123456789";
    char line[PAYLOAD_JSON_SIZE], text[1024] = "";

    unit_begin();
    CHECK(payload_crc32(digits, 9, 0) == 0xCBF43926u); /* ITU-T V.42 check value */
    CHECK(payload_crc32(digits + 4, 5, payload_crc32(digits, 4, 0)) == 0xCBF43926u);
    CHECK(payload_crc32(digits, 0, 77) == 77);
    pattern();

    /* The shortest that reads back as the same number; null where JSON has no word for it. */
    struct shm_sample sample = {.index = UINT64_MAX,
                                .time_s = 0.1,
                                .accel = {0.1f, -INFINITY, 16777216},
                                .gyro = {1e-45f, 0, -0.5f},
                                .temperature = NAN};
    gives(&sample, ", \"index\": 18446744073709551615, \"time_s\": 0.1"
                   ", \"accel\": [0.1, null, 16777216]"
                   ", \"gyro\": [1.4013e-45, 0, -0.5], \"temperature\": null");
    sample.time_s = 1.0 / 3;
    sample.accel[1] = 16777217.0f / 3;
    sample.accel[2] = sample.temperature = 1;
    gives(&sample, ", \"index\": 18446744073709551615, \"time_s\": 0.33333333333333331"
                   ", \"accel\": [0.1, 5592405.5, 1], \"gyro\": [1.4013e-45, 0, -0.5]"
                   ", \"temperature\": 1");
    message.length = sizeof sample - 1; /* too short for one: no fields */
    CHECK(payload_json(line, &message) ==
          strlen("{\"n\": 7, \"timestamp_ns\": 5, \"length\": 63}\n"));
    message.n = message.timestamp_ns = UINT64_MAX; /* the longest there is */
    message.length = UINT32_MAX;
    memset(payload, 0xff, sizeof payload);
    CHECK(payload_json(line, &message) < sizeof line);
    sample.time_s = -2.2250738585072014e-308;
    for (int i = 0; i < 3; i++)
        sample.accel[i] = sample.gyro[i] = -1.17549435e-38f;
    memcpy(payload, &sample, sizeof sample);
    CHECK(payload_json(line, &message) < sizeof line && strchr(line, '\n') != NULL);

    FILE *out = tmpfile();
    CHECK(out != NULL);
    if (out != NULL) {
        payload_print(out, payload);
        rewind(out);
        (void)!fread(text, 1, sizeof text - 1, out);
        fclose(out);
        CHECK(strstr(text, "  index        18446744073709551615\n") != NULL);
        CHECK(
            strstr(text,
                   "  gyro         [-1.17549435e-38, -1.17549435e-38, -1.17549435e-38] rad/s\n") !=
            NULL);
        CHECK(strstr(text, "zero") == NULL); /* a pad is nothing to show */
    }
    return unit_end();
}
