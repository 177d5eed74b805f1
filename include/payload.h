/*
 * payload.h - what is inside a message: the known pattern, the checksum, its fields in words.
 */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stdio.h>

#include "lane.h"
#include "shm_sample.h"

/* CRC-32 as in zlib.crc32(bytes, start): ITU-T V.42, reflected polynomial 0xEDB88320. */
uint32_t payload_crc32(const unsigned char *bytes, size_t length, uint32_t start);

/* @return true when every byte is what host.py generates for this message: the sample in front
 * for kind SHM_SAMPLE, then byte i is (n + i) % 251 */
bool payload_matches(uint32_t kind, const struct lane_message *message);

/* Prints the sample that lies there, a line a field. */
void payload_print(FILE *out, const unsigned char *sample);

/* One JSON object and a newline: n, timestamp_ns, length, then the fields of the sample that the
 * message begins with (none where it is too short for one).
 * @param out  room for PAYLOAD_JSON_SIZE bytes
 * @return bytes written, no terminator counted */
size_t payload_json(char *out, const struct lane_message *message);

/* 26: the longest number with its comma; a character takes 6 (\u0000) at most. */
#define PAYLOAD_FIELD_SIZE(kind, name, dimension, unit, ...)                                       \
    +sizeof #name + 8 + 26 * (sizeof(shm_##kind dimension) / sizeof(shm_##kind))
#define PAYLOAD_JSON_SIZE (128 SHM_SAMPLE_FIELDS(PAYLOAD_FIELD_SIZE))

#endif
