/*
 * waiter.h - how to pass the time until the other side has moved.
 */
#ifndef WAITER_H
#define WAITER_H

#include <stdbool.h>

#include "shm_layout.h"

enum wait_mode { WAIT_ADAPTIVE, WAIT_SPIN, WAIT_YIELD, WAIT_SLEEP, WAIT_BLOCK };

extern const char *const wait_mode_names[]; /* by enum wait_mode; ends with NULL */

/* Futexes are Linux'; elsewhere there is nothing that a foreign process could be woken with. */
#ifdef __linux__
#define WAITER_CAN_BLOCK 1
#else
#define WAITER_CAN_BLOCK 0
#endif

struct waiter {
    enum wait_mode mode;
    struct shm_lane *sleep_on; /* the lane whose head to block on; NULL: cannot block */
    bool one_cpu;              /* spinning would only keep the other side from running */
    unsigned looks;
    uint64_t since_ns; /* begin of this wait */
    uint64_t now_ns;   /* the time when waiter_pause last returned true */
    uint64_t sleep_ns;
    uint64_t missed_wakeups; /* slept to the end of a time-out though the message was there */
};

void waiter_init(struct waiter *waiter, enum wait_mode mode, struct shm_lane *sleep_on);

/* What was waited for is there: the next wait begins anew. */
void waiter_reset(struct waiter *waiter);

/* Passes a little time, at most 100 ms.
 * @param next  the message waited for, where the mode blocks; 0: wait for something else
 * @return true when enough has passed to look at now_ns, the deadline and the host's health */
bool waiter_pause(struct waiter *waiter, uint64_t next);

/* Wakes whoever blocks on this head. One system call. */
void waiter_wake(_Atomic uint64_t *head);

#endif
