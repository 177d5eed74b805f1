/* src/cliente/schema.c: texts that are schemas and texts that are none, payloads in words; and the
 * demo's sample, sample.c. */
#include "client.h"

#include <math.h>

#include "unit.h"

static struct schema schema;

static bool parses(const char *text)
{
    char padded[SHM_SCHEMA_SIZE] = "";

    memcpy(padded, text, strlen(text));
    return schema_parse(&schema, padded);
}

static void texts(void)
{
    static const char *const wrong[] = {
        "a",
        "a:",
        ":",
        "a:z",
        "1a:d",
        "a:d ",
        " a:d",
        "a:d  b:d",
        "a:d,b:d",
        "a:0d",
        "a:01d",
        "a:1d",
        ":1x",
        "a:-1d",
        "a:d a:f",
        ":d",
        "a:x",
        "a :d",
        "a:d\tb:d",
        "a:4294967296b",
        "a:536870912d",
        "a:4294967295b b:b",
        "a:99999999999999999999b",
        "\xc3\xb1:d",
        "a-b:d",
        "a:dd",
    };
    char text[SHM_SCHEMA_SIZE];

    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++)
        CHECK(!parses(wrong[i]) || (fprintf(stderr, "\"%s\"\n", wrong[i]), false));
    CHECK(parses("") && schema.fields == 0 && schema.size == 0);
    CHECK(parses(":4294967295x") && schema.fields == 0 && schema.size == UINT32_MAX);
    CHECK(parses("_a1:d A:3f b:B :x c:10s") && schema.fields == 4 && schema.size == 32);
    CHECK(strcmp(schema.field[3].name, "c") == 0 && schema.field[3].at == 22);
    CHECK(schema.field[1].count == 3 && schema.field[1].type == 'f' && schema.field[1].at == 8);
    CHECK(parses("b:b B:B h:h H:H i:i I:I q:q Q:Q f:f d:d t:? s:s :x") && schema.fields == 12 &&
          schema.size == 1 + 1 + 2 + 2 + 4 + 4 + 8 + 8 + 4 + 8 + 1 + 1 + 1);
    memset(text, 'a', sizeof text); /* the longest text that there is, and one that never ends */
    memcpy(text + sizeof text - 3, ":d", 3);
    CHECK(schema_parse(&schema, text) && strlen(schema.field[0].name) == 445);
    text[sizeof text - 1] = ' ';
    CHECK(!schema_parse(&schema, text));
    for (size_t i = 0; i < sizeof text; i += 4) /* as many fields as it can hold */
        memcpy(text + i, (char[]){"abcdefghijklmnopqrstuvwxyz"[i / 4 % 26], ':', 'd', ' '}, 4);
    text[26 * 4 - 1] = '\0';
    CHECK(schema_parse(&schema, text) && schema.fields == 26);
}

static void gives(const char *text, const void *payload, size_t length, const char *fields)
{
    char line[2048] = "";
    FILE *out = fmemopen(line, sizeof line, "w");

    CHECK(parses(text));
    schema_write(out, &schema, payload, length, UINT32_MAX);
    CHECK(!ferror(out) && fclose(out) == 0);
    CHECK(strcmp(line, fields) == 0);
    if (strcmp(line, fields) != 0)
        fprintf(stderr, "%s: %s\n", text, line);
}

static void numbers(void)
{
    static const double reals[] = {0.1, 1.0 / 3, NAN, -INFINITY, 5e-324, 0.3, -0.0, 1e22, 2.5e-310};
    static const float floats[] = {0.1f, 16777217.0f / 3, INFINITY, 1e-45f, 16777216, -0.5f, 3e38f};
    const int8_t i8[] = {-128, 127};
    const uint16_t u16 = 65535;
    const int32_t i32 = INT32_MIN;
    const int64_t i64 = INT64_MIN;
    const uint64_t u64 = UINT64_MAX;

    /* The shortest that reads back as the same number; null where JSON has no word for it. */
    gives("a:9d", reals, sizeof reals,
          ", \"a\": [0.1, 0.3333333333333333, null, null, 5e-324, 0.3, -0, 1e+22, 2.5e-310]");
    gives("a:7f", floats, sizeof floats,
          ", \"a\": [0.1, 5592405.5, null, 1e-45, 16777216, -0.5, 3e+38]");
    gives("a:2b", i8, 2, ", \"a\": [-128, 127]");
    gives("a:b b:B", i8, 2, ", \"a\": -128, \"b\": 127");
    gives("a:H", &u16, 2, ", \"a\": 65535");
    gives("a:h", &u16, 2, ", \"a\": -1");
    gives("a:i", &i32, 4, ", \"a\": -2147483648");
    gives("a:I", &i32, 4, ", \"a\": 2147483648");
    gives("a:q", &i64, 8, ", \"a\": -9223372036854775808");
    gives("a:Q", &u64, 8, ", \"a\": 18446744073709551615");
    gives("a:3? :x b:?", "\1\0\2\0\0", 5, ", \"a\": [true, false, true], \"b\": false");
    /* After its last whole field a message that is too short stops, and one too long is ignored. */
    gives("a:2d b:B", reals, 15, "");
    gives("a:d b:d", reals, 15, ", \"a\": 0.1");
    gives("a:d", reals, sizeof reals, ", \"a\": 0.1");
}

static void strings(void)
{
    gives("a:5s", "ab\0cd", 5, ", \"a\": \"ab\"");
    gives("a:s b:2s", "xyz", 3, ", \"a\": \"x\", \"b\": \"yz\"");
    gives("a:9s", "\xc3\x9cn\xc3\xaf\xe2\x82\xac\0", 9,
          ", \"a\": \"\xc3\x9cn\xc3\xaf\xe2\x82\xac\"");
    gives("a:4s", "\xf0\x9f\x98\x80", 4, ", \"a\": \"\xf0\x9f\x98\x80\"");
    gives("a:4s", "\"\\\n\x7f", 4, ", \"a\": \"\\u0022\\u005c\\u000a\\u007f\"");
    gives("a:2s", "\xc2\x9b", 2, ", \"a\": \"\\u009b\""); /* a control character in two bytes */
    /* No UTF-8: cut, a longer form, a surrogate, beyond the last one, a lone byte. */
    gives("a:3s", "a\xe2\x82", 3, ", \"a\": \"a\\u00e2\\u0082\"");
    gives("a:2s", "\xc0\xaf", 2, ", \"a\": \"\\u00c0\\u00af\"");
    gives("a:3s", "\xed\xa0\x80", 3, ", \"a\": \"\\u00ed\\u00a0\\u0080\"");
    gives("a:4s", "\xf4\x90\x80\x80", 4, ", \"a\": \"\\u00f4\\u0090\\u0080\\u0080\"");
    gives("a:2s", "\xff\x80", 2, ", \"a\": \"\\u00ff\\u0080\"");
}

/* Another process may name 4 billion items: so many are written, and no more. */
static void at_most(void)
{
    const size_t length = (size_t)1 << 30;
    unsigned char *payload = calloc(length, 1);

    for (int i = 0; i < 2; i++) {
        char line[100] = "";
        FILE *out = fmemopen(line, sizeof line, "w");
        CHECK(parses(i ? "a:1073741824s" : "a:1073741824B"));
        memset(payload, 'a', 3);
        schema_write(out, &schema, payload, length, 2);
        fclose(out);
        CHECK(strcmp(line, i ? ", \"a\": \"aa\"" : ", \"a\": [97, 97]") == 0);
    }
    free(payload);
}

static void sample(void)
{
    static unsigned char payload[300];
    struct shm_message message = {.n = 7, .length = sizeof payload, .payload = payload};
    const struct sample first = sample_of(7);

    CHECK(parses(SAMPLE_SCHEMA) && schema.size == sizeof first);
    CHECK(schema.field[4].at == offsetof(struct sample, temperature));
    memcpy(payload, &first, sizeof first);
    for (unsigned i = sizeof first; i < sizeof payload; i++)
        payload[i] = (unsigned char)((7 + i) % 251);
    CHECK(sample_matches(SAMPLE_SCHEMA, &message));
    for (unsigned i = 0; i < sizeof payload; i++) { /* every single byte counts */
        payload[i] ^= 1;
        CHECK(!sample_matches(SAMPLE_SCHEMA, &message));
        payload[i] ^= 1;
    }
    message.length = 63;
    CHECK(!sample_matches(SAMPLE_SCHEMA, &message));
    for (unsigned i = 0; i < 63; i++)
        payload[i] = (unsigned char)((7 + i) % 251);
    CHECK(sample_matches("", &message));
    CHECK(!sample_matches(SAMPLE_SCHEMA, &message));
}

int main(void)
{
    unit_begin();
    texts();
    numbers();
    strings();
    at_most();
    sample();
    return unit_end();
}
