/*
 * shm_result.h - the results of the library's functions.
 */
#ifndef SHM_RESULT_H
#define SHM_RESULT_H

enum shm_result {
    SHM_OK = 0,
    /* Try again, or wait. */
    SHM_EMPTY = -1,  /* nothing published after the last message */
    SHM_FULL = -2,   /* the consumer has not released the slot yet */
    SHM_LAPPED = -3, /* overwritten before it was read: counted in lost, reading goes on */
    SHM_AGAIN = -4, /* not settled yet: a dead holder that the host is about to drop, no receiver */
    SHM_ABSENT = -5,   /* no object of this name */
    SHM_STARTING = -6, /* its host is not ready yet */
    SHM_STALLED = -7,  /* its host lives, but its heartbeat stands still */
    /* A wait ends. */
    SHM_TIMEOUT = -8, /* nothing came in time */
    SHM_STOPPED = -9, /* the caller's idle function returned false */
    SHM_ENDED = -10,  /* the host closed the segment */
    SHM_DIED = -11,   /* the host is gone and did not close it */
    /* Failures. */
    SHM_BUSY = -12,    /* another process holds the role */
    SHM_DROPPED = -13, /* the host dropped this consumer: its messages may be overwritten */
    SHM_BAD_CRC = -14, /* the message does not match its CRC-32 */
    SHM_DAMAGED = -15, /* the segment holds a value that no correct producer writes */
    SHM_REFUSED = -16, /* not a segment, another version, schema or user, truncated */
    SHM_SYSTEM = -17,  /* a system call failed */
};

/* @return what the result means, in words: the end of a sentence, without a full stop */
const char *shm_result_text(enum shm_result result);

#endif
