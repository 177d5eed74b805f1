/* test_name TABLE: src/shm_name.c against tests/data/shm_names.tsv. */
#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include "shm_segment.h"
#include "unit.h"

/* Undoes the table's escapes; returns the length. */
static size_t decode(const char *from, char *to)
{
    char *begin = to;

    while (*from != '\0') {
        if (strncmp(from, "\\x", 2) == 0) {
            const char digits[3] = {from[2], from[3], '\0'};
            *to++ = (char)strtol(digits, NULL, 16);
            from += 4;
        } else if (strncmp(from, "a{", 2) == 0) {
            char *end;
            const size_t times = strtoul(from + 2, &end, 10);
            memset(to, 'a', times);
            to += times;
            from = end + 1;
        } else {
            *to++ = *from++;
        }
    }
    *to = '\0';
    return (size_t)(to - begin);
}

int main(int argc, char **argv)
{
    char line[1024];
    unsigned rows = 0;
    FILE *table = argc == 2 ? fopen(argv[1], "r") : NULL;

    unit_begin();
    CHECK(table != NULL);
    while (table != NULL && fgets(line, sizeof line, table) != NULL) {
        char in[1024], expected[1024], out[SHM_NAME_SIZE];
        if (line[0] == '#')
            continue;
        line[strcspn(line, "\n")] = '\0';
        char *name = strchr(line, '\t');
        char *verdict = name ? strchr(name + 1, '\t') : NULL;
        CHECK(verdict != NULL);
        if (verdict == NULL)
            break;
        *name++ = *verdict++ = '\0';
        const size_t length = decode(name, in);
        decode(verdict, expected);
        const char *wrong = shm_name_normalise(strcmp(line, "macos") == 0, in, length, out);
        const char *found = wrong == NULL ? out : wrong;
        if (strcmp(found, expected) != 0)
            fprintf(stderr, "%s '%s': '%s', expected '%s'\n", line, name, found, expected);
        CHECK(strcmp(found, expected) == 0);
        CHECK(wrong == NULL || out[0] == '\0');
        rows++;
    }
    CHECK(rows > 30);
    if (table != NULL)
        fclose(table);
    return unit_end();
}
