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
    snprintf(segment->name, sizeof segment->name, "/t%x-roles", (unsigned)getpid());
    segment->fd = shm_open(segment->name, O_RDWR | O_CREAT | O_EXCL, 0600);
    segment->lock_fd = shm_open(segment->name, O_RDWR, 0); /* fd is to ask through */
    shm_unlink(segment->name);
    if (segment->fd < 0 || segment->lock_fd < 0) {
        perror("own_roles");
        abort();
    }
}

#endif
