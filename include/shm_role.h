/*
 * shm_role.h - the roles of a segment (producer and consumer of each lane): locks of the kernel.
 *
 * The holder of a role has an exclusive lock on one byte of the shared memory object. The kernel
 * releases the lock when its holder dies, in any way, and tells any process whether it is held.
 * That works across pid namespaces, and needs no pid, which another process may have by now.
 *
 * Linux 3.15 and later: open file description locks (fcntl(2), F_OFD_SETLK) on the object itself.
 * Elsewhere (macOS), or with SHMPRUEBA_LOCK_FILE set in the environment: process locks (F_SETLK) on
 * the same bytes of /tmp/shmprueba-UID-NAME.lock, which the host creates; UID owns the object.
 *
 * A forked child must close the descriptors that it inherits (shm_segment_detach does), or a role
 * of its parent outlives the parent. It must not leave a role: that would release the parent's.
 */
#ifndef SHM_ROLE_H
#define SHM_ROLE_H

#include <stdbool.h>

#include "shm_name.h"
#include "shm_result.h"

/* The offset of the byte to lock: 2 * lane for its producer, 2 * lane + 1 for its consumer. */
enum shm_role {
    SHM_ROLE_HOST = 0,     /* producer of the down lane, for life */
    SHM_ROLE_CONSUMER = 1, /* consumer of the down lane */
    SHM_ROLE_SENDER = 2,   /* producer of the up lane */
    SHM_ROLE_RECEIVER = 3, /* consumer of the up lane: the host, where it receives */
};

struct shm_roles {
    char name[SHM_NAME_SIZE];
    int object;    /* the caller's descriptor of the object, for queries; not closed here */
    int fd;        /* the descriptor that has our locks, never mapped; or -1 */
    unsigned held; /* bit 1 << role: ours */
    int file;      /* lock file form: index into this process's table of lock files; else -1 */
};

/* Opens the object of this name to read and write, never a link, folder or device.
 * @return a descriptor that closes on exec; or -1 and errno */
int shm_role_open_object(const char *name);

/* @param object  an open descriptor of the shared memory object called name. Lock file form: the
 *                object is opened again, because it may be older than the lock file just opened
 * @return SHM_OK; SHM_ABSENT: lock file form, there is no lock file, so no host; SHM_REFUSED: the
 * lock file is another user's; SHM_SYSTEM and errno. Close it in any case */
enum shm_result shm_roles_open(struct shm_roles *roles, const char *name, int *object);

/* @return SHM_OK: it is ours; SHM_BUSY: some process holds it; SHM_ABSENT: the name does not lead
 * to this object any more; SHM_SYSTEM and errno */
enum shm_result shm_role_take(struct shm_roles *roles, enum shm_role role);

/* @return true when any process holds it, ours included. Takes 0.6 us. */
bool shm_role_is_held(const struct shm_roles *roles, enum shm_role role);

/* Releases it, if it is ours. */
void shm_role_leave(struct shm_roles *roles, enum shm_role role);

/* Leaves every role by closing. In a forked child: the parent keeps its roles. */
void shm_roles_close(struct shm_roles *roles);

#endif
