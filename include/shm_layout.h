/*
 * shm_layout.h - the segment, byte by byte (version 2). shmprueba.py mirrors it with
 * ctypes.Structure, `cliente_c --layout` prints it, and a test compares the two.
 *
 *     offset        size  block                                       written by
 *     0              512  struct shm_header                           host, before state is LIVE
 *     512            128  struct shm_status                           host
 *     640            384  struct shm_lane_block "down" (host -> client)
 *     1024           384  struct shm_lane_block "up"   (client -> host)
 *     4096             S  slots of the down lane, S = slot_count * slot_stride
 *     4096 + S         S  slots of the up lane
 *
 * Native byte order, fixed-width fields, natural alignment. Each block of 128 bytes is written by
 * one kind of process, so its stores do not disturb a field that another kind polls. 128 bytes are
 * one cache line of Apple's, or two of x86, which the prefetcher loads in pairs.
 */
#ifndef SHM_LAYOUT_H
#define SHM_LAYOUT_H

#ifdef __cplusplus
#error "these headers are for C: call them from a C file of your own"
#endif
#include <stdatomic.h>
#include <stddef.h>
#include <stdint.h>

#if UINTPTR_MAX < UINT64_MAX
#error "shmprueba needs a 64-bit build: its 8-byte fields must be single loads and stores"
#endif
_Static_assert(ATOMIC_LLONG_LOCK_FREE == 2, "8-byte atomics must be plain instructions, not locks");

#define SHM_DEFAULT_NAME "/shmprueba"
#define SHM_MAGIC        "SHMPRUEB" /* 8 bytes, no terminator in the segment */
#define SHM_VERSION      2u
#define SHM_BLOCK        128u
#define SHM_HEADER_SIZE  4096u /* header, status and both lanes; then the slots */
#define SHM_SLOT_HEAD    32u   /* the payload of a slot begins here */
#define SHM_SLOTS_MIN    2u
#define SHM_SLOTS_MAX    65536u
#define SHM_SCHEMA_SIZE  448u          /* bytes, with the NUL */
#define SHM_FLAG_CRC     1u            /* header.flags: every message has a CRC-32 */
#define SHM_STALLED_NS   1000000000ull /* a heartbeat that stands still for so long: stalled */

enum shm_state { SHM_STATE_STARTING = 0, SHM_STATE_LIVE = 1, SHM_STATE_CLOSED = 2 };
enum shm_lane_index { SHM_DOWN = 0, SHM_UP = 1 };

struct shm_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t header_size;      /* SHM_HEADER_SIZE */
    uint64_t total_size;       /* header and both lanes; the object may be larger (macOS pages) */
    uint32_t slot_count;       /* of each lane; a power of two, 2 ... 65536 */
    uint32_t slot_stride;      /* bytes from slot to slot, a multiple of 128 */
    uint32_t payload_capacity; /* 1 ... slot_stride - 32 */
    uint32_t flags;            /* SHM_FLAG_CRC */
    uint64_t session;          /* random, never 0, new at every host start */
    uint64_t host_pid;         /* for error texts only: it may be of another pid namespace */
    uint64_t zero;             /* must be 0 */
    char schema[SHM_SCHEMA_SIZE]; /* describes a payload, NUL-terminated; "": raw bytes */
};

struct shm_status {
    _Alignas(SHM_BLOCK) _Atomic uint32_t state; /* enum shm_state */
    _Atomic uint32_t cpu;          /* where the host ran at its last heartbeat, + 1; 0: unknown */
    _Atomic uint64_t heartbeat_ns; /* clock of shm_clock.h */
};

struct shm_lane_block {
    /* The producer's. */
    _Alignas(SHM_BLOCK) _Atomic uint64_t head; /* messages published so far */
    _Atomic uint64_t dropped; /* epoch of the last consumer that was dropped; 0: none */
    /* The consumer's. There is one at most: it holds the lock of its role (shm_segment.h). */
    _Alignas(SHM_BLOCK) _Atomic uint64_t place; /* SHM_PLACE(epoch, position) */
    _Atomic uint32_t pid;                       /* the consumer's, for error texts only */
    /* Every reader's. */
    _Alignas(SHM_BLOCK) _Atomic uint64_t wish; /* newest message slept for; it only grows */
    _Atomic uint32_t attached;                 /* how many have ever attached; each adds 1 */
};

/* The place of a lane's one consumer. High 16 bits: an epoch, odd: held, even: left. Low 48 bits:
 * the position: how many messages the consumer is done with; all ones: it is just claiming. */
#define SHM_POSITION_MASK          UINT64_C(0xffffffffffff)
#define SHM_CLAIMING               SHM_POSITION_MASK
#define SHM_PLACE(epoch, position) ((uint64_t)(epoch) << 48 | (position))
#define SHM_EPOCH(place)           ((uint16_t)((place) >> 48))
#define SHM_POSITION(place)        ((place)&SHM_POSITION_MASK)

/* Message n (from 1) lives in slot n % slot_count of its lane. */
struct shm_slot {
    _Atomic uint64_t seq;          /* 2n-1: message n is being written; 2n: it is whole */
    _Atomic uint64_t timestamp_ns; /* when it was published */
    _Atomic uint64_t due_ns; /* when it should have been; timestamp_ns where there is no schedule */
    _Atomic uint32_t length; /* bytes of payload */
    _Atomic uint32_t crc32;  /* zlib.crc32(payload, n & 0xffffffff), or 0 */
    unsigned char payload[];
};

/* Every field with its offset and type: the static assertions below and `cliente_c --layout` both
 * read this list, so neither can forget one. X(block, field, offset, size, type) */
#define SHM_LAYOUT(X)                                                                              \
    X(shm_header, magic, 0, 8, "u8[8]")                                                            \
    X(shm_header, version, 8, 4, "u32")                                                            \
    X(shm_header, header_size, 12, 4, "u32")                                                       \
    X(shm_header, total_size, 16, 8, "u64")                                                        \
    X(shm_header, slot_count, 24, 4, "u32")                                                        \
    X(shm_header, slot_stride, 28, 4, "u32")                                                       \
    X(shm_header, payload_capacity, 32, 4, "u32")                                                  \
    X(shm_header, flags, 36, 4, "u32")                                                             \
    X(shm_header, session, 40, 8, "u64")                                                           \
    X(shm_header, host_pid, 48, 8, "u64")                                                          \
    X(shm_header, zero, 56, 8, "u64")                                                              \
    X(shm_header, schema, 64, 448, "char[448]")                                                    \
    X(shm_status, state, 0, 4, "u32")                                                              \
    X(shm_status, cpu, 4, 4, "u32")                                                                \
    X(shm_status, heartbeat_ns, 8, 8, "u64")                                                       \
    X(shm_lane_block, head, 0, 8, "u64")                                                           \
    X(shm_lane_block, dropped, 8, 8, "u64")                                                        \
    X(shm_lane_block, place, 128, 8, "u64")                                                        \
    X(shm_lane_block, pid, 136, 4, "u32")                                                          \
    X(shm_lane_block, wish, 256, 8, "u64")                                                         \
    X(shm_lane_block, attached, 264, 4, "u32")                                                     \
    X(shm_slot, seq, 0, 8, "u64")                                                                  \
    X(shm_slot, timestamp_ns, 8, 8, "u64")                                                         \
    X(shm_slot, due_ns, 16, 8, "u64")                                                              \
    X(shm_slot, length, 24, 4, "u32")                                                              \
    X(shm_slot, crc32, 28, 4, "u32")

#define SHM_ASSERT_FIELD(block, field, offset, size, type)                                         \
    _Static_assert(offsetof(struct block, field) == (offset) &&                                    \
                       sizeof(((struct block *)0)->field) == (size),                               \
                   #block "." #field);
SHM_LAYOUT(SHM_ASSERT_FIELD)

_Static_assert(sizeof(struct shm_header) == 4 * SHM_BLOCK, "header");
_Static_assert(sizeof(struct shm_status) == SHM_BLOCK, "status");
_Static_assert(sizeof(struct shm_lane_block) == 3 * SHM_BLOCK, "lane");
_Static_assert(offsetof(struct shm_slot, payload) == SHM_SLOT_HEAD, "slot");

/* Byte offsets of the blocks. */
#define SHM_STATUS_AT      ((size_t)4 * SHM_BLOCK)
#define SHM_LANE_AT(index) ((size_t)5 * SHM_BLOCK + sizeof(struct shm_lane_block) * (size_t)(index))
#define SHM_SLOTS_AT(index, slot_count, slot_stride)                                               \
    (SHM_HEADER_SIZE + (size_t)(index) * (slot_count) * (slot_stride))

#endif
