/* A test harness that fits on a page: CHECK notes a failure and goes on, unit_end sums up. */
#ifndef UNIT_H
#define UNIT_H

#include <stdio.h>
#include <sys/types.h>
#include <unistd.h>

static unsigned unit_checks, unit_failures;

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        unit_checks++;                                                                             \
        if (!(condition)) {                                                                        \
            unit_failures++;                                                                       \
            fprintf(stderr, "%s:%d: failed: %s\n", __FILE__, __LINE__, #condition);                \
        }                                                                                          \
    } while (0)

/* Ends a test that hangs; far away from any speed. */
static inline void unit_begin(void)
{
    alarm(600);
}

/* fork, with the alarm in both: it would not be passed on, and an orphan would hang for ever. */
static inline pid_t unit_fork(void)
{
    const unsigned left = alarm(0);
    const pid_t pid = fork();
    alarm(left);
    return pid;
}

static inline int unit_end(void)
{
    printf("%u checks, %u failed\n", unit_checks, unit_failures);
    return unit_failures != 0 || unit_checks == 0;
}

#endif
