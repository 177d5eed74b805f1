/*
 * options.h - the command line of cliente_c, and its exit codes.
 */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>

#include "shm_name.h"
#include "waiter.h"

enum exit_code {
    EXIT_DONE = 0,
    EXIT_SYSTEM = 1,
    EXIT_USAGE = 2,
    EXIT_NO_HOST = 3,
    EXIT_HOST_DIED = 4,
    EXIT_REFUSED = 5,
    EXIT_DATA = 6,
};

struct options {
    uint64_t count; /* 0: no end */
    uint64_t timeout_ns;
    enum wait_mode wait;
    bool lossless, echo, verify, json, quiet, ndjson;
    const char *output, *source; /* a path, "-", or NULL */
    char name[SHM_NAME_SIZE];    /* normalised */
};

/* Does not return where the options are wrong (one line, EXIT_USAGE), nor after --help, --version
 * and --layout. */
struct options options_parse(int argc, char **argv);

#endif
