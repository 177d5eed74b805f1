#include "client.h"

#include <float.h>
#include <math.h>

#define DIGITS  "0123456789"
#define LETTERS "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_"

/* @return bytes of one item of this type; 0: there is no such type */
static size_t size_of_type(char type)
{
    static const char *const types[] = {[1] = "bB?sx", [2] = "hH", [4] = "iIf", [8] = "qQd"};
    size_t size = 8;

    while (size > 0 && (type == '\0' || strchr(types[size], type) == NULL))
        size /= 2;
    return size;
}

bool schema_parse(struct schema *schema, const char *text)
{
    schema->fields = 0;
    schema->size = 0;
    if (memchr(text, '\0', SHM_SCHEMA_SIZE) == NULL)
        return false;
    while (*text != '\0') {
        const size_t name = strspn(text, LETTERS DIGITS), digits = strspn(text, DIGITS);
        struct schema_field field = {.at = schema->size};
        char *to = (char *)text + name;
        if (*to++ != ':' || digits > 0 || *to == '0' || strspn(to, DIGITS) > 10)
            return false;
        const bool counted = strspn(to, DIGITS) > 0;
        const uint64_t count = counted ? strtoull(to, &to, 10) : 1;
        field.type = *to;
        field.item = size_of_type(*to++);
        if (field.item == 0 || (counted && count == 1) || (name == 0) != (field.type == 'x') ||
            count > (UINT32_MAX - schema->size) / field.item)
            return false;
        field.count = (uint32_t)count;
        memcpy(field.name, text, name);
        for (unsigned i = 0; i < schema->fields; i++)
            if (strcmp(schema->field[i].name, field.name) == 0)
                return false;
        schema->size += field.item * field.count;
        if (name > 0)
            schema->field[schema->fields++] = field;
        if (to[0] != '\0' && (to[0] != ' ' || to[1] == '\0')) /* one blank between two fields */
            return false;
        text = to + (to[0] == ' ');
    }
    return true;
}

/* Writes the shortest text that reads back as the same number. Begins with as many digits as every
 * normal number can keep; a denormal number may need fewer. */
static void write_real(FILE *out, double value, bool is_float)
{
    const double normal = is_float ? (double)FLT_MIN : DBL_MIN;
    int n = fabs(value) < normal ? 1 : is_float ? FLT_DIG : DBL_DIG;
    char digits[32] = "null";

    if (isfinite(value))
        do
            snprintf(digits, sizeof digits, "%.*g", n, value);
        while ((is_float ? (double)strtof(digits, NULL) : strtod(digits, NULL)) != value &&
               n++ < DBL_DECIMAL_DIG);
    fputs(digits, out);
}

/* @return bytes of the valid UTF-8 sequence that begins at from; 0: there is none */
static unsigned utf8_length(const unsigned char *from, size_t room)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000}; /* least code of each length */
    const unsigned ones = (unsigned)__builtin_clz(~((uint32_t)from[0] << 24)); /* leading bits */
    const unsigned length = ones == 0 ? 1 : ones;
    uint32_t code = from[0] & (0x7fu >> ones);

    if (ones == 1 || ones > 4 || length > room)
        return 0;
    for (unsigned i = 1; i < length; i++) {
        if ((from[i] & 0xc0) != 0x80)
            return 0;
        code = code << 6 | (from[i] & 0x3f);
    }
    const bool surrogate = code >= 0xd800 && code < 0xe000;
    return code >= least[length] && code <= 0x10ffff && !surrogate ? length : 0;
}

/* Writes text up to the first NUL. Escapes control characters, too: they could reach a terminal. */
static void write_text(FILE *out, const unsigned char *from, size_t room)
{
    fputc('"', out);
    while (room > 0 && *from != 0) {
        const unsigned length = utf8_length(from, room);
        const unsigned code = length == 2 && *from == 0xc2 ? from[1] : *from; /* below U+0100 */
        const bool control = code < 0x20 || (code >= 0x7f && code < 0xa0);
        if (length == 0 || control || code == '"' || code == '\\')
            fprintf(out, "\\u%04x", code);
        else
            fprintf(out, "%.*s", (int)length, (const char *)from);
        from += length > 0 ? length : 1;
        room -= length > 0 ? length : 1;
    }
    fputc('"', out);
}

static void write_item(FILE *out, char type, size_t size, const unsigned char *from)
{
    const bool little = __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__;
    const size_t unused = 64 - 8 * size; /* bits */
    uint64_t whole = 0;
    double real = 0;
    float less = 0;

    memcpy((unsigned char *)&whole + (little ? 0 : 8 - size), from, size);
    memcpy(type == 'f' ? (void *)&less : &real, from, size);
    if (type == 'f' || type == 'd')
        write_real(out, type == 'f' ? (double)less : real, type == 'f');
    else if (type == '?')
        fputs(whole != 0 ? "true" : "false", out);
    else if (type >= 'a') /* a small letter: signed */
        fprintf(out, "%" PRId64, (int64_t)(whole << unused) >> unused);
    else
        fprintf(out, N, whole);
}

void schema_write(FILE *out, const struct schema *schema, const unsigned char *payload,
                  size_t length, uint32_t most)
{
    const struct schema_field *field = schema->field, *end = field + schema->fields;

    for (; field < end && field->at + field->item * field->count <= length; field++) {
        const bool text = field->type == 's', list = !text && field->count > 1;
        const uint32_t count = field->count < most ? field->count : most;
        fprintf(out, ", \"%s\": %s", field->name, list ? "[" : "");
        if (text)
            write_text(out, payload + field->at, count);
        for (uint32_t i = 0; !text && i < count; i++) {
            fputs(i > 0 ? ", " : "", out);
            write_item(out, field->type, field->item, payload + field->at + i * field->item);
        }
        fputs(list ? "]" : "", out);
    }
}
