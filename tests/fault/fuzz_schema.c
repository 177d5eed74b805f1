/* fuzz_schema.c - a schema out of a segment, and a payload decoded by it: refused, or every field
 * is in bounds, and its JSON is whole.
 * Input: the schema's text, a NUL, the payload. */
#include "client.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_fields(const struct schema *schema)
{
    size_t end = 0;

    for (unsigned i = 0; i < schema->fields; i++) {
        const char *name = schema->field[i].name;
        const size_t length = schema->field[i].item * schema->field[i].count;
        if (schema->field[i].at < end || length == 0 || name[0] == '\0' ||
            memchr(name, '\0', sizeof schema->field[i].name) == NULL)
            abort();
        end = schema->field[i].at + length;
    }
    if (end > schema->size || schema->size > UINT32_MAX)
        abort();
}

/* No control character; every quote is closed. */
static void check_json(const char *json, size_t length)
{
    bool quoted = false;

    if (strlen(json) != length)
        abort();
    for (size_t i = 0; i < length; i++) {
        if ((unsigned char)json[i] < ' ')
            abort();
        if (json[i] == '\\')
            i++;
        else if (json[i] == '"')
            quoted = !quoted;
    }
    if (quoted)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct schema schema;
    char text[SHM_SCHEMA_SIZE] = "";
    size_t length = 0;

    while (length < size && length < sizeof text && data[length] != 0)
        length++;
    memcpy(text, data, length);
    if (!schema_parse(&schema, text))
        return 0;
    check_fields(&schema);
    length += length < size;
    size -= length;
    /* Of exactly its size: a sanitizer sees the next byte. */
    unsigned char *payload = malloc(size > 0 ? size : 1);
    char *json = NULL;
    size_t written = 0;
    FILE *out = open_memstream(&json, &written);
    if (payload != NULL && out != NULL) {
        memcpy(payload, data + length, size);
        schema_write(out, &schema, payload, size, UINT32_MAX);
        if (fclose(out) == 0)
            check_json(json, written);
    }
    free(json);
    free(payload);
    return 0;
}
