/*
 * shm_segment.h - attach to a segment, trusting nothing; watch its host; detach.
 */
#ifndef SHM_SEGMENT_H
#define SHM_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "shm_clock.h"
#include "shm_layout.h"
#include "shm_name.h"
#include "shm_result.h"
#include "shm_role.h"

enum shm_step { SHM_STEP_OPEN, SHM_STEP_STAT, SHM_STEP_MAP, SHM_STEP_CHECK, SHM_STEPS };

/* Called at each check of every wait: at least every 100 ms, and after each change of the host's
 * health. host: SHM_OK, SHM_STALLED, SHM_ENDED, SHM_DIED or SHM_REFUSED (cut off); while no host is
 * attached, SHM_ABSENT or SHM_STARTING. @return false ends the wait with SHM_STOPPED */
typedef bool shm_idle(void *context, enum shm_result host);

struct shm_segment {
    char name[SHM_NAME_SIZE];
    int fd;
    uint64_t object_size; /* as the system says: at least size */
    void *base;
    size_t size;
    struct shm_header header; /* the private, checked copy; the shared one is not read again */
    struct shm_status *status;
    struct shm_roles roles;
    uint64_t step_ns[SHM_STEPS]; /* what attaching took */
    char why[1200]; /* one line, no name: what was found, what to do; "" after SHM_OK */

    /* The host's health, as of the last check. */
    enum shm_result host;
    uint64_t heartbeat_ns, asked_ns;
    struct shm_patience still; /* how long the heartbeat has not moved */
    bool foreign_clock;        /* the heartbeat moves, but by another clock (time namespaces) */

    /* Set them before shm_segment_attach, or leave them zero. */
    shm_idle *idle;
    void *context;
};

/* Attaches, within timeout_ns; 0: one try.
 * @param segment  zeroed, but for idle and context
 * @param name     with or without the leading slash
 * @param schema   the schema that the caller expects; NULL: any
 * @return SHM_OK, or another code and segment->why: SHM_ABSENT, SHM_STARTING, SHM_ENDED and
 *         SHM_DIED when the time is over; SHM_STOPPED, SHM_REFUSED or SHM_SYSTEM at once */
enum shm_result shm_segment_attach(struct shm_segment *segment, const char *name,
                                   const char *schema, uint64_t timeout_ns);

/* Copies and checks the header at base, in an object of object_size bytes: the part of attach that
 * needs nothing but the foreign bytes. */
enum shm_result shm_segment_check(struct shm_segment *segment);

/* Checks the host. Call it at least every 100 ms while nothing comes; the library's waits do that.
 * SHM_ENDED, SHM_DIED and SHM_REFUSED are final.
 * @return SHM_OK, SHM_STALLED, SHM_ENDED, SHM_DIED or SHM_REFUSED, and segment->why */
enum shm_result shm_segment_host(struct shm_segment *segment, uint64_t now_ns);

/* Handles SIGBUS for the whole process: if another process truncates the object, the lost pages of
 * the library's map become zeros, and shm_segment_host returns SHM_REFUSED. For 16 segments. */
void shm_segment_guard(void);

/* Unmaps, closes, and so leaves every role. In a forked child: the parent keeps its roles. */
void shm_segment_detach(struct shm_segment *segment);

#endif
