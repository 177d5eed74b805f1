#define _GNU_SOURCE 1
#include "links.h"

#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>
#ifdef __linux__
#include <mqueue.h>
#endif

#define LONGEST_NS 30000000000u

/* ---- kernel transports: a descriptor in, a descriptor out ---- */

static ssize_t receive_now(int fd, void *to, size_t length)
{
    return recv(fd, to, length, MSG_DONTWAIT);
}

static ssize_t receive(int fd, void *to, size_t length)
{
    return recv(fd, to, length, 0);
}

static ssize_t transmit(int fd, const void *from, size_t length)
{
    return send(fd, from, length, 0);
}

#ifdef __linux__
static ssize_t queue_get(int fd, void *to, size_t length)
{
    return mq_receive(fd, to, length, NULL);
}

static ssize_t queue_put(int fd, const void *from, size_t length)
{
    return mq_send(fd, from, length, 0) == 0 ? (ssize_t)length : -1;
}
#endif

static bool fd_next(struct link *link)
{
    for (size_t have = 0; have < link->size;) {
        const ssize_t got = link->get(link->in, link->buffer + have, link->size - have);
        if (got > 0)
            have += (size_t)got;
        else if (got == 0 || (errno != EAGAIN && errno != EINTR))
            return false;
    }
    link->seen_ns = shm_clock_now_ns();
    link->bytes = link->buffer;
    link->published_ns = word_at(link->buffer, 0);
    return true;
}

static bool fd_done(struct link *link)
{
    (void)link;
    return true;
}

static bool fd_reply(struct link *link)
{
    for (size_t sent = 0; sent < link->size;) {
        const ssize_t put = link->put(link->out, link->buffer + sent, link->size - sent);
        if (put <= 0)
            return false;
        sent += (size_t)put;
    }
    return true;
}

bool link_open_kernel(struct link *link, const char *kind, const char *in, const char *out)
{
    link->in = atoi(in);
    link->out = atoi(out);
    link->next = fd_next, link->done = fd_done, link->reply = fd_reply;
    if (strcmp(kind, "socket") == 0) {
        link->get = link->wait == SHM_WAIT_SPIN ? receive_now : receive;
        link->put = transmit;
#ifdef __linux__
    } else if (strcmp(kind, "queue") == 0) {
        link->get = queue_get; /* the driver opened it with O_NONBLOCK, or without */
        link->put = queue_put;
#endif
    } else {
        link->get = read;
        link->put = write;
        if (link->wait == SHM_WAIT_SPIN && fcntl(link->in, F_SETFL, O_NONBLOCK) != 0)
            return false;
    }
    link->buffer = calloc(1, link->size);
    return link->buffer != NULL;
}

/* ---- ZeroMQ: loaded where there is one, so that nothing is linked to it ---- */

#define ZMQ_PAIR     0 /* <zmq.h> has these, but only where its -dev package is installed */
#define ZMQ_DONTWAIT 1
#define ZMQ_RCVHWM   24

struct zmq_message {
    _Alignas(void *) unsigned char opaque[64]; /* zmq_msg_t */
};

static struct {
    void *(*ctx_new)(void);
    void *(*socket)(void *, int);
    int (*setsockopt)(void *, int, const void *, size_t);
    int (*connect)(void *, const char *);
    int (*send)(void *, const void *, size_t, int);
    int (*msg_init)(struct zmq_message *);
    int (*msg_recv)(struct zmq_message *, void *, int);
    void *(*msg_data)(struct zmq_message *);
    void (*version)(int *, int *, int *);
} zmq;

static struct zmq_message zmq_message;

static bool zmq_load(void)
{
    const struct {
        const char *name;
        void *place;
    } functions[] = {
        {"zmq_ctx_new", &zmq.ctx_new},   {"zmq_socket", &zmq.socket},
        {"zmq_connect", &zmq.connect},   {"zmq_setsockopt", &zmq.setsockopt},
        {"zmq_send", &zmq.send},         {"zmq_msg_init", &zmq.msg_init},
        {"zmq_msg_recv", &zmq.msg_recv}, {"zmq_msg_data", &zmq.msg_data},
        {"zmq_version", &zmq.version},
    };
    void *library = dlopen("libzmq.so.5", RTLD_NOW);

    for (size_t i = 0; library != NULL && i < sizeof functions / sizeof *functions; i++) {
        void *const found = dlsym(library, functions[i].name);
        if (found == NULL)
            return false;
        memcpy(functions[i].place, &found, sizeof found); /* C has no cast to a function */
    }
    return library != NULL;
}

void link_zmq_version(int version[3])
{
    if (zmq_load())
        zmq.version(&version[0], &version[1], &version[2]);
}

static bool zmq_next(struct link *link)
{
    int got;

    do
        got = zmq.msg_recv(&zmq_message, link->socket,
                           link->wait == SHM_WAIT_SPIN ? ZMQ_DONTWAIT : 0);
    while (got < 0 && (errno == EAGAIN || errno == EINTR));
    if (got < 0 || (uint64_t)got != link->size)
        return false;
    link->seen_ns = shm_clock_now_ns();
    link->bytes = zmq.msg_data(&zmq_message);
    link->published_ns = word_at(link->bytes, 0);
    return true;
}

static bool zmq_reply(struct link *link)
{
    return zmq.send(link->socket, link->bytes, link->size, 0) == (int)link->size;
}

bool link_open_zmq(struct link *link, const char *address)
{
    const int many = link->size < 65536 ? 1000 : 16; /* as in transports.py */

    link->next = zmq_next, link->done = fd_done, link->reply = zmq_reply;
    if (!zmq_load())
        return false;
    link->socket = zmq.socket(zmq.ctx_new(), ZMQ_PAIR);
    return link->socket != NULL && zmq.msg_init(&zmq_message) == 0 &&
           zmq.setsockopt(link->socket, ZMQ_RCVHWM, &many, sizeof many) == 0 &&
           zmq.connect(link->socket, address) == 0;
}

/* ---- shared memory: as src/cliente/cliente_c.c uses the library ---- */

static bool shm_next(struct link *link)
{
    const enum shm_result result = shm_receive(&link->waiter, LONGEST_NS, &link->message);

    if (result != SHM_OK)
        fprintf(stderr, "bench_reader: %s: %s\n", shm_result_text(result), link->segment.why);
    link->bytes = link->message.payload;
    link->published_ns = link->message.timestamp_ns;
    link->seen_ns = link->message.seen_ns;
    return result == SHM_OK && link->message.length == link->size;
}

static bool shm_done(struct link *link)
{
    const bool whole = shm_lane_confirm(&link->down, &link->message) == SHM_OK;

    shm_lane_release(&link->down, &link->message);
    return whole;
}

static bool shm_reply(struct link *link)
{
    unsigned char *to;

    while (shm_lane_reserve(&link->up, &to) == SHM_FULL)
        sched_yield();
    memcpy(to, link->bytes, link->size);
    shm_lane_commit(&link->up, (uint32_t)link->size, 0);
    return true;
}

/* As the one consumer, for which the host waits: nothing may be lost here. */
bool link_open_shm(struct link *link, const char *name)
{
    uint32_t other;

    if (shm_segment_attach(&link->segment, name, NULL, LONGEST_NS) != SHM_OK) {
        fprintf(stderr, "bench_reader: %s: %s\n", name, link->segment.why);
        return false;
    }
    link->next = shm_next, link->done = shm_done, link->reply = shm_reply;
    if (shm_lane_open(&link->down, &link->segment, SHM_DOWN) != SHM_OK ||
        shm_lane_open(&link->up, &link->segment, SHM_UP) != SHM_OK ||
        shm_lane_claim(&link->down, link->echo ? &link->up : NULL, &other) != SHM_OK)
        return false;
    shm_waiter_init(&link->waiter, link->wait, &link->down);
    return true;
}
