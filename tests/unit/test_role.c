/*
 * src/role.c: real locks between real processes, in both forms: of the object, and of the lock file
 * that stands in for it where shared memory objects take no locks.
 */
#define _GNU_SOURCE 1
#include "shm_segment.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>

#include "unit.h"

static bool lock_file; /* the form */
static char names[2][SHM_NAME_SIZE];

static void path_of(const char *name, char path[600])
{
    snprintf(path, 600, "/tmp/shmprueba-%lu-%s.lock", (unsigned long)geteuid(), name + 1);
}

static void create(const char *name)
{
    char path[600];
    const int object = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);

    CHECK(object >= 0 && ftruncate(object, 4096) == 0);
    close(object);
    if (lock_file) {
        path_of(name, path);
        const int fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
        CHECK(fd >= 0);
        close(fd); /* nothing is locked yet */
    }
}

static void discard(const char *name)
{
    char path[600];

    path_of(name, path);
    shm_unlink(name);
    unlink(path);
}

static enum shm_result open_side(struct shm_segment *side, const char *name)
{
    *side = (struct shm_segment){0};
    snprintf(side->name, sizeof side->name, "%s", name);
    const enum shm_result result = shm_roles_open(side);
    CHECK(side->fd >= 0);
    return result;
}

/* ---- another process, which does one thing a letter ---- */

struct child {
    pid_t pid;
    int orders, answers;
};

static struct child start(const char *name)
{
    int down[2], up[2];
    struct shm_segment side;

    CHECK(pipe(down) == 0 && pipe(up) == 0);
    const struct child child = {unit_fork(), down[1], up[0]};
    if (child.pid != 0) {
        close(down[0]);
        close(up[1]);
        return child;
    }
    close(down[1]);
    close(up[0]);
    char answer = open_side(&side, name) == SHM_OK ? 'k' : '?';
    for (char order = '0'; write(up[1], &answer, 1) == 1 && read(down[0], &order, 1) == 1;) {
        switch (order) {
        case 't': answer = (char)-shm_role_take(&side, SHM_ROLE_CONSUMER); break;
        case 'l': shm_role_leave(&side, SHM_ROLE_CONSUMER); break;
        case 'h': answer = shm_role_is_held(&side, SHM_ROLE_CONSUMER); break;
        case 'f': /* a child of its own, that closes what it inherited, and lives on */
            if (unit_fork() == 0) {
                close(up[1]);
                shm_roles_close(&side);
                answer = 'k';
                while (read(down[0], &order, 1) == 1)
                    continue;
                _exit(0);
            }
            usleep(50000); /* it has closed by then; if not, the lock is only there for longer */
            break;
        default: answer = '?';
        }
    }
    _exit(0);
}

static int answer_of(const struct child *child)
{
    char answer = '?';

    CHECK(read(child->answers, &answer, 1) == 1);
    return answer;
}

static int order(const struct child *child, char letter)
{
    CHECK(write(child->orders, &letter, 1) == 1);
    return answer_of(child);
}

static struct child start_ready(const char *name)
{
    const struct child child = start(name);

    CHECK(answer_of(&child) == 'k');
    return child;
}

static void bury(const struct child *child)
{
    kill(child->pid, SIGKILL);
    close(child->orders);
    close(child->answers);
    waitpid(child->pid, NULL, 0);
}

/* ---- the tests ---- */

static void between_processes(void)
{
    struct shm_segment side;
    const struct child child = start_ready(names[0]);

    CHECK(open_side(&side, names[0]) == SHM_OK);
    CHECK(!shm_role_is_held(&side, SHM_ROLE_CONSUMER));
    CHECK(order(&child, 't') == SHM_OK && shm_role_is_held(&side, SHM_ROLE_CONSUMER));
    CHECK(!shm_role_is_held(&side, SHM_ROLE_HOST) && !shm_role_is_held(&side, SHM_ROLE_SENDER));
    CHECK(!shm_role_is_held(&side, SHM_ROLE_RECEIVER));
    CHECK(shm_role_take(&side, SHM_ROLE_CONSUMER) == SHM_BUSY);
    shm_role_leave(&side, SHM_ROLE_CONSUMER); /* not ours: nothing happens */
    CHECK(shm_role_is_held(&side, SHM_ROLE_CONSUMER));
    CHECK(shm_role_take(&side, SHM_ROLE_SENDER) == SHM_OK); /* each role by itself */
    CHECK(shm_role_is_held(&side, SHM_ROLE_SENDER) && order(&child, 'h') == true);
    order(&child, 'l');
    CHECK(!shm_role_is_held(&side, SHM_ROLE_CONSUMER) && order(&child, 'h') == false);
    CHECK(shm_role_take(&side, SHM_ROLE_CONSUMER) == SHM_OK);
    CHECK(shm_role_take(&side, SHM_ROLE_CONSUMER) == SHM_BUSY); /* twice is once too often */
    CHECK(order(&child, 'h') == true && order(&child, 't') == -SHM_BUSY);
    shm_role_leave(&side, SHM_ROLE_CONSUMER);
    CHECK(shm_role_is_held(&side, SHM_ROLE_SENDER) && order(&child, 't') == SHM_OK);
    shm_roles_close(&side);
    bury(&child);
}

static void killed(void)
{
    struct shm_segment side;
    siginfo_t info;
    const struct child child = start_ready(names[0]);

    CHECK(open_side(&side, names[0]) == SHM_OK);
    CHECK(order(&child, 't') == SHM_OK && shm_role_is_held(&side, SHM_ROLE_CONSUMER));
    kill(child.pid, SIGSTOP); /* stopped is not dead */
    CHECK(waitpid(child.pid, NULL, WUNTRACED) == child.pid &&
          shm_role_is_held(&side, SHM_ROLE_CONSUMER));
    kill(child.pid, SIGKILL);
    CHECK(waitid(P_PID, (id_t)child.pid, &info, WEXITED | WNOWAIT) == 0);
    CHECK(kill(child.pid, 0) == 0); /* a zombie */
    CHECK(!shm_role_is_held(&side, SHM_ROLE_CONSUMER));
    CHECK(shm_role_take(&side, SHM_ROLE_CONSUMER) == SHM_OK);
    shm_roles_close(&side);
    bury(&child);
}

/* Two segments attached in one process, the same and another one: closing one leaves the role of
 * the other; with process locks, one close of the file would take it away. */
static void two_in_one_process(void)
{
    struct shm_segment first, second, other;
    const struct child child = start_ready(names[0]);

    CHECK(open_side(&first, names[0]) == SHM_OK && open_side(&second, names[0]) == SHM_OK);
    CHECK(open_side(&other, names[1]) == SHM_OK);
    CHECK(shm_role_take(&first, SHM_ROLE_CONSUMER) == SHM_OK);
    CHECK(shm_role_is_held(&first, SHM_ROLE_CONSUMER) &&
          shm_role_is_held(&second, SHM_ROLE_CONSUMER));
    CHECK(!shm_role_is_held(&other, SHM_ROLE_CONSUMER) && order(&child, 'h') == true);
    CHECK(shm_role_take(&second, SHM_ROLE_CONSUMER) == SHM_BUSY);
    CHECK(shm_role_take(&second, SHM_ROLE_SENDER) == SHM_OK);
    CHECK(shm_role_take(&other, SHM_ROLE_CONSUMER) == SHM_OK);
    shm_roles_close(&second);
    CHECK(order(&child, 'h') == true && order(&child, 't') == -SHM_BUSY);
    CHECK(shm_role_is_held(&first, SHM_ROLE_CONSUMER) &&
          !shm_role_is_held(&first, SHM_ROLE_SENDER));
    CHECK(open_side(&second, names[0]) == SHM_OK && shm_role_is_held(&second, SHM_ROLE_CONSUMER));
    shm_roles_close(&first); /* whichever goes first */
    CHECK(!shm_role_is_held(&second, SHM_ROLE_CONSUMER) &&
          shm_role_is_held(&other, SHM_ROLE_CONSUMER));
    CHECK(order(&child, 't') == SHM_OK && shm_role_is_held(&second, SHM_ROLE_CONSUMER));
    shm_roles_close(&second);
    shm_roles_close(&other);
    bury(&child);
}

/* A forked child that closes what it inherited ends nothing, and keeps nothing alive. */
static void forked(void)
{
    struct shm_segment side;
    const struct child child = start_ready(names[0]);

    CHECK(open_side(&side, names[0]) == SHM_OK);
    CHECK(order(&child, 't') == SHM_OK);
    order(&child, 'f');
    CHECK(shm_role_is_held(&side, SHM_ROLE_CONSUMER));
    kill(child.pid, SIGKILL);
    waitpid(child.pid, NULL, 0);
    for (int i = 0; i < 1000 && shm_role_is_held(&side, SHM_ROLE_CONSUMER); i++)
        usleep(1000); /* the child may be late to close, on a busy machine */
    CHECK(!shm_role_is_held(&side, SHM_ROLE_CONSUMER));
    shm_roles_close(&side);
    close(child.orders); /* ends the grandchild */
    close(child.answers);
}

static void name_replaced(void)
{
    struct shm_segment before, after;

    CHECK(open_side(&before, names[0]) == SHM_OK);
    discard(names[0]);
    if (!lock_file)
        CHECK(shm_role_take(&before, SHM_ROLE_CONSUMER) == SHM_ABSENT);
    create(names[0]);
    CHECK(open_side(&after, names[0]) == SHM_OK);
    if (!lock_file)
        CHECK(shm_role_take(&before, SHM_ROLE_CONSUMER) == SHM_ABSENT);
    CHECK(shm_role_take(&after, SHM_ROLE_HOST) == SHM_OK);
    CHECK(shm_role_is_held(&after, SHM_ROLE_HOST) &&
          !shm_role_is_held(&before, SHM_ROLE_HOST)); /* not the old one's */
    shm_roles_close(&before);
    CHECK(shm_role_is_held(&after, SHM_ROLE_HOST));
    shm_roles_close(&after);
}

static void bad_lock_files(void)
{
    char path[600], real[600];
    struct shm_segment side;

    path_of(names[0], path);
    path_of(names[1], real);
    CHECK(unlink(path) == 0);
    CHECK(open_side(&side, names[0]) == SHM_SYSTEM && errno == ENOENT);
    shm_roles_close(&side);
    CHECK(symlink(real, path) == 0);
    CHECK(open_side(&side, names[0]) == SHM_REFUSED);
    shm_roles_close(&side);
    CHECK(unlink(path) == 0 && mkdir(path, 0700) == 0);
    CHECK(open_side(&side, names[0]) == SHM_REFUSED);
    shm_roles_close(&side);
    CHECK(rmdir(path) == 0);
    if (geteuid() == 0) { /* only root can make another user's */
        const int fd = open(path, O_RDWR | O_CREAT | O_EXCL, 0666);
        CHECK(fd >= 0 && fchown(fd, 12345, 12345) == 0);
        close(fd);
        CHECK(open_side(&side, names[0]) == SHM_REFUSED);
        shm_roles_close(&side);
    }
}

int main(void)
{
    unit_begin();
    for (int form = 0; form < 2; form++) {
        lock_file = form == 1;
        if (lock_file)
            setenv("SHMPRUEBA_LOCK_FILE", "1", 1);
#ifndef __linux__
        else
            continue; /* there is no other form */
#endif
        for (int i = 0; i < 2; i++) {
            snprintf(names[i], sizeof names[i], "/role%c-%x", "ab"[i], (unsigned)getpid());
            create(names[i]);
        }
        between_processes();
        killed();
        two_in_one_process();
        forked();
        name_replaced();
        if (lock_file)
            bad_lock_files();
        for (int i = 0; i < 2; i++)
            discard(names[i]);
    }
    return unit_end();
}
