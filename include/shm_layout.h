/*
 * shm_layout.h - the segment, byte by byte (version 2). shmprueba.py mirrors it with
 * ctypes.Structure, and a test compares the two.
 *
 *     offset        size  block                                       written by
 *     0              512  struct shm_header                           host, before state is LIVE
 *     512            128  struct shm_status                           host
 *     640            384  struct shm_lane_block "down" (host -> client)
 *     1024           384  struct shm_lane_block "up"   (client -> host)
 *     4096             S  slots of the down lane, S = slot_count * slot_stride
 *     4096 + S         S  slots of the up lane
 *
 * Native byte order, fixed-width fields, natural alignment. Only one kind of process writes a block
 * of 128 bytes, so its stores do not disturb a field that another one polls. 128 bytes are one
 * cache line of Apple's, or two of x86, which the prefetcher loads in pairs.
 */
#ifndef SHM_LAYOUT_H
#define SHM_LAYOUT_H

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

typedef uint8_t shm_magic[8];
typedef char shm_schema[SHM_SCHEMA_SIZE];
#define SHM_NEW_BLOCK _Alignas(SHM_BLOCK)

/* Every field: X(block, offset, type, field). The structs, their assertions and `cliente_c
 * --layout` are made from these lists. */
#define SHM_HEADER_FIELDS(X, B)                                                                    \
    X(B, 0, shm_magic, magic)                                                                      \
    X(B, 8, uint32_t, version)                                                                     \
    X(B, 12, uint32_t, header_size)      /* SHM_HEADER_SIZE */                                     \
    X(B, 16, uint64_t, total_size)       /* of all blocks; the object may be larger (macOS) */     \
    X(B, 24, uint32_t, slot_count)       /* of each lane; a power of two, 2 ... 65536 */           \
    X(B, 28, uint32_t, slot_stride)      /* bytes from slot to slot, a multiple of 128 */          \
    X(B, 32, uint32_t, payload_capacity) /* 1 ... slot_stride - 32 */                              \
    X(B, 36, uint32_t, flags)            /* SHM_FLAG_CRC */                                        \
    X(B, 40, uint64_t, session)          /* random, never 0, new at every host start */            \
    X(B, 48, uint64_t, host_pid)         /* for error texts only: perhaps of another namespace */  \
    X(B, 56, uint64_t, zero)                                                                       \
    X(B, 64, shm_schema, schema) /* describes a payload, NUL-terminated; "": raw bytes */

#define SHM_STATUS_FIELDS(X, B)                                                                    \
    X(B, 0, SHM_NEW_BLOCK _Atomic uint32_t, state) /* enum shm_state */                            \
    X(B, 4, _Atomic uint32_t, cpu)                 /* of the last heartbeat, + 1; 0: unknown */    \
    X(B, 8, _Atomic uint64_t, heartbeat_ns)        /* clock of shm_clock.h */

#define SHM_LANE_FIELDS(X, B)                                                                      \
    /* The producer's. */                                                                          \
    X(B, 0, SHM_NEW_BLOCK _Atomic uint64_t, head) /* messages published so far */                  \
    X(B, 8, _Atomic uint64_t, dropped) /* epoch of the last consumer that was dropped; 0: none */  \
    /* The consumer's: there is one at most, that holds the lock of its role. */                   \
    X(B, 128, SHM_NEW_BLOCK _Atomic uint64_t, place) /* SHM_PLACE(epoch, position) */              \
    X(B, 136, _Atomic uint32_t, pid)                 /* for error texts only */                    \
    /* Every reader's. */                                                                          \
    X(B, 256, SHM_NEW_BLOCK _Atomic uint64_t, wish) /* newest slept for; it only grows */          \
    X(B, 264, _Atomic uint32_t, attached)           /* how many ever attached; each adds 1 */

/* Message n (from 1) lives in slot n % slot_count of its lane. */
#define SHM_SLOT_FIELDS(X, B)                                                                      \
    X(B, 0, _Atomic uint64_t, seq)          /* 2n-1: n is being written; 2n: it is whole */        \
    X(B, 8, _Atomic uint64_t, timestamp_ns) /* when it was published */                            \
    X(B, 16, _Atomic uint64_t, due_ns)      /* when it should have been; no schedule: the same */  \
    X(B, 24, _Atomic uint32_t, length)      /* bytes of payload */                                 \
    X(B, 28, _Atomic uint32_t, crc32)       /* zlib.crc32(payload, n & 0xffffffff), or 0 */

#define SHM_LAYOUT(X)                                                                              \
    SHM_HEADER_FIELDS(X, shm_header)                                                               \
    SHM_STATUS_FIELDS(X, shm_status)                                                               \
    SHM_LANE_FIELDS(X, shm_lane_block)                                                             \
    SHM_SLOT_FIELDS(X, shm_slot)

#define SHM_MEMBER(block, offset, type, field) type field;
/* clang-format off */
struct shm_header { SHM_HEADER_FIELDS(SHM_MEMBER, ) };
struct shm_status { SHM_STATUS_FIELDS(SHM_MEMBER, ) };
struct shm_lane_block { SHM_LANE_FIELDS(SHM_MEMBER, ) };
struct shm_slot { SHM_SLOT_FIELDS(SHM_MEMBER, ) unsigned char payload[]; };
/* clang-format on */

#define SHM_ASSERT_OFFSET(block, offset, type, field)                                              \
    _Static_assert(offsetof(struct block, field) == (offset), #block "." #field);
SHM_LAYOUT(SHM_ASSERT_OFFSET)
_Static_assert(sizeof(struct shm_header) == 4 * SHM_BLOCK, "header");
_Static_assert(sizeof(struct shm_status) == SHM_BLOCK, "status");
_Static_assert(sizeof(struct shm_lane_block) == 3 * SHM_BLOCK, "lane");
_Static_assert(offsetof(struct shm_slot, payload) == SHM_SLOT_HEAD, "slot");

/* The place of a lane's one consumer. High 16 bits: an epoch, odd: held, even: left. Low 48 bits:
 * the position: how many messages the consumer is done with; all ones: it is just claiming. */
#define SHM_POSITION_MASK          UINT64_C(0xffffffffffff)
#define SHM_CLAIMING               SHM_POSITION_MASK
#define SHM_PLACE(epoch, position) ((uint64_t)(epoch) << 48 | (position))
#define SHM_EPOCH(place)           ((uint16_t)((place) >> 48))
#define SHM_POSITION(place)        ((place)&SHM_POSITION_MASK)

/* Byte offsets of the blocks. */
#define SHM_STATUS_AT      ((size_t)4 * SHM_BLOCK)
#define SHM_LANE_AT(index) ((size_t)5 * SHM_BLOCK + sizeof(struct shm_lane_block) * (size_t)(index))
#define SHM_SLOTS_AT(index, slot_count, slot_stride)                                               \
    (SHM_HEADER_SIZE + (size_t)(index) * (slot_count) * (slot_stride))

#endif
