/*
 * lane.h - one lane, both verbs: read it (next, confirm, release) or write it (reserve, commit).
 *
 * A lane is a one-way ring with one producer, at most one consumer (it owns the cursor) and any
 * number of observers. The producer waits for nobody, unless the consumer asked for LOSSLESS.
 * A struct lane is one side's private view; everything in it was checked at attach, and nothing
 * read from the segment afterwards is used as an index, length or offset without a bound.
 *
 * The steps of the protocol are marked in lane.c and host.py with the names under which
 * tests/model/order_model.py enumerates them; README "Memory order" has the argument.
 */
#ifndef LANE_H
#define LANE_H

#include <stdbool.h>

#include "shm_layout.h"

enum lane_result {
    LANE_OK = 0,
    LANE_EMPTY = -1,   /* nothing published after the last message */
    LANE_PENDING = -2, /* head says it is there, its slot does not yet: look again */
    LANE_LAPPED = -3,  /* overwritten before it was read: counted in lost, next goes on behind it */
    LANE_FULL = -4,    /* the lossless consumer has not released the slot yet */
    LANE_BUSY = -5,    /* another living consumer owns the lane */
    LANE_DROPPED = -6, /* the lane is no longer ours: the host took us for dead or stalled */
    LANE_DAMAGED = -7, /* no correct producer does this */
};

struct lane_message {
    uint64_t n;
    uint64_t timestamp_ns, due_ns;
    uint32_t length; /* bytes, at most the capacity */
    uint32_t crc32;
    const unsigned char *payload; /* in the slot: trust it only after lane_confirm */
};

struct lane {
    struct shm_lane *shared;
    unsigned char *slots;
    uint64_t slot_count;
    size_t slot_stride;
    uint32_t capacity;
    uint64_t next;            /* number of the message to read, or to write */
    uint64_t head;            /* reader: newest head seen */
    uint64_t limit;           /* writer: messages up to this one need no look at the consumer */
    uint64_t cursor;          /* writer: newest cursor seen */
    uint64_t woken, woken_ns; /* writer: the message of the last wake call, and when it was */
    uint64_t owner;           /* the claim as we stored it; 0: observer, or writer */
    uint64_t lost, retries;   /* reader: messages never seen; reads thrown away or repeated */
};

/* base: a mapping whose size was checked against header (segment_attach). The reader begins with
 * the next message to be published, the writer behind the last one that was.
 * @return LANE_OK or LANE_DAMAGED */
enum lane_result lane_open(struct lane *lane, void *base, const struct shm_header *header,
                           enum shm_lane_index index);

/* ---- reading ---- */

/* Becomes the consumer: of a free lane, or of one whose consumer is gone. Begins with the first
 * message published after the call.
 * @param flags SHM_LOSSLESS, SHM_BLOCKS or 0
 * @return LANE_OK, LANE_BUSY (*other is its pid), LANE_DAMAGED, or LANE_DROPPED (the host swept the
 * claim away together with a dead predecessor's: claim again) */
enum lane_result lane_claim(struct lane *lane, uint32_t pid, uint32_t flags, uint32_t *other);

/* Gives the lane back, if it is still ours. */
void lane_leave(struct lane *lane);

/* @return LANE_OK and *message, LANE_EMPTY, LANE_PENDING, LANE_LAPPED, LANE_DROPPED, LANE_DAMAGED
 */
enum lane_result lane_next(struct lane *lane, struct lane_message *message);

/* Was *message whole all the while it was used? @return LANE_OK, LANE_LAPPED or LANE_DROPPED */
enum lane_result lane_confirm(struct lane *lane, const struct lane_message *message);

/* Done with the message: a lossless producer may overwrite it. */
void lane_release(struct lane *lane, const struct lane_message *message);

/* Says it again. A predecessor that was stopped in the middle of lane_release and dropped may
 * still store its own, lower cursor over ours; whoever waits calls this so that it cannot last. */
void lane_restore(struct lane *lane);

/* @return true when lane_next has something to say: what to wait for */
bool lane_readable(struct lane *lane);

/* ---- writing ---- */

/* Takes the slot of the next message; calling it again before lane_commit takes the same one.
 * @return LANE_OK and *payload has room for capacity bytes, or LANE_FULL */
enum lane_result lane_reserve(struct lane *lane, unsigned char **payload);

/* Publishes it. due_ns: when it should have been, 0: no schedule. Wakes a sleeping consumer. */
void lane_commit(struct lane *lane, uint32_t length, uint64_t due_ns, uint32_t crc32);

/* @return true when lane_reserve will not say LANE_FULL */
bool lane_writable(struct lane *lane);

/* @return how many messages were written that the consumer is not done with */
uint64_t lane_unread(struct lane *lane);

/* Is somebody consuming this lane? Without one, a writer talks to itself. */
bool lane_has_consumer(const struct lane *lane);

#endif
