#define _GNU_SOURCE
#include "client.h"

#include <stdio.h>

#define PRINT_FIELD(block, field, offset, size, type)                                              \
    print_place(#block, #field, offset, size, type);

static void print_place(const char *block, const char *field, size_t offset, size_t size,
                        const char *type)
{
    printf("%-15s %-17s %6zu %5zu %s\n", block, field, offset, size, type);
}

static const char facts[] =
    "\n"
    "/dev/shm/NAME on Linux; sizes and offsets (in a block) in bytes; %s endian.\n"
    "Lane_up's slots follow lane_down's. Message n (from 1): slot n %% slot_count.\n"
    "version    %u\n"
    "flags      bit 0: every message has a CRC-32\n"
    "state      %d starting, %d live, %d closed\n"
    "cpu        the host's CPU at its last heartbeat + 1; 0: unknown\n"
    "place      high 16 bits: epoch, odd: held, even: left; low 48 bits: messages the\n"
    "           consumer is done with, all ones: it is claiming\n"
    "seq        2n-1: message n is being written; 2n: it is whole\n"
    "crc32      zlib.crc32(payload, n & 0xffffffff), or 0\n"
    "*_ns       %s; due_ns is timestamp_ns where there is no schedule\n"
    "schema     NAME:[COUNT]TYPE or gap :[COUNT]x, with one blank between; \"\": raw bytes;\n"
    "           NAME [A-Za-z_][A-Za-z0-9_]*, unique; TYPE b B (8 bits, signed, unsigned)\n"
    "           h H (16) i I (32) q Q (64) f d (float) ? (bool) s (COUNT bytes of text)\n";

void report_layout(void)
{
    printf("%-15s %-17s %6s %5s %s\n", "block", "field", "offset", "size", "type");
    SHM_LAYOUT(PRINT_FIELD)
    print_place("shm_slot", "payload", offsetof(struct shm_slot, payload), 0, "bytes");
    print_place("segment", "header", 0, sizeof(struct shm_header), "shm_header");
    print_place("segment", "status", SHM_STATUS_AT, sizeof(struct shm_status), "shm_status");
    print_place("segment", "lane_down", SHM_LANE_AT(SHM_DOWN), sizeof(struct shm_lane_block),
                "shm_lane_block");
    print_place("segment", "lane_up", SHM_LANE_AT(SHM_UP), sizeof(struct shm_lane_block),
                "shm_lane_block");
    print_place("segment", "slots", SHM_HEADER_SIZE, 0, "shm_slot[]");
    printf(facts, __BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__ ? "little" : "big", SHM_VERSION,
           SHM_STATE_STARTING, SHM_STATE_LIVE, SHM_STATE_CLOSED, SHM_CLOCK_NAME);
}
