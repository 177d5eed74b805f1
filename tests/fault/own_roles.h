/* own_roles.h - real kernel locks for a segment that is but memory of this process: on an object
 * of its own, which has no name any more. */
#ifndef OWN_ROLES_H
#define OWN_ROLES_H

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "shm_segment.h"

static inline void own_roles(struct shm_segment *segment)
{
    struct shm_roles *roles = &segment->roles;

    *roles = (struct shm_roles){.file = -1};
    snprintf(roles->name, sizeof roles->name, "/t%x-roles", (unsigned)getpid());
    roles->object = shm_open(roles->name, O_RDWR | O_CREAT | O_EXCL, 0600);
    roles->fd = shm_open(roles->name, O_RDWR, 0); /* to lock; the other one is to ask through */
    shm_unlink(roles->name);
    if (roles->object < 0 || roles->fd < 0) {
        perror("own_roles");
        abort();
    }
}

#endif
