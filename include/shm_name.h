/*
 * shm_name.h - the name of a segment, as the operating system wants it.
 *
 * The same rule stands in host.py (normalise_name); tests/data/shm_names.tsv drives the tests of
 * both. The system is an argument, so that the macOS rule is tested on Linux.
 */
#ifndef SHM_NAME_H
#define SHM_NAME_H

#include <stddef.h>

enum shm_os { SHM_OS_LINUX, SHM_OS_MACOS };

#ifdef __APPLE__
#define SHM_OS_HERE SHM_OS_MACOS
#else
#define SHM_OS_HERE SHM_OS_LINUX
#endif

/* Linux: NAME_MAX bytes after the slash (tmpfs). macOS: PSHMNAMLEN, 31 bytes with the slash
 * (bsd/kern/posix_shm.c). */
#define SHM_NAME_MAX_LINUX 256u
#define SHM_NAME_MAX_MACOS 31u
#define SHM_NAME_SIZE      (SHM_NAME_MAX_LINUX + 1)

enum shm_name_result {
    SHM_NAME_OK = 0,
    SHM_NAME_EMPTY = -1,
    SHM_NAME_ONLY_SLASH = -2,
    SHM_NAME_SLASH_INSIDE = -3,
    SHM_NAME_DOTS = -4,
    SHM_NAME_CONTROL = -5,
    SHM_NAME_TOO_LONG = -6,
};

/* Puts exactly one slash before in[0 ... length) and checks the rest.
 * @return SHM_NAME_OK and out holds the name, or one of the negative codes and out is "". */
enum shm_name_result shm_name_normalise(enum shm_os os, const char *in, size_t length,
                                        char out[SHM_NAME_SIZE]);

/* @return what is wrong, as the second half of a sentence; never NULL. */
const char *shm_name_error(enum shm_name_result result);

#endif
