/*
 * lane.h - one lane, both verbs: read it (next, confirm, release) or write it (reserve, commit).
 *
 * A lane is a one-way ring with one producer, any number of readers, and at most one consumer: a
 * reader that holds the lane's place, and for whom the producer waits. A struct lane is one side's
 * private view; everything in it was checked at attach, and nothing read from the segment
 * afterwards is used as an index, length or offset without a bound.
 *
 * The steps of the protocol are marked in lane.c and host.py with the names under which
 * tests/model enumerates them; tests/model/README.md has the argument.
 */
#ifndef LANE_H
#define LANE_H

#include <stdbool.h>

#include "shm_layout.h"

enum lane_result {
    LANE_OK = 0,
    LANE_EMPTY = -1,   /* nothing published after the last message */
    LANE_PENDING = -2, /* not settled yet (a slot behind its head; a place changing hands): again */
    LANE_LAPPED = -3,  /* overwritten before it was read: counted in lost, next goes on behind it */
    LANE_FULL = -4,    /* the consumer has not released the slot yet */
    LANE_BUSY = -5,    /* another consumer holds the place */
    LANE_DROPPED = -6, /* the place is no longer ours: the host took us for dead or stalled */
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
    uint64_t next;          /* number of the message to read, or to write */
    uint64_t head;          /* reader: newest head seen */
    uint64_t place;         /* consumer: the place as we stored it; 0: a reader, or writer */
    uint64_t lost, retries; /* reader: messages never seen; reads thrown away or repeated */
    uint64_t limit;         /* writer: messages up to this one need no look at the place */
    uint64_t woken;         /* writer: newest message that was told to sleepers */
};

/* base: a mapping whose size was checked against header (segment_attach). Both verbs begin behind
 * the last message that was published.
 * @return LANE_OK or LANE_DAMAGED */
enum lane_result lane_open(struct lane *lane, void *base, const struct shm_header *header,
                           enum shm_lane_index index);

/* ---- reading ---- */

/* Begins, as a reader, with the first message published after the call. Nobody can refuse it.
 * @return LANE_OK or LANE_DAMAGED */
enum lane_result lane_attach(struct lane *lane);

/* Begins so as the consumer. One try.
 * @return LANE_OK; LANE_BUSY, and *other is the pid that holds the place: whether it lives is the
 * caller's to find out, and a dead one is the host's to drop; LANE_PENDING: the place has just
 * changed hands, try again; LANE_DROPPED: by the host, while we claimed; LANE_DAMAGED */
enum lane_result lane_claim(struct lane *lane, uint32_t pid, uint32_t *other);

/* Gives the place back, if it is still ours. */
void lane_leave(struct lane *lane);

/* @return LANE_OK and *message, LANE_EMPTY, LANE_PENDING, LANE_LAPPED, LANE_DROPPED, LANE_DAMAGED
 */
enum lane_result lane_next(struct lane *lane, struct lane_message *message);

/* Was *message whole all the while it was used? @return LANE_OK, LANE_LAPPED or LANE_DROPPED */
enum lane_result lane_confirm(struct lane *lane, const struct lane_message *message);

/* Done with a confirmed message; only now does it count.
 * @return LANE_OK, or LANE_DROPPED: the producer may have overwritten it already */
enum lane_result lane_release(struct lane *lane, const struct lane_message *message);

/* @return true when the producer has dropped us; never for a reader */
bool lane_dropped(const struct lane *lane);

/* @return true when lane_next has something to say: what to wait for */
bool lane_readable(const struct lane *lane);

/* ---- writing ---- */

/* Takes the slot of the next message; calling it again before lane_commit takes the same one.
 * @return LANE_OK and *payload has room for capacity bytes, or LANE_FULL */
enum lane_result lane_reserve(struct lane *lane, unsigned char **payload);

/* Publishes it, and wakes who sleeps for it. due_ns: when it should have been, 0: no schedule. */
void lane_commit(struct lane *lane, uint32_t length, uint64_t due_ns, uint32_t crc32);

/* @return true when lane_reserve will not say LANE_FULL */
bool lane_writable(struct lane *lane);

/* @return how many messages were written that the consumer is not done with */
uint64_t lane_unread(const struct lane *lane);

/* Is somebody consuming this lane? Without one, a writer talks to itself. */
bool lane_has_consumer(const struct lane *lane);

#endif
