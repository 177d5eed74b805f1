/*
 * waiter.h - how to pass the time until the other side has moved: spin, block, or know the rhythm.
 */
#ifndef WAITER_H
#define WAITER_H

#include <stdbool.h>

#include "lane.h"

enum wait_mode { WAIT_ADAPTIVE, WAIT_SPIN, WAIT_BLOCK };

extern const char *const wait_mode_names[]; /* by enum wait_mode; ends with NULL */

/* Where there is no futex (macOS; SHM_NO_FUTEX tests it on Linux), who would block naps. */
#if defined(__linux__) && !defined(SHM_NO_FUTEX)
#define WAITER_HAS_FUTEX 1
#else
#define WAITER_HAS_FUTEX 0
#endif

#define WAITER_LOOK_NS         5000u      /* who blocks looks for so long, then sleeps */
#define WAITER_NAP_NS          50000u     /* the first nap; each next one is twice as long ... */
#define WAITER_LONGEST_NAP_NS  1000000u   /* ... up to this */
#define WAITER_SLEEP_NS        100000000u /* the longest sleep: then a look at the host */
#define WAITER_LATENESS_MIN_NS 20000u
#define WAITER_LATENESS_MAX_NS 400000u /* a virtual machine that was idle takes 300 us */
#define WAITER_BLOCKED_MAX     256u    /* messages to block for, after spins that were in vain */
#define WAITER_CAUGHT          64u     /* messages caught in a row that halve that */

struct waiter {
    enum wait_mode mode;
    struct shm_lane *lane; /* whose head to sleep on */
    bool futex;            /* sleep on it; else nap */
    bool barrier;          /* the producer has no fence before its look at wish: membarrier */
    bool one_cpu;          /* spinning would only keep the other side from running */
    const char *trouble;   /* something to say once, or NULL */

    /* What is known: when the last message was published, and the gap to the next one. */
    uint64_t published_ns, due_ns, gap_ns;
    uint64_t lateness_ns; /* how much later than asked this machine wakes a sleeper */
    unsigned blocked;     /* messages still to block for */
    unsigned penalty;     /* for so many, the next time a spin is in vain */
    unsigned caught;      /* messages caught since the last such spin */
    bool share;           /* a displaced spinner: naps once, so that another may run */

    /* The wait at hand. */
    bool rhythm;               /* the next message is expected: sleep until, then spin until */
    uint64_t wake_ns, spin_ns; /* ... these; wake_ns 0: no sleep before the spin */
    bool in_vain;              /* that spin was displaced, or found nothing */
    bool spun, slept;          /* the last thing it did; both false: nothing yet */
    unsigned looks;
    uint64_t since_ns;     /* its begin; 0: not looked at the clock yet */
    uint64_t now_ns;       /* the time when waiter_pause last returned true */
    uint64_t nap_ns;       /* how long the next nap is */
    uint64_t timed_out_ns; /* when the last sleep was to end by itself, and did; 0: woken */

    /* Messages found by a spin, or when a sleep had ended; spins that lost their CPU; sleeps that
     * were not woken though the message was there. */
    uint64_t found_spinning, found_sleeping, displaced, missed_wakeups;
};

/* barrier: the header's SHM_FLAG_BARRIER. */
void waiter_init(struct waiter *waiter, enum wait_mode mode, struct shm_lane *lane, bool barrier);

/* A wait begins. */
void waiter_begin(struct waiter *waiter);

/* Passes a little time, at most 100 ms. Between two calls the caller looks at what it waits for.
 * @param next  the message waited for; 0: something else, so there is nothing to sleep on
 * @return true when enough has passed to look at now_ns, the deadline and the host's health */
bool waiter_pause(struct waiter *waiter, uint64_t next);

/* The next message is there, after a wait or without one; now_ns: when it was seen. Learns. */
void waiter_found(struct waiter *waiter, const struct lane_message *message, uint64_t now_ns);

/* Wakes whoever sleeps on this head. One system call. */
void waiter_wake(_Atomic uint64_t *head);

#endif
