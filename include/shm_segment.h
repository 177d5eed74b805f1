/*
 * shm_segment.h - one segment: attach to it, trusting nothing; take roles; watch its host; detach.
 */
#ifndef SHM_SEGMENT_H
#define SHM_SEGMENT_H

#include <stdbool.h>
#include <stdint.h>

#include "shm_clock.h"
#include "shm_layout.h"

/* ---- results: X(result, value, text); shm_result_text returns text, the end of a sentence ---- */

#define SHM_RESULTS(X)                                                                             \
    X(SHM_OK, 0, "done")                                                                           \
    /* Try again, or wait. */                                                                      \
    X(SHM_EMPTY, -1, "nothing new")                                                                \
    X(SHM_FULL, -2, "full: the consumer has not released the slot")                                \
    X(SHM_LAPPED, -3, "overwritten before it was read") /* counted in lost; reading goes on */     \
    X(SHM_AGAIN, -4, "the host does not receive, or has yet to drop a dead consumer")              \
    X(SHM_ABSENT, -5, "no host: there is no such segment")                                         \
    X(SHM_STARTING, -6, "its host has not finished starting")                                      \
    X(SHM_STALLED, -7, "its host is stalled") /* it lives, but its heartbeat stands still */       \
    /* A wait ends. */                                                                             \
    X(SHM_TIMEOUT, -8, "nothing came in time")                                                     \
    X(SHM_STOPPED, -9, "stopped") /* the idle function returned false */                           \
    X(SHM_ENDED, -10, "its host has ended")                                                        \
    X(SHM_DIED, -11, "its host died") /* and did not close the segment */                          \
    /* Failures. */                                                                                \
    X(SHM_BUSY, -12, "another process holds the role")                                             \
    X(SHM_DROPPED, -13, "dropped: the host took this consumer for stalled")                        \
    X(SHM_BAD_CRC, -14, "a message does not match its CRC-32")                                     \
    X(SHM_DAMAGED, -15, "the segment is damaged")  /* no correct producer writes such a value */   \
    X(SHM_REFUSED, -16, "the segment was refused") /* not ours, truncated, another schema ... */   \
    X(SHM_SYSTEM, -17, "a system call failed")

#define SHM_RESULT(result, value, text) result = value,
enum shm_result { SHM_RESULTS(SHM_RESULT) };

const char *shm_result_text(enum shm_result result);

/* ---- names ---- */

#ifdef __APPLE__
#define SHM_ON_MACOS true
#else
#define SHM_ON_MACOS false
#endif
/* With the slash. Linux: NAME_MAX after it (tmpfs); macOS: PSHMNAMLEN (bsd/kern/posix_shm.c). */
#define SHM_NAME_MAX_LINUX 256u
#define SHM_NAME_MAX_MACOS 31u
#define SHM_NAME_SIZE      (SHM_NAME_MAX_LINUX + 1)

/* Puts exactly one slash before in[0 ... length) and checks the rest.
 * @return NULL; or what is wrong, as the second half of a sentence, and out is "" */
const char *shm_name_normalise(bool macos, const char *in, size_t length, char out[SHM_NAME_SIZE]);

/* ---- a segment ---- */

enum shm_step { SHM_STEP_OPEN, SHM_STEP_STAT, SHM_STEP_MAP, SHM_STEP_CHECK, SHM_STEPS };

/* Called at each check of every wait: at least every 100 ms, and after each change of the host's
 * health. host: as from shm_segment_host; before it is attached, SHM_ABSENT or SHM_STARTING.
 * @return false ends the wait with SHM_STOPPED */
typedef bool shm_idle(void *context, enum shm_result host);

/* For one thread, with all its lanes: each thread attaches its own. */
struct shm_segment {
    /* Set them before shm_segment_attach, or leave them zero. */
    shm_idle *idle;
    void *context;

    char name[SHM_NAME_SIZE];
    int fd;                          /* of the object; asks about roles */
    int lock_fd;                     /* has our locks; -1: none yet */
    struct shm_lock_file *lock_file; /* NULL: roles are locks of the object itself */
    unsigned roles;                  /* bit 1 << role: ours */
    uint64_t object_size;            /* bytes, as the system says */
    void *base;                      /* the map, and its size in bytes */
    size_t size;
    struct shm_status *status;
    struct shm_header header;    /* the private, checked copy; the shared one is not read again */
    uint64_t step_ns[SHM_STEPS]; /* what attaching took */
    char why[1200]; /* one line, no segment name: what was found, what to do; "" after SHM_OK */

    /* The host's health, as of the last check. */
    enum shm_result host;
    uint64_t heartbeat_ns, asked_ns;
    struct shm_patience still; /* how long the heartbeat has not moved */
    bool foreign_clock;        /* the heartbeat moves, but by another clock (time namespaces) */
};

/* Attaches, within timeout_ns; 0: one try. If it fails, nothing is left open.
 * @param segment  zeroed, but for idle and context; or one that was detached
 * @param name     with or without the leading slash
 * @param schema   the schema that the caller expects; NULL: any
 * @return SHM_OK, or another code and segment->why: SHM_ABSENT, SHM_STARTING, SHM_ENDED and
 *         SHM_DIED when the time is over; SHM_STOPPED, SHM_REFUSED or SHM_SYSTEM at once */
enum shm_result shm_segment_attach(struct shm_segment *segment, const char *name,
                                   const char *schema, uint64_t timeout_ns);

/* The part of attach that needs only the foreign bytes: copies and checks the header at base, in an
 * object of object_size bytes. */
enum shm_result shm_segment_check(struct shm_segment *segment);

/* Checks the host. Call it at least every 100 ms while nothing comes; the library's waits do that,
 * but shm_wait only when it has to wait. SHM_ENDED, SHM_DIED and SHM_REFUSED (truncated) are final.
 * @return SHM_OK, SHM_STALLED, SHM_ENDED, SHM_DIED or SHM_REFUSED, and segment->why */
enum shm_result shm_segment_host(struct shm_segment *segment, uint64_t now_ns);

/* Handles SIGBUS, for the whole process, for one segment: the one that was attached last. If
 * another process truncates it, its map becomes zeros, and shm_segment_host returns SHM_REFUSED. */
void shm_segment_guard(void);

/* Unmaps and closes: every lane of the segment ends with it, and every role is left. A consumer
 * calls shm_lane_leave first, or its host takes it for dead. A forked child calls it to drop what
 * it inherited: the parent keeps its roles, and none of them outlives the parent. */
void shm_segment_detach(struct shm_segment *segment);

/* ---- roles: locks of the kernel, which it releases when their holder dies, in any way ---- */

/* The byte that the holder has locked: 2 * lane for its producer, 2 * lane + 1 for its consumer.
 * Linux 3.15 and later: a byte of the object itself (fcntl(2), open file description locks).
 * Elsewhere (macOS), or with SHMPRUEBA_LOCK_FILE set in the environment: a byte of
 * /tmp/shmprueba-UID-NAME.lock, which the host creates (F_SETLK); UID owns the object. */
enum shm_role {
    SHM_ROLE_HOST,     /* producer of the down lane, for life */
    SHM_ROLE_CONSUMER, /* consumer of the down lane */
    SHM_ROLE_SENDER,   /* producer of the up lane */
    SHM_ROLE_RECEIVER, /* consumer of the up lane: the host, where it receives */
};

/* Opens the object segment->name, and the lock file where roles need one. Attach does that.
 * @return SHM_OK; SHM_REFUSED: the lock file is another user's; SHM_SYSTEM and errno (ENOENT: there
 * is no host). Close them in any case */
enum shm_result shm_roles_open(struct shm_segment *segment);

/* Closes them, and so leaves every role. Detach does that. */
void shm_roles_close(struct shm_segment *segment);

/* @return SHM_OK: it is ours; SHM_BUSY: some process holds it; SHM_ABSENT: the name does not lead
 * to this object any more; SHM_SYSTEM and errno */
enum shm_result shm_role_take(struct shm_segment *segment, enum shm_role role);

/* @return true when any process holds it, ours included. Takes 0.6 us. */
bool shm_role_is_held(const struct shm_segment *segment, enum shm_role role);

/* Releases it, if it is ours. Not in a forked child: it would release the parent's. */
void shm_role_leave(struct shm_segment *segment, enum shm_role role);

#endif
