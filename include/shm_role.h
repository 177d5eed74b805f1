/*
 * shm_role.h - the roles of a segment (producer and consumer of each lane): locks of the kernel.
 *
 * The holder of a role holds an exclusive lock of one byte of the shared memory object. The kernel
 * releases it when its holder dies, however it dies, and tells any process whether it is held:
 * across pid namespaces, and without a pid that could be another process's by now.
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

/* Each is the offset of the byte to lock: 2 * lane for its producer, and the next for its consumer.
 */
enum shm_role {
    SHM_ROLE_HOST = 0,     /* producer of the down lane, for life */
    SHM_ROLE_CONSUMER = 1, /* consumer of the down lane */
    SHM_ROLE_SENDER = 2,   /* producer of the up lane */
    SHM_ROLE_RECEIVER = 3, /* consumer of the up lane: the host, where it receives */
};

struct shm_roles {
    char name[SHM_NAME_SIZE];
    int object;    /* the caller's descriptor of the object, to ask through; not closed here */
    int fd;        /* where our own locks are: a description of its own, never mapped; or -1 */
    unsigned held; /* bit 1 << role: ours */
    int file;      /* lock file form: index into this process's table of lock files; else -1 */
};

/* Opens the object of this name to read and write, never a link, folder or device.
 * @return a descriptor that closes on exec; or -1 and errno */
int shm_role_open_object(const char *name);

/* @param object  an open descriptor of the shared memory object called name. Lock file form: it is
 *                opened again, because only an object that is opened after its lock file is as new
 * @return SHM_OK; SHM_ABSENT: lock file form, there is no lock file, so no host; SHM_REFUSED: the
 * lock file is another user's; SHM_SYSTEM and errno. Close it in any case */
enum shm_result shm_roles_open(struct shm_roles *roles, const char *name, int *object);

/* @return SHM_OK: it is ours; SHM_BUSY: it is held, by whomever; SHM_ABSENT: the name does not lead
 * to this object any more; SHM_SYSTEM and errno */
enum shm_result shm_role_take(struct shm_roles *roles, enum shm_role role);

/* @return true when any process holds it, ours included. 0.6 us. */
bool shm_role_is_held(const struct shm_roles *roles, enum shm_role role);

/* Releases it, if it is ours. */
void shm_role_leave(struct shm_roles *roles, enum shm_role role);

/* Leaves every role by closing: in a forked child, its parent keeps them. */
void shm_roles_close(struct shm_roles *roles);

#endif
