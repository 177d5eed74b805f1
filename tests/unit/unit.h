/* A test harness that fits on a page: CHECK notes a failure and goes on, unit_end sums up. */
#ifndef UNIT_H
#define UNIT_H

#include <stdio.h>
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

/* Ends a test that hangs. */
static inline void unit_begin(void)
{
    alarm(120);
}

static inline int unit_end(void)
{
    printf("%u checks, %u failed\n", unit_checks, unit_failures);
    return unit_failures != 0 || unit_checks == 0;
}

#endif
