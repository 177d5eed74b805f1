#define _GNU_SOURCE 1
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "shm_segment.h"

#ifdef __linux__
#define OPEN_FLAGS   (O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
#define BY_LOCK_FILE (getenv("SHMPRUEBA_LOCK_FILE") != NULL) /* for tests */
#else
#define OPEN_FLAGS   0 /* shm_open of macOS allows no others; its descriptor closes on exec */
#define BY_LOCK_FILE true
#endif
/* F_OFD_GETLK and F_OFD_SETLK of Linux; not every C library's header has them. */
#define OFD_GETLK 36
#define OFD_SETLK 37

/* The kernel releases a process lock (F_SETLK) when the process closes any descriptor of the file,
 * and tells the holder itself that the lock is free. So this process has one descriptor for each
 * lock file, and a table of the roles that it holds. */
static struct shm_lock_file {
    dev_t device;
    ino_t inode;
    int fd;
    unsigned users;        /* how many segments use this entry; 0: free */
    _Atomic unsigned held; /* bit 1 << role: one of them holds it */
} files[64];
static atomic_flag files_busy = ATOMIC_FLAG_INIT; /* guards all but held */

static int open_object(const struct shm_segment *segment)
{
    return shm_open(segment->name, O_RDWR | OPEN_FLAGS, 0);
}

static enum shm_result open_lock_file(struct shm_segment *segment)
{
    struct stat object, found;
    char path[SHM_NAME_SIZE + 64];
    struct shm_lock_file *file = NULL;

    if (fstat(segment->fd, &object) != 0)
        return SHM_SYSTEM;
    snprintf(path, sizeof path, "/tmp/shmprueba-%lu-%s.lock", (unsigned long)object.st_uid,
             segment->name + 1);
    /* lstat, not open: closing that descriptor again would release the locks of this process. */
    if (lstat(path, &found) != 0)
        return SHM_SYSTEM;
    if (!S_ISREG(found.st_mode) || (found.st_uid != object.st_uid && found.st_uid != geteuid()))
        return SHM_REFUSED;
    while (atomic_flag_test_and_set(&files_busy))
        continue;
    /* The entry of this file, or else a free one. */
    for (size_t i = 0; i < sizeof files / sizeof files[0] && (!file || file->users == 0); i++)
        if (files[i].users == 0 ||
            (files[i].device == found.st_dev && files[i].inode == found.st_ino))
            file = &files[i];
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
        segment->lock_file = file;
        segment->lock_fd = file->fd;
    }
    atomic_flag_clear(&files_busy);
    return segment->lock_fd >= 0 ? SHM_OK : SHM_SYSTEM;
}

enum shm_result shm_roles_open(struct shm_segment *segment)
{
    segment->lock_fd = -1;
    segment->fd = open_object(segment);
    if (segment->fd >= 0 && BY_LOCK_FILE) {
        const enum shm_result result = open_lock_file(segment);
        if (result != SHM_OK)
            return result;
        close(segment->fd); /* it may be older than the lock file */
        segment->fd = open_object(segment);
    }
    return segment->fd >= 0 ? SHM_OK : SHM_SYSTEM;
}

static struct flock byte_of(enum shm_role role, short type)
{
    return (struct flock){.l_type = type, .l_whence = SEEK_SET, .l_start = (off_t)role, .l_len = 1};
}

static int set_lock(const struct shm_segment *segment, enum shm_role role, short type)
{
    struct flock lock = byte_of(role, type);

    return fcntl(segment->lock_fd, segment->lock_file ? F_SETLK : OFD_SETLK, &lock);
}

/* Opens the object once more, for our locks. Asked through the descriptor that has a lock, the
 * kernel reports that lock as free; and a map of that descriptor keeps it in a forked child. */
static enum shm_result open_second(struct shm_segment *segment)
{
    struct stat first, second;
    const int fd = open_object(segment);

    if (fd < 0)
        return errno == ENOENT ? SHM_ABSENT : SHM_SYSTEM;
    if (fstat(segment->fd, &first) != 0 || fstat(fd, &second) != 0 ||
        first.st_dev != second.st_dev || first.st_ino != second.st_ino) {
        close(fd);
        return SHM_ABSENT;
    }
    segment->lock_fd = fd;
    return SHM_OK;
}

enum shm_result shm_role_take(struct shm_segment *segment, enum shm_role role)
{
    const unsigned bit = 1u << role;
    struct shm_lock_file *file = segment->lock_file;

    if ((segment->roles & bit) || (file && atomic_fetch_or(&file->held, bit) & bit))
        return SHM_BUSY;
    const enum shm_result result = segment->lock_fd < 0 ? open_second(segment) : SHM_OK;
    if (result != SHM_OK)
        return result;
    if (set_lock(segment, role, F_WRLCK) == 0) {
        segment->roles |= bit;
        return SHM_OK;
    }
    if (file)
        atomic_fetch_and(&file->held, ~bit);
    return errno == EAGAIN || errno == EACCES ? SHM_BUSY : SHM_SYSTEM;
}

bool shm_role_is_held(const struct shm_segment *segment, enum shm_role role)
{
    const struct shm_lock_file *file = segment->lock_file;
    struct flock lock = byte_of(role, F_WRLCK);

    if (file && atomic_load(&file->held) & 1u << role)
        return true;
    /* If the query fails, the holder may still live. */
    return fcntl(file ? file->fd : segment->fd, file ? F_GETLK : OFD_GETLK, &lock) != 0 ||
           lock.l_type != F_UNLCK;
}

void shm_role_leave(struct shm_segment *segment, enum shm_role role)
{
    const unsigned bit = 1u << role;

    if (!(segment->roles & bit))
        return;
    segment->roles &= ~bit;
    set_lock(segment, role, F_UNLCK);
    if (segment->lock_file)
        atomic_fetch_and(&segment->lock_file->held, ~bit);
}

void shm_roles_close(struct shm_segment *segment)
{
    struct shm_lock_file *file = segment->lock_file;

    while (atomic_flag_test_and_set(&files_busy))
        continue;
    for (int role = 0; file && role <= SHM_ROLE_RECEIVER; role++)
        shm_role_leave(segment, (enum shm_role)role);
    if (segment->lock_fd >= 0 && (!file || --file->users == 0))
        close(segment->lock_fd);
    if (segment->fd >= 0)
        close(segment->fd);
    segment->fd = segment->lock_fd = -1;
    atomic_flag_clear(&files_busy);
}
