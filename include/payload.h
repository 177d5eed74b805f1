/*
 * payload.h - what is inside a message: the known pattern, the checksum, one line of JSON.
 */
#ifndef PAYLOAD_H
#define PAYLOAD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "lane.h"

/* CRC-32 as in zlib.crc32(bytes, start): ITU-T V.42, reflected polynomial 0xEDB88320. */
uint32_t payload_crc32(const unsigned char *bytes, size_t length, uint32_t start);

/* The sensor sample that host.py sends as message n: exact binary fractions, so that both
 * languages make the same bytes. */
struct shm_sample payload_sample(uint64_t n);

/* @return true when every byte is what host.py generates for this message: the sample in front
 * for kind SHM_SAMPLE, then byte i is (n + i) % 251 */
bool payload_matches(uint32_t kind, const struct lane_message *message);

/* One JSON object and a newline: n, timestamp_ns, length, then the sample's fields, or "payload" in
 * base64.
 * @param out  room for PAYLOAD_JSON_SIZE(message->length)
 * @return bytes written, no terminator counted */
size_t payload_json(char *out, uint32_t kind, const struct lane_message *message);
#define PAYLOAD_JSON_SIZE(length) (512 + ((size_t)(length) + 2) / 3 * 4)

#endif
