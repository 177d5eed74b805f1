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

/* The shortest text that reads back as the same number; "null" where JSON has no word for it. */
static int put_real(char *out, double value, bool is_float)
{
    if (!isfinite(value))
        return sprintf(out, "null");
    const int length = sprintf(out, "%.*g", is_float ? 6 : 15, value);
    const double back = is_float ? (double)strtof(out, NULL) : strtod(out, NULL);
    return back == value ? length : sprintf(out, "%.*g", is_float ? 9 : 17, value);
}

/* One number, or character: what JSON does not take as it is becomes \u00XX. @return its length */
static int put_item(char *out, const struct field *field, const unsigned char *from)
{
    union {
        shm_u64 u64;
        shm_u32 u32;
        shm_f64 f64;
        shm_f32 f32;
        unsigned char text;
    } value;

    memcpy(&value, from, field->size);
    switch (field->kind) {
    case KIND_u64: return sprintf(out, "%" PRIu64, value.u64);
    case KIND_u32: return sprintf(out, "%" PRIu32, value.u32);
    case KIND_f64: return put_real(out, value.f64, false);
    case KIND_f32: return put_real(out, (double)value.f32, true);
    default:
        if (value.text < 0x20 || value.text > 0x7e || value.text == '"' || value.text == '\\')
            return sprintf(out, "\\u%04x", value.text);
        return sprintf(out, "%c", value.text);
    }
}

/* As JSON: a number, a list of them, or a string up to its first NUL. @return its length */
static int put_field(char *out, const struct field *field, const unsigned char *sample)
{
    const unsigned char *from = sample + field->offset;
    const bool text = field->kind == KIND_text, list = !text && field->count > 1;
    char *to = out + sprintf(out, "%s", text ? "\"" : list ? "[" : "");

    for (size_t i = 0; i < field->count && !(text && *from == 0); i++, from += field->size) {
        to += sprintf(to, "%s", list && i > 0 ? ", " : "");
        to += put_item(to, field, from);
    }
    return (int)(to + sprintf(to, "%s", text ? "\"" : list ? "]" : "") - out);
}

void payload_print(FILE *out, const unsigned char *sample)
{
    char text[PAYLOAD_JSON_SIZE];

    for (const struct field *field = fields; field < fields + FIELDS; field++)
        if (field->kind != KIND_pad && put_field(text, field, sample) > 0)
            fprintf(out, "  %-12s %s%s%s\n", field->name, text, *field->unit ? " " : "",
                    field->unit);
}

size_t payload_json(char *out, const struct lane_message *message)
{
    char *to = out;

    to += sprintf(to, "{\"n\": %" PRIu64 ", \"timestamp_ns\": %" PRIu64 ", \"length\": %" PRIu32,
                  message->n, message->timestamp_ns, message->length);
    for (const struct field *field = fields; field < fields + FIELDS; field++)
        if (field->kind != KIND_pad && message->length >= sizeof(struct shm_sample)) {
            to += sprintf(to, ", \"%s\": ", field->name);
            to += put_field(to, field, message->payload);
        }
    return (size_t)(to + sprintf(to, "}\n") - out);
}
