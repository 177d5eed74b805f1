/*
 * schema.h - the fields of a payload, from the segment's schema text. The text comes from another
 * process: nothing in it is trusted.
 */
#ifndef SCHEMA_H
#define SCHEMA_H

#include <stdbool.h>

#include "shm_layout.h"

/* A buffer for text. The first piece that does not fit is left out, and so are all after it. */
struct text {
    char *buffer;
    size_t room, length; /* length: up to room - 1, the NUL comes after it */
    bool cut;            /* something was left out */
};

__attribute__((format(printf, 2, 3))) void text_add(struct text *text, const char *format, ...);

#define SCHEMA_FIELDS (SHM_SCHEMA_SIZE / 4) /* "a:b " is the shortest field with a name */

struct schema {
    struct schema_field {
        char name[SHM_SCHEMA_SIZE];
        char type;      /* of Python's struct module: b B h H i I q Q f d ? s */
        uint32_t count; /* items; of s: bytes */
        size_t item;    /* bytes of one */
        size_t at;      /* bytes from the payload's begin */
    } field[SCHEMA_FIELDS];
    unsigned fields; /* without gaps (x); 0: raw bytes */
    size_t size;     /* bytes, at most UINT32_MAX */
};

/* Reads "name:type name:type ...". @return false: the SHM_SCHEMA_SIZE bytes are no such text */
bool schema_parse(struct schema *schema, const char *text);

/* Adds `, "name": value` for each field that lies whole in a payload of this length. Values are as
 * in JSON: a number, true or false, a list of them, or a string; NaN and infinities are null. */
void schema_fields(struct text *out, const struct schema *schema, const unsigned char *payload,
                   size_t length);

/* @return room enough for the fields of any payload of at most capacity bytes */
size_t schema_room(const struct schema *schema, size_t capacity);

#endif
