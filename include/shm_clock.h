/*
 * shm_clock.h - the shared clock, and how each wait measures its time-out.
 */
#ifndef SHM_CLOCK_H
#define SHM_CLOCK_H

#include <stdint.h>
#include <time.h>

/* Both programs read the same clock. On macOS CLOCK_MONOTONIC has a resolution of only 1 us;
 * CLOCK_UPTIME_RAW, which only macOS has, has that of the hardware. */
#ifdef CLOCK_UPTIME_RAW
#define SHM_CLOCK      CLOCK_UPTIME_RAW
#define SHM_CLOCK_NAME "CLOCK_UPTIME_RAW"
#else
#define SHM_CLOCK      CLOCK_MONOTONIC
#define SHM_CLOCK_NAME "CLOCK_MONOTONIC"
#endif

/* @return nanoseconds; cannot fail. Not inline: a strict -std=c11 hides the clocks from a user. */
uint64_t shm_clock_now_ns(void);

/* How long this process has waited: the sum of the times between checks, each counted as at most
 * 200 ms. So time during which it was stopped (Ctrl-Z, docker pause, a suspended laptop) does not
 * count against the other side. Begin with {0, now}. */
#define SHM_CHECK_MOST_NS 200000000u

struct shm_patience {
    uint64_t spent_ns, checked_ns;
};

/* A check at now_ns. @return nanoseconds spent waiting so far */
static inline uint64_t shm_patience_spent(struct shm_patience *patience, uint64_t now_ns)
{
    const uint64_t since_ns = now_ns - patience->checked_ns;

    patience->spent_ns += since_ns < SHM_CHECK_MOST_NS ? since_ns : SHM_CHECK_MOST_NS;
    patience->checked_ns = now_ns;
    return patience->spent_ns;
}

#endif
