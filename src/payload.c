#include "payload.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
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

bool payload_matches(uint32_t kind, const struct lane_message *message)
{
    uint32_t i = 0;

    if (kind == SHM_SAMPLE) {
        const struct shm_sample expected = shm_sample_of(message->n);
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

/* ---- the fields of a sample, from the one list ---- */

enum kind { KIND_u64, KIND_u32, KIND_f64, KIND_f32, KIND_text, KIND_pad };

static const struct field {
    enum kind kind;
    const char *name, *unit;
    size_t offset, count, size; /* size: bytes of one */
} fields[] = {
#define FIELD(kind, name, dimension, unit, ...)                                                    \
    {KIND_##kind,                                                                                  \
     #name,                                                                                        \
     unit,                                                                                         \
     offsetof(struct shm_sample, name),                                                            \
     sizeof(shm_##kind dimension) / sizeof(shm_##kind),                                            \
     sizeof(shm_##kind)},
    SHM_SAMPLE_FIELDS(FIELD)};
enum { FIELDS = sizeof fields / sizeof fields[0] };

#define FOR_EACH_FIELD                                                                             \
    for (const struct field *field = fields; field < fields + FIELDS; field++)                     \
        if (field->kind != KIND_pad)

/* The shortest text that reads back as the same number; "null" where JSON has no word for it. */
static int put_real(char *out, size_t room, double value, bool is_float)
{
    if (!isfinite(value))
        return snprintf(out, room, "null");
    const int length = snprintf(out, room, "%.*g", is_float ? 6 : 15, value);
    const double back = is_float ? (double)strtof(out, NULL) : strtod(out, NULL);
    return back == value ? length : snprintf(out, room, "%.*g", is_float ? 9 : 17, value);
}

/* Number i of a field, as text. @return its length */
static int put_number(char *out, size_t room, const struct field *field, const void *sample,
                      size_t i)
{
    union {
        uint64_t u64;
        uint32_t u32;
        double f64;
        float f32;
    } value;

    memcpy(&value, (const char *)sample + field->offset + i * field->size, field->size);
    switch (field->kind) {
    case KIND_u64: return snprintf(out, room, "%" PRIu64, value.u64);
    case KIND_u32: return snprintf(out, room, "%" PRIu32, value.u32);
    case KIND_f64: return put_real(out, room, value.f64, false);
    default: return put_real(out, room, (double)value.f32, true);
    }
}

/* Characters up to the first NUL; whatever JSON does not take as it is becomes \u00XX. */
static int put_text(char *out, const struct field *field, const void *sample)
{
    const unsigned char *text = (const unsigned char *)sample + field->offset;
    char *to = out;

    for (size_t i = 0; i < field->count && text[i] != 0; i++)
        if (text[i] < 0x20 || text[i] > 0x7e || text[i] == '"' || text[i] == '\\')
            to += snprintf(to, 7, "\\u%04x", text[i]);
        else
            *to++ = (char)text[i];
    *to = '\0';
    return (int)(to - out);
}

void payload_print(FILE *out, const struct shm_sample *sample)
{
    char text[6 * sizeof *sample + 32];

    FOR_EACH_FIELD
    {
        fprintf(out, "  %-12s", field->name);
        if (field->kind == KIND_text && put_text(text, field, sample) >= 0)
            fprintf(out, " %s", text);
        else
            for (size_t i = 0; i < field->count; i++)
                if (put_number(text, sizeof text, field, sample, i) > 0)
                    fprintf(out, " %s", text);
        fprintf(out, "%s%s\n", field->unit[0] != '\0' ? " " : "", field->unit);
    }
}

size_t payload_json(char *out, const struct lane_message *message)
{
    char *to = out;
    struct shm_sample sample;

    to += snprintf(to, 128,
                   "{\"n\": %" PRIu64 ", \"timestamp_ns\": %" PRIu64 ", \"length\": %" PRIu32,
                   message->n, message->timestamp_ns, message->length);
    if (message->length >= sizeof sample) {
        memcpy(&sample, message->payload, sizeof sample);
        FOR_EACH_FIELD
        {
            const bool text = field->kind == KIND_text, list = !text && field->count > 1;
            to += sprintf(to, ", \"%s\": %s", field->name, text ? "\"" : list ? "[" : "");
            if (text)
                to += put_text(to, field, &sample);
            for (size_t i = 0; !text && i < field->count; i++) {
                to += sprintf(to, "%s", i > 0 ? ", " : "");
                to += put_number(to, 26, field, &sample, i);
            }
            to += sprintf(to, "%s", text ? "\"" : list ? "]" : "");
        }
    }
    return (size_t)(to + sprintf(to, "}\n") - out);
}
