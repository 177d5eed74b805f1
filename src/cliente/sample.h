/*
 * sample.h - the demo's sample: what host.py generates, and what --verify expects.
 *
 * Your own program needs the same for your own data: one struct, one schema.
 */
#ifndef SAMPLE_H
#define SAMPLE_H

#include <stdbool.h>

#include "shm_lane.h"

#define SAMPLE_SCHEMA "index:Q time_s:d accel:3f gyro:3f temperature:f :20x"

struct sample {
    uint64_t index;
    double time_s;
    float accel[3];    /* m/s^2 */
    float gyro[3];     /* rad/s */
    float temperature; /* degrees C */
    uint8_t zeros[20];
};
_Static_assert(sizeof(struct sample) == 64, "the schema knows of no other gap");

/* @return the sample in message n of host.py: it depends on n alone, in exact binary fractions, so
 * that every byte can be checked */
struct sample sample_of(uint64_t n);

/* Can a payload of this schema be checked? */
bool sample_can_match(const char *schema);

/* @return true when every byte is what host.py generates for this message: the sample in front
 * where the schema says so, then byte i is (n + i) % 251 */
bool sample_matches(const char *schema, const struct shm_message *message);

#endif
