/*
 * shm_name.h - the name of a segment, as the operating system wants it.
 *
 * The same rule stands in shmprueba.py (normalise_name); tests/data/shm_names.tsv drives the tests
 * of both. The system is an argument, so that the macOS rule is tested on Linux.
 */
#ifndef SHM_NAME_H
#define SHM_NAME_H

#include <stdbool.h>
#include <stddef.h>

#ifdef __APPLE__
#define SHM_ON_MACOS true
#else
#define SHM_ON_MACOS false
#endif

/* With the slash. Linux: NAME_MAX bytes after it (tmpfs); macOS: PSHMNAMLEN
 * (bsd/kern/posix_shm.c). */
#define SHM_NAME_MAX_LINUX 256u
#define SHM_NAME_MAX_MACOS 31u
#define SHM_NAME_SIZE      (SHM_NAME_MAX_LINUX + 1)

/* Puts exactly one slash before in[0 ... length) and checks the rest.
 * @return NULL; or what is wrong, as the second half of a sentence, and out is "" */
const char *shm_name_normalise(bool macos, const char *in, size_t length, char out[SHM_NAME_SIZE]);

#endif
