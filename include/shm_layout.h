/*
 * shm_layout.h - the segment, byte by byte (version 1). The one truth: host.py mirrors it with
 * ctypes.Structure, `cliente_c --layout` prints it, and a test holds the two together.
 *
 *     offset        size  block                                       who writes it
 *     0              128  struct shm_header                           host, before state is LIVE
 *     128            128  struct shm_status                           host
 *     256            384  struct shm_lane "down" (host -> client)     see struct shm_lane
 *     640            384  struct shm_lane "up"   (client -> host)
 *     1024             S  slots of the down lane, S = slot_count * slot_stride
 *     1024 + S         S  slots of the up lane
 *
 * Native byte order, fixed-width fields, natural alignment. Every block of 128 bytes is written by
 * one kind of process: two x86 lines (the adjacent-line prefetcher pulls pairs), one Apple line. So
 * nothing that one side polls is disturbed by what another stores.
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
#define SHM_VERSION      1u
#define SHM_BLOCK        128u
#define SHM_HEADER_SIZE  1024u /* header, status and both lanes */
#define SHM_SLOT_HEAD    32u   /* the payload of a slot begins here */
#define SHM_SLOTS_MIN    2u
#define SHM_SLOTS_MAX    65536u
#define SHM_FLAG_CRC     1u           /* header.flags: every message has a CRC-32 */
#define SHM_FLAG_BARRIER 2u           /* the host wakes without a fence, sleepers call membarrier */
#define SHM_HEARTBEAT_NS 100000000ull /* the host beats at least this often */
#define SHM_SILENCE_NS   1000000000ull /* a heartbeat older than this: died or stalled */

enum shm_state { SHM_STARTING = 0, SHM_LIVE = 1, SHM_CLOSED = 2 };
enum shm_payload_kind { SHM_RAW = 0, SHM_SAMPLE = 1 }; /* a sample: shm_sample.h */
enum shm_lane_index { SHM_DOWN = 0, SHM_UP = 1 };

struct shm_header {
    uint8_t magic[8];
    uint32_t version;
    uint32_t header_size;      /* SHM_HEADER_SIZE */
    uint64_t total_size;       /* header and both lanes; the object may be larger (macOS pages) */
    uint32_t slot_count;       /* of each lane; a power of two, 2 ... 65536 */
    uint32_t slot_stride;      /* bytes from slot to slot, a multiple of 128 */
    uint32_t payload_capacity; /* 1 ... slot_stride - 32 */
    uint32_t flags;            /* SHM_FLAG_CRC, SHM_FLAG_BARRIER */
    uint64_t session;          /* random, never 0, new at every host start */
    uint64_t host_pid;
    uint32_t payload_kind; /* enum shm_payload_kind */
    uint32_t zero[17];
};

struct shm_status {
    _Atomic uint32_t state; /* enum shm_state */
    uint32_t zero;
    _Atomic uint64_t heartbeat_ns; /* clock of latency.h */
    uint64_t zeros[14];
};

struct shm_lane {
    /* The producer's. */
    _Atomic uint64_t head;    /* messages published so far */
    _Atomic uint64_t dropped; /* generation of the newest consumer that it has dropped; 0: none */
    uint64_t zero[14];
    /* The consumer's: at most one. */
    _Atomic uint64_t place;  /* see below; moved by compare-and-swap only */
    _Atomic uint64_t holder; /* who holds it: generation << 32 | pid, to ask whether it lives */
    uint64_t zeros[14];
    /* Every reader's. */
    _Atomic uint64_t wish;     /* the newest message that anybody sleeps for; it only grows */
    _Atomic uint32_t attached; /* how many have ever attached */
    uint32_t zero1;
    uint64_t zeros1[14];
};

/* The place of a lane's one consumer: who holds it and how far he is, in one word, so that a
 * consumer which was dropped in its sleep can change nothing of its successor's. High 16 bits: a
 * generation, odd: held, even: free. Low 48 bits: messages the consumer is done with; or, from
 * SHM_CLAIMING on, the pid of one that is just claiming. */
#define SHM_CLAIMING                    (UINT64_C(0xffff) << 32)
#define SHM_PLACE(generation, position) ((uint64_t)(generation) << 48 | (position))
#define SHM_GENERATION(place)           ((uint16_t)((place) >> 48))
#define SHM_POSITION(place)             ((place)&UINT64_C(0xffffffffffff))

/* Message n (from 1) lives in slot n % slot_count of its lane. */
struct shm_slot {
    _Atomic uint64_t seq; /* 2n-1: message n is being written; 2n: it is whole */
    _Atomic uint64_t timestamp_ns;
    _Atomic uint64_t due_ns; /* when it should have been; timestamp_ns where there is no schedule */
    _Atomic uint32_t length; /* bytes of payload */
    _Atomic uint32_t crc32;  /* zlib.crc32(payload, n & 0xffffffff), or 0 */
    unsigned char payload[];
};

/* Every field with its place: the static assertions below and `cliente_c --layout` both read this
 * list, so neither can forget one. X(struct, field, offset, size) */
#define SHM_LAYOUT(X)                                                                              \
    X(shm_header, magic, 0, 8)                                                                     \
    X(shm_header, version, 8, 4)                                                                   \
    X(shm_header, header_size, 12, 4)                                                              \
    X(shm_header, total_size, 16, 8)                                                               \
    X(shm_header, slot_count, 24, 4)                                                               \
    X(shm_header, slot_stride, 28, 4)                                                              \
    X(shm_header, payload_capacity, 32, 4)                                                         \
    X(shm_header, flags, 36, 4)                                                                    \
    X(shm_header, session, 40, 8)                                                                  \
    X(shm_header, host_pid, 48, 8)                                                                 \
    X(shm_header, payload_kind, 56, 4)                                                             \
    X(shm_status, state, 0, 4)                                                                     \
    X(shm_status, heartbeat_ns, 8, 8)                                                              \
    X(shm_lane, head, 0, 8)                                                                        \
    X(shm_lane, dropped, 8, 8)                                                                     \
    X(shm_lane, place, 128, 8)                                                                     \
    X(shm_lane, holder, 136, 8)                                                                    \
    X(shm_lane, wish, 256, 8)                                                                      \
    X(shm_lane, attached, 264, 4)                                                                  \
    X(shm_slot, seq, 0, 8)                                                                         \
    X(shm_slot, timestamp_ns, 8, 8)                                                                \
    X(shm_slot, due_ns, 16, 8)                                                                     \
    X(shm_slot, length, 24, 4)                                                                     \
    X(shm_slot, crc32, 28, 4)

#define SHM_ASSERT_FIELD(type, field, offset, size)                                                \
    _Static_assert(offsetof(struct type, field) == (offset) &&                                     \
                       sizeof(((struct type *)0)->field) == (size),                                \
                   #type "." #field);
SHM_LAYOUT(SHM_ASSERT_FIELD)

_Static_assert(sizeof(struct shm_header) == SHM_BLOCK, "header");
_Static_assert(sizeof(struct shm_status) == SHM_BLOCK, "status");
_Static_assert(sizeof(struct shm_lane) == 3 * SHM_BLOCK, "lane");
_Static_assert(offsetof(struct shm_slot, payload) == SHM_SLOT_HEAD, "slot");

/* Byte offsets of the blocks. */
#define SHM_STATUS_AT      SHM_BLOCK
#define SHM_LANE_AT(index) ((size_t)2 * SHM_BLOCK + sizeof(struct shm_lane) * (size_t)(index))
#define SHM_SLOTS_AT(index, slot_count, slot_stride)                                               \
    (SHM_HEADER_SIZE + (size_t)(index) * (slot_count) * (slot_stride))

#endif
