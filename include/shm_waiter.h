/*
 * shm_waiter.h - how to wait for the other side: spin, block, or know the rhythm (adaptive). And
 * the loop that waits: it has a time-out, checks the host, and can be stopped.
 */
#ifndef SHM_WAITER_H
#define SHM_WAITER_H

#include "shm_lane.h"

enum shm_wait_mode { SHM_WAIT_ADAPTIVE, SHM_WAIT_SPIN, SHM_WAIT_BLOCK };

enum shm_wait_phase {
    SHM_PHASE_POLL,  /* polls for 5 us before it sleeps */
    SHM_PHASE_DOZE,  /* sleeps until lateness_ns before the message is expected */
    SHM_PHASE_SPIN,  /* spins: the message is expected now */
    SHM_PHASE_SLEEP, /* sleeps until the message wakes it */
};

struct shm_waiter {
    struct shm_lane *lane;
    enum shm_wait_mode mode;
    int only_cpu;  /* the only CPU that it may use; -1: there are more */
    int off_cpu;   /* the CPU that it keeps off; -1: none */
    bool one_cpu;  /* only_cpu may be the host's, too: spins only in mode SHM_WAIT_SPIN */
    bool may_move; /* see shm_waiter_may_move */

    /* The wait at hand. */
    bool slept;                /* its last step was a sleep */
    struct shm_patience laps;  /* since it was lapped without a whole message in between; or 0 */
    uint64_t lost;             /* lane->lost as of the last lap */
    uint64_t now_ns, until_ns; /* the clock when it was last read, and the end of the phase */
    uint64_t timed_out_ns;     /* the end of the last sleep, if it timed out; else 0 */
    enum shm_wait_phase phase;
    unsigned polls;

    /* Learned so far: of the last message, when it was due, and how late it was published; the gap
     * to the next one; when that one is expected, and how much later it may come. */
    uint64_t due_ns, late_ns, gap_ns, expected_ns, spread_ns;
    uint64_t lateness_ns; /* wake-up delay: 97 of 100 sleeps end at most so much late */
    unsigned blocked;     /* messages still to block for */
    unsigned penalty; /* messages to block for after the next spin in vain: 0, 1, 3, 7 ... 255 */
    unsigned away;    /* + 32: it lost its CPU for over 1 ms; - 1: a spin found a message */

    /* Messages found by spinning, and after a sleep; spins that lost their CPU, in all and while it
     * kept off the host's; sleeps that timed out although the message was there. */
    uint64_t found_spinning, found_sleeping, displaced, displaced_off, missed_wakeups;
};

/* Prepares to wait on this lane. Each wait calls idle of the lane's segment at each check. */
void shm_waiter_init(struct shm_waiter *waiter, enum shm_wait_mode mode, struct shm_lane *lane);

/* Lets a waiter that spins or adapts keep off its host's CPU, now and at each check of the host: it
 * removes that CPU from the affinity of the calling thread, and adds the one it removed before. It
 * removes none if it may use one CPU only, or if others are short of CPUs. Linux only. */
void shm_waiter_may_move(struct shm_waiter *waiter);

/* Lets sleeps of the calling thread end in time, not up to 50 us later (prctl(2)). Linux only. */
void shm_timer_slack(void);

/* Waits for the next message of the lane, and takes it (shm_lane_next). Use it in its slot, then
 * call shm_lane_confirm and shm_lane_release.
 * timeout_ns: as struct shm_patience counts; 0: does not wait.
 * @return SHM_OK and *message with seen_ns; SHM_TIMEOUT; SHM_STOPPED; SHM_ENDED (all that was
 * published was read), SHM_DIED; SHM_LAPPED: each message was overwritten before it was read, for
 * timeout_ns; SHM_DROPPED, SHM_DAMAGED, SHM_REFUSED (segment->why) */
enum shm_result shm_receive(struct shm_waiter *waiter, uint64_t timeout_ns,
                            struct shm_message *message);

/* Waits until ready(argument) is true. Calls it without a pause for 5 us, then naps.
 * @return SHM_OK, SHM_TIMEOUT, SHM_STOPPED, SHM_ENDED, SHM_DIED, SHM_DROPPED, SHM_REFUSED */
enum shm_result shm_wait(struct shm_lane *lane, bool (*ready)(void *argument), void *argument,
                         uint64_t timeout_ns);

/* Waits until shm_lane_reserve has room. Checks the host every 100 ms even where there always is:
 * otherwise a slow sender would fill a dead host's whole ring before it noticed.
 * @return as shm_wait */
enum shm_result shm_wait_room(struct shm_lane *lane, uint64_t timeout_ns);

#endif
