#define _GNU_SOURCE
#include "shm_role.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef __APPLE__
#define OPEN_FLAGS 0 /* shm_open allows no others there; its descriptor closes on exec */
#else
#define OPEN_FLAGS (O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
#endif
#ifdef __linux__ /* F_OFD_GETLK and F_OFD_SETLK; not every C library's header has them */
#define OBJECT_GETLK 36
#define OBJECT_SETLK 37
#else /* never used: shared memory objects take no locks there */
#define OBJECT_GETLK F_GETLK
#define OBJECT_SETLK F_SETLK
#endif

/* Lock file form. The kernel releases a process lock when the process closes any descriptor of the
 * file, and tells the holder itself that the lock is free. So this process has one descriptor for
 * each file, and a table of the roles that it holds. */
struct lock_file {
    dev_t device;
    ino_t inode;
    int fd;
    unsigned users;        /* how many struct shm_roles use this entry; 0: free */
    _Atomic unsigned held; /* bit 1 << role: one of them holds it */
};
static struct lock_file files[64];
static atomic_flag files_busy = ATOMIC_FLAG_INIT; /* guards all but held */

int shm_role_open_object(const char *name)
{
    return shm_open(name, O_RDWR | OPEN_FLAGS, 0);
}

/* @return the entry of this file, or a free one; NULL: there are too many */
static struct lock_file *entry_of(const struct stat *found)
{
    struct lock_file *free_one = NULL;

    for (size_t i = 0; i < sizeof files / sizeof files[0]; i++)
        if (files[i].users == 0)
            free_one = &files[i];
        else if (files[i].device == found->st_dev && files[i].inode == found->st_ino)
            return &files[i];
    return free_one;
}

static enum shm_result open_lock_file(struct shm_roles *roles)
{
    struct stat object, found;
    char path[SHM_NAME_SIZE + 64];

    if (fstat(roles->object, &object) != 0)
        return SHM_SYSTEM;
    snprintf(path, sizeof path, "/tmp/shmprueba-%lu-%s.lock", (unsigned long)object.st_uid,
             roles->name + 1);
    /* lstat, not open: closing that descriptor again would release the locks of this process. */
    if (lstat(path, &found) != 0)
        return errno == ENOENT ? SHM_ABSENT : SHM_SYSTEM;
    if (!S_ISREG(found.st_mode) || (found.st_uid != object.st_uid && found.st_uid != geteuid()))
        return SHM_REFUSED;
    while (atomic_flag_test_and_set(&files_busy))
        continue;
    struct lock_file *file = entry_of(&found);
    errno = EMFILE;
    if (file != NULL && file->users == 0) {
        file->fd = open(path, O_RDWR | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
        if (file->fd >= 0 && fstat(file->fd, &found) == 0) { /* perhaps a newer file */
            file->device = found.st_dev;
            file->inode = found.st_ino;
        }
    }
    if (file != NULL && file->fd >= 0) {
        file->users++;
        roles->file = (int)(file - files);
        roles->fd = file->fd;
    }
    atomic_flag_clear(&files_busy);
    return roles->file >= 0 ? SHM_OK : SHM_SYSTEM;
}

enum shm_result shm_roles_open(struct shm_roles *roles, const char *name, int *object)
{
    *roles = (struct shm_roles){.object = *object, .fd = -1, .file = -1};
    snprintf(roles->name, sizeof roles->name, "%s", name);
#ifdef __linux__
    if (getenv("SHMPRUEBA_LOCK_FILE") == NULL) /* for tests */
        return SHM_OK;
#endif
    const enum shm_result result = open_lock_file(roles);
    if (result != SHM_OK)
        return result;
    close(*object);
    roles->object = *object = shm_role_open_object(name);
    return *object >= 0 ? SHM_OK : errno == ENOENT ? SHM_ABSENT : SHM_SYSTEM;
}

static struct flock byte_of(enum shm_role role, short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)role, .l_len = 1};
}

/* Opens the object once more, for our locks. Through the descriptor that has a lock the kernel
 * would report it as free, and a mapping of it would keep the lock alive in a forked child. */
static enum shm_result open_second(struct shm_roles *roles)
{
    struct stat first, second;
    const int fd = shm_role_open_object(roles->name);

    if (fd < 0)
        return errno == ENOENT ? SHM_ABSENT : SHM_SYSTEM;
    if (fstat(roles->object, &first) != 0 || fstat(fd, &second) != 0 ||
        first.st_dev != second.st_dev || first.st_ino != second.st_ino) {
        close(fd);
        return SHM_ABSENT;
    }
    roles->fd = fd;
    return SHM_OK;
}

enum shm_result shm_role_take(struct shm_roles *roles, enum shm_role role)
{
    const unsigned bit = 1u << role;
    const bool file = roles->file >= 0;
    struct flock lock = byte_of(role, F_WRLCK);

    if ((roles->held & bit) || (file && atomic_fetch_or(&files[roles->file].held, bit) & bit))
        return SHM_BUSY;
    const enum shm_result result = roles->fd < 0 ? open_second(roles) : SHM_OK;
    if (result != SHM_OK)
        return result;
    if (fcntl(roles->fd, file ? F_SETLK : OBJECT_SETLK, &lock) == 0) {
        roles->held |= bit;
        return SHM_OK;
    }
    if (file)
        atomic_fetch_and(&files[roles->file].held, ~bit);
    return errno == EAGAIN || errno == EACCES ? SHM_BUSY : SHM_SYSTEM;
}

bool shm_role_is_held(const struct shm_roles *roles, enum shm_role role)
{
    const bool file = roles->file >= 0;
    struct flock lock = byte_of(role, F_WRLCK);

    if (file && atomic_load(&files[roles->file].held) & 1u << role)
        return true;
    /* If the query fails, the holder may still live. */
    return fcntl(file ? roles->fd : roles->object, file ? F_GETLK : OBJECT_GETLK, &lock) != 0 ||
           lock.l_type != F_UNLCK;
}

void shm_role_leave(struct shm_roles *roles, enum shm_role role)
{
    const unsigned bit = 1u << role;
    const bool file = roles->file >= 0;
    struct flock lock = byte_of(role, F_UNLCK);

    if (!(roles->held & bit))
        return;
    roles->held &= ~bit;
    fcntl(roles->fd, file ? F_SETLK : OBJECT_SETLK, &lock);
    if (file)
        atomic_fetch_and(&files[roles->file].held, ~bit);
}

void shm_roles_close(struct shm_roles *roles)
{
    while (atomic_flag_test_and_set(&files_busy))
        continue;
    for (int role = 0; roles->file >= 0 && role <= SHM_ROLE_RECEIVER; role++)
        shm_role_leave(roles, (enum shm_role)role);
    if (roles->fd >= 0 && (roles->file < 0 || --files[roles->file].users == 0))
        close(roles->fd);
    roles->fd = roles->file = -1;
    roles->held = 0;
    atomic_flag_clear(&files_busy);
}
