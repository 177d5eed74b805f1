/*
 * links.h - the C end of every transport of the benchmark: a message in, its echo out.
 */
#ifndef LINKS_H
#define LINKS_H

#include <stdbool.h>
#include <string.h>
#include <sys/types.h>

#include "shm_waiter.h"

struct link {
    enum shm_wait_mode wait;
    uint64_t size; /* of each message */
    bool echo;     /* messages are sent back */
    /* The message at hand. */
    const unsigned char *bytes;
    uint64_t published_ns; /* shm: the stamp that commit made; else that before the send */
    uint64_t seen_ns;
    /* next waits for a message, and tells when it saw it; done gives it back (false: it was torn);
     * reply sends it back. */
    bool (*next)(struct link *), (*done)(struct link *), (*reply)(struct link *);
    /* Of the one transport that it is. */
    ssize_t (*get)(int, void *, size_t);
    ssize_t (*put)(int, const void *, size_t);
    int in, out;
    unsigned char *buffer;
    void *socket;
    struct shm_segment segment;
    struct shm_lane down, up;
    struct shm_waiter waiter;
    struct shm_message message;
};

/* Each fills in a link whose wait, size and echo are set. @return false when it cannot */
bool link_open_kernel(struct link *link, const char *kind, const char *in, const char *out);
bool link_open_zmq(struct link *link, const char *address); /* its own thread may run anywhere */
bool link_open_shm(struct link *link, const char *name);

/* libzmq's version, zeros where there is none. */
void link_zmq_version(int version[3]);

static inline uint64_t word_at(const unsigned char *bytes, size_t at)
{
    uint64_t word;
    memcpy(&word, bytes + at, sizeof word);
    return word;
}

#endif
