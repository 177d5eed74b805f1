/*
 * shm_lane.h - one lane: read it (next, confirm, release), or write it (reserve, commit).
 *
 * A lane is a one-way ring with one producer, any number of readers, and at most one consumer: a
 * reader that holds the lane's place, and for which the producer waits. No index, length or offset
 * that is read from the segment after attach is used unchecked. src/lane.c marks the steps of the
 * protocol (SYNC) with the names of tests/model, whose README.md has the argument.
 */
#ifndef SHM_LANE_H
#define SHM_LANE_H

#include "shm_segment.h"

/* Where there is no futex (macOS; SHM_NO_FUTEX tests it on Linux), a sleep is a nap (nanosleep). */
#if defined(__linux__) && !defined(SHM_NO_FUTEX)
#define SHM_HAS_FUTEX 1
#else
#define SHM_HAS_FUTEX 0
#endif
#define SHM_SLEEP_NS 100000000u /* the longest sleep: then check the host */
#define SHM_NAP_NS   1000000u   /* the longest nap */

struct shm_message {
    uint64_t n;                    /* its number, from 1 */
    uint64_t timestamp_ns, due_ns; /* when it was published, and when it should have been */
    uint64_t seen_ns;              /* when shm_receive found it; shm_lane_next does not set it */
    uint32_t length;               /* bytes, at most the capacity */
    uint32_t crc32;
    const unsigned char *payload; /* in the slot: trust it only after shm_lane_confirm */
};

/* One side's private view of a lane, for one thread. */
struct shm_lane {
    struct shm_segment *segment;
    struct shm_lane_block *shared;
    unsigned char *slots;
    enum shm_lane_index index;
    bool newest;      /* set it: shm_lane_next passes over all but the newest; not for a consumer */
    bool produces;    /* it holds the producer's role */
    uint16_t epoch;   /* consumer: of its place; 0: a reader, or a producer */
    uint64_t next;    /* number of the message to read, or to write */
    uint64_t head;    /* reader: newest head seen */
    uint64_t lost;    /* reader: messages overwritten before they were read */
    uint64_t skipped; /* reader: passed over for a newer one */
    uint64_t retries; /* reader: reads thrown away or repeated */
    uint64_t limit;   /* producer: messages up to this one need no load of place */
    uint64_t woken;   /* producer: newest message that sleepers were woken for */
};

/* Opens a lane of an attached segment. Reading and writing begin after the last message published.
 * @return SHM_OK or SHM_DAMAGED */
enum shm_result shm_lane_open(struct shm_lane *lane, struct shm_segment *segment,
                              enum shm_lane_index index);

/* ---- reading ---- */

/* Begins, as a reader, with the first message published after the call. Nobody can refuse it.
 * @return SHM_OK or SHM_DAMAGED */
enum shm_result shm_lane_attach(struct shm_lane *lane);

/* Begins as the consumer: takes the role, then the place. One try.
 * @param echo  NULL; or the up lane, opened: takes its producer's role, too, and opens it again
 * @return SHM_OK; SHM_BUSY: another process consumes, or sends, *other is its pid (0: unknown);
 * SHM_AGAIN: the consumer died, and the host is about to drop it: try again; SHM_ABSENT,
 * SHM_DAMAGED; SHM_SYSTEM and errno */
enum shm_result shm_lane_claim(struct shm_lane *lane, struct shm_lane *echo, uint32_t *other);

/* Gives back the place and the consumer's role; a producer of the up lane: its role. */
void shm_lane_leave(struct shm_lane *lane);

/* The next message, in its slot. Never waits.
 * @return SHM_OK and *message, SHM_EMPTY, SHM_AGAIN (head is visible, its slot not yet), SHM_LAPPED
 * (lost has grown; goes on half a ring before head), SHM_DROPPED, SHM_DAMAGED */
enum shm_result shm_lane_next(struct shm_lane *lane, struct shm_message *message);

/* Was *message whole while it was used? Checks its CRC-32, too, where messages have one. Call it
 * once for each message: one that was overwritten counts as lost.
 * @return SHM_OK, SHM_LAPPED, SHM_DROPPED, SHM_BAD_CRC, or SHM_DAMAGED */
enum shm_result shm_lane_confirm(struct shm_lane *lane, const struct shm_message *message);

/* Ends the use of this message, whatever shm_lane_confirm returned; frees its slot. */
void shm_lane_release(struct shm_lane *lane, const struct shm_message *message);

/* @return true when the producer has dropped us; never for a reader */
bool shm_lane_dropped(const struct shm_lane *lane);

/* Sleeps until message next is published, at most ns and at most 100 ms. On the up lane, and where
 * there is no futex, it naps at most 1 ms. Call it in a loop: it may end early.
 * @return true when it lasted as long as asked: no wake-up and no signal ended it */
bool shm_lane_sleep(struct shm_lane *lane, uint64_t ns);

/* ---- writing ---- */

/* Takes the up lane's producer role and begins after the messages of earlier senders. One try.
 * @return SHM_OK; SHM_BUSY: another process sends; SHM_AGAIN: the host does not receive (yet);
 * SHM_ABSENT, SHM_DAMAGED; SHM_SYSTEM and errno */
enum shm_result shm_lane_produce(struct shm_lane *lane);

/* Takes the slot of the next message; calling it again before shm_lane_commit takes the same one.
 * @return SHM_OK and *payload has room for payload_capacity bytes; or SHM_FULL */
enum shm_result shm_lane_reserve(struct shm_lane *lane, unsigned char **payload);

/* Publishes it, with its CRC-32 where messages have one, and wakes those that sleep for it.
 * due_ns: when it should have been published; 0: no schedule. */
void shm_lane_commit(struct shm_lane *lane, uint32_t length, uint64_t due_ns);

/* @return true when shm_lane_reserve will not say SHM_FULL */
bool shm_lane_writable(struct shm_lane *lane);

/* @return how many published messages the consumer has not released yet */
uint64_t shm_lane_unread(const struct shm_lane *lane);

/* CRC-32 as in zlib.crc32(bytes, start): ITU-T V.42, reflected polynomial 0xEDB88320. */
uint32_t shm_crc32(const unsigned char *bytes, size_t length, uint32_t start);

#endif
