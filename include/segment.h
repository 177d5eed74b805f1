/*
 * segment.h - attach to a segment, trusting nothing; watch its host; detach.
 */
#ifndef SEGMENT_H
#define SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "shm_layout.h"
#include "shm_name.h"

enum segment_result {
    SEGMENT_OK = 0,        /* attached, and its host lives */
    SEGMENT_ABSENT = -1,   /* no object of this name */
    SEGMENT_STARTING = -2, /* its host is not ready yet */
    SEGMENT_CLOSED = -3,   /* its host has ended, the name is about to go */
    SEGMENT_STALLED = -4,  /* its host exists but does not beat */
    SEGMENT_DIED = -5,     /* left over by a host that is gone */
    SEGMENT_REFUSED = -6,  /* not ours, wrong version, impossible sizes, another user's, cut off */
    SEGMENT_ERROR = -7,    /* a system call failed */
};

enum segment_step { STEP_OPEN, STEP_STAT, STEP_MAP, STEP_CHECK };

struct segment {
    char name[SHM_NAME_SIZE];
    int fd;
    uint64_t object_size; /* as the system says: at least size */
    void *base;
    size_t size;
    struct shm_header header; /* the private, checked copy; the shared one is not read again */
    struct shm_status *status;
    uint64_t step_ns[4]; /* by enum segment_step */
    char why[256];       /* one line: what was found, what to do; after any result but SEGMENT_OK */

    /* The host's health: judged by the heartbeat's movement, because its value may come from
     * another clock (time namespaces). */
    uint64_t heartbeat_ns, moved_ns, looked_ns;
    bool foreign_clock; /* the heartbeat moves, but by another clock */
};

/* One try; never waits longer than 0.4 s (for a heartbeat to move, where it is not fresh).
 * @param name  normalised (shm_name_normalise)
 * @return SEGMENT_OK, or a negative code and segment->why; the codes from SEGMENT_ABSENT to
 *         SEGMENT_DIED may be different at the next try */
enum segment_result segment_attach(struct segment *segment, const char *name);

/* Fills in and checks the header of what lies at base, in an object of object_size bytes: the part
 * of attach that looks at foreign bytes only. */
enum segment_result segment_check(struct segment *segment);

/* How is its host now? Call it at least every 100 ms while nothing comes.
 * @return SEGMENT_OK; SEGMENT_CLOSED, _STALLED, _DIED, _REFUSED, and segment->why */
enum segment_result segment_host(struct segment *segment, uint64_t now_ns);
extern const char *const segment_host_names[]; /* in one word, by minus what it returned */

/* Takes SIGBUS, once a process: pages that vanish under the map become zeros, and segment_host says
 * so. */
void segment_guard(void);

/* @return true when no process has this pid, or only a zombie, which will not run again */
bool process_is_gone(uint64_t pid);

void segment_detach(struct segment *segment);

#endif
