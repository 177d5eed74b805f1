/*
 * hostile.c - what a broken or hostile peer may do, and what the client's modules make of it.
 *
 *   hostile headers [ROUNDS [SEED]]      attach to an object with fields set to anything
 *   hostile read [SECONDS [SEED]]        read a lane while a thread attacks it
 *   hostile host NAME flip SECONDS       a host that lies: length, seq, head, timestamps, place
 *   hostile host NAME odd STEPS          ... that leaves a seq odd on SIGUSR1, and lives on
 *   hostile host NAME laps               ... whose every slot has been overwritten, for ever
 *   hostile host NAME clock SECONDS      ... whose clock is so far ahead
 *   hostile host NAME truncate BYTES     ... that cuts its segment on SIGUSR1, then only sleeps
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "latency.h"
#include "payload.h"
#include "segment.h"

#define CHECK(condition)                                                                           \
    do {                                                                                           \
        if (!(condition)) {                                                                        \
            fprintf(stderr, "hostile: line %d: %s\n", __LINE__, #condition);                       \
            exit(1);                                                                               \
        }                                                                                          \
    } while (0)

static _Thread_local uint64_t random_state;

static uint64_t any(void) /* xorshift64* */
{
    random_state ^= random_state >> 12;
    random_state ^= random_state << 25;
    random_state ^= random_state >> 27;
    return random_state * 0x2545F4914F6CDD1Dull;
}

static uint64_t below(uint64_t limit)
{
    return any() % limit;
}

static struct shm_header good_header(uint32_t slots, uint32_t stride, uint32_t capacity)
{
    struct shm_header header = {
        .version = SHM_VERSION,
        .header_size = SHM_HEADER_SIZE,
        .total_size = SHM_HEADER_SIZE + 2ull * slots * stride,
        .slot_count = slots,
        .slot_stride = stride,
        .payload_capacity = capacity,
        .session = any() | 1,
        .host_pid = (uint64_t)getpid(),
    };
    memcpy(header.magic, SHM_MAGIC, sizeof header.magic);
    return header;
}

static struct shm_status *status_of(void *base)
{
    return (void *)((char *)base + SHM_STATUS_AT);
}

static void go_live(void *base, const struct shm_header *header)
{
    memcpy(base, header, sizeof *header);
    atomic_store(&status_of(base)->heartbeat_ns, clock_now_ns());
    atomic_store(&status_of(base)->state, SHM_LIVE);
}

/* A segment on the heap, of exactly its size: AddressSanitizer knows where it ends. */
static void *heap_segment(const struct shm_header *header)
{
    void *base = aligned_alloc(SHM_BLOCK, header->total_size);
    CHECK(base != NULL);
    memset(base, 0, header->total_size);
    go_live(base, header);
    return base;
}

/* The segment under this name: mapped, or NULL. */
static void *shared_segment(const char *name, size_t size)
{
    const int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(fd >= 0);
    void *base = ftruncate(fd, (off_t)size) == 0
                     ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                     : MAP_FAILED;
    close(fd);
    if (base == MAP_FAILED)
        shm_unlink(name);
    CHECK(base != MAP_FAILED);
    return base;
}

/* ---- a hostile producer ---- */

static void put(struct lane *writer, uint64_t n)
{
    unsigned char *payload;

    if (lane_reserve(writer, &payload) != LANE_OK)
        return;
    for (uint32_t i = 0; i < writer->capacity; i++)
        payload[i] = (unsigned char)((n + i) % 251);
    lane_commit(writer, writer->capacity, 0, 0);
}

enum { LENGTH = 1, SEQ = 2, HEAD = 4, TIME = 8, PLACE = 16, ALL = 31 };

static uint64_t bad(uint64_t good)
{
    const uint64_t values[] = {
        0,        1,          UINT64_MAX,          good - 1, good + 1, good - 99,
        good * 2, 1ull << 47, good + (1ull << 63), any()};
    return values[below(sizeof values / sizeof values[0])];
}

/* As a host drops whoever holds the place. */
static void drop(struct lane *writer)
{
    atomic_store(&writer->shared->dropped, SHM_GENERATION(atomic_load(&writer->shared->place)));
}

/* One lie. kinds: which of them this time. */
static void lie(struct lane *writer, unsigned kinds)
{
    struct shm_lane *shared = writer->shared;
    struct shm_slot *slot =
        (void *)(writer->slots + below(writer->slot_count) * writer->slot_stride);

    switch (kinds & (1u << below(5))) {
    case LENGTH: atomic_store(&slot->length, (uint32_t)bad(writer->capacity)); break;
    case SEQ: atomic_store(&slot->seq, bad(2 * writer->next)); break;
    case HEAD: atomic_store(&shared->head, bad(writer->next)); break;
    case TIME:
        atomic_store(&slot->timestamp_ns, bad(clock_now_ns()));
        atomic_store(&slot->due_ns, bad(clock_now_ns()));
        break;
    case PLACE:
        atomic_store(&shared->place, SHM_PLACE(any(), SHM_POSITION(bad(writer->next))));
        atomic_store(&shared->holder, bad(atomic_load(&shared->holder)));
        atomic_store(&shared->dropped, bad(SHM_GENERATION(atomic_load(&shared->place))));
        atomic_store(&shared->wish, bad(writer->next));
        break;
    default: break;
    }
}

/* Publishes rightly, and in between lies in the ways of the moment, until end_ns. */
static void attack(void *base, const struct shm_header *header, uint64_t end_ns)
{
    struct lane writer;
    uint64_t phase_ns = 0, room_ns = 0, now;
    unsigned kinds = 0;

    CHECK(lane_open(&writer, base, header, SHM_DOWN) == LANE_OK);
    while ((now = clock_now_ns()) < end_ns) {
        if (now > phase_ns) { /* head alone ends a run at once: not always */
            kinds = (unsigned)below(4) ? ALL & ~(unsigned)(HEAD | PLACE) : ALL;
            kinds &= (unsigned)any() | LENGTH;
            phase_ns = now + 50000000;
        }
        atomic_store(&status_of(base)->heartbeat_ns, now);
        if (lane_writable(&writer))
            room_ns = now;
        else if (now - room_ns > 2000000) /* a lie about seq keeps a consumer where it is */
            drop(&writer);
        put(&writer, writer.next);
        if (below(200) == 0) {
            lie(&writer, kinds);
            for (uint64_t hold = now + below(300000); clock_now_ns() < hold;)
                sched_yield();
            if (kinds & PLACE) /* or nobody could claim it any more */
                drop(&writer);
        }
    }
}

/* ---- headers: set to anything ---- */

static void mutate(unsigned char *bytes, const struct shm_header *header)
{
    static const struct {
        uint16_t at, size;
    } fields[] = {{0, 8},   {8, 4},   {12, 4},  {16, 8},  {24, 4},  {28, 4},
                  {32, 4},  {36, 4},  {40, 8},  {48, 8},  {56, 4},  {128, 4},
                  {256, 8}, {264, 8}, {384, 8}, {392, 8}, {512, 8}, {640, 8}};

    for (uint64_t i = below(5); i > 0; i--) {
        const uint64_t values[] = {0, 1, UINT64_MAX, any()};
        const uint64_t value = values[below(4)];
        const size_t field = below(sizeof fields / sizeof fields[0]);
        memcpy(bytes + fields[field].at, &value, fields[field].size);
    }
    for (uint64_t i = below(8); i > 0; i--) { /* and the slots */
        const uint64_t value = below(2) ? any() : below(2 * header->slot_count + 2);
        const uint64_t words = (header->total_size - SHM_HEADER_SIZE) / 8;
        memcpy(bytes + SHM_HEADER_SIZE + 8 * below(words), &value, sizeof value);
    }
}

static uint64_t messages_read, refused[8];

/* Reads what there is; every byte that a message claims must lie in the slots. */
static void read_lane(unsigned char *base, const struct shm_header *header)
{
    struct lane lane;
    struct lane_message message;
    uint32_t other;

    if (lane_open(&lane, base, header, SHM_DOWN) != LANE_OK)
        return;
    lane.next = lane.head > 2 ? lane.head - below(lane.head < 9 ? lane.head : 9) : 1;
    if (below(2) && lane_claim(&lane, (uint32_t)getpid(), &other) != LANE_OK)
        return;
    for (uint64_t i = 0; i < 2 * lane.slot_count; i++) {
        const enum lane_result result = lane_next(&lane, &message);
        if (result != LANE_OK && result != LANE_LAPPED)
            break;
        if (result == LANE_LAPPED)
            continue;
        CHECK(message.payload >= base + SHM_HEADER_SIZE &&
              message.payload + message.length <= base + header->total_size);
        messages_read++;
        (void)payload_crc32(message.payload, message.length, 0);
        (void)payload_matches(header->payload_kind, &message);
        if (lane_confirm(&lane, &message) == LANE_OK)
            (void)lane_release(&lane, &message);
    }
    (void)lane_readable(&lane);
    lane_leave(&lane);
    if (lane_open(&lane, base, header, SHM_UP) == LANE_OK)
        put(&lane, 1);
}

static int headers(uint64_t rounds)
{
    static const uint32_t strides[] = {128, 256, 384};
    enum { OBJECT = 32768 };
    char name[32];
    struct segment segment;
    uint64_t accepted = 0;

    snprintf(name, sizeof name, "/t%x-headers", (unsigned)getpid());
    unsigned char *base = shared_segment(name, OBJECT);
    for (uint64_t round = 0; round < rounds; round++) {
        const uint32_t stride = strides[below(3)];
        const uint32_t capacity = 1 + (uint32_t)below(stride - SHM_SLOT_HEAD);
        struct shm_header header = good_header(2u << below(5), stride, capacity);
        header.payload_kind = capacity >= sizeof(struct shm_sample) && below(2);
        header.flags = (uint32_t)below(4);
        memset(base, 0, header.total_size);
        go_live(base, &header);
        struct lane writer;
        CHECK(lane_open(&writer, base, &header, SHM_DOWN) == LANE_OK);
        for (uint64_t n = below(2 * header.slot_count); n > 0; n--)
            put(&writer, n);
        mutate(base, &header);
        if (round % 10000 == 0) /* each of these is watched for 0.3 s */
            atomic_store(&status_of(base)->heartbeat_ns, any());

        const enum segment_result result = segment_attach(&segment, name);
        CHECK(result <= SEGMENT_OK && result > SEGMENT_ERROR && result != SEGMENT_ABSENT);
        refused[-result]++;
        if (result != SEGMENT_OK) {
            CHECK(segment.why[0] != '\0' && segment.fd == -1 && segment.base == NULL);
        } else {
            accepted++;
            CHECK(segment.size == segment.header.total_size && segment.size <= OBJECT);
            read_lane(segment.base, &segment.header);
            segment_detach(&segment);
        }
        /* Once more where AddressSanitizer sees every byte. */
        unsigned char *copy = aligned_alloc(SHM_BLOCK, SHM_HEADER_SIZE);
        CHECK(copy != NULL);
        memcpy(copy, base, SHM_HEADER_SIZE);
        segment.base = copy;
        segment.status = status_of(copy);
        segment.object_size = OBJECT;
        if (segment_check(&segment) == SEGMENT_OK) {
            CHECK(segment.header.total_size <= OBJECT);
            unsigned char *whole = aligned_alloc(SHM_BLOCK, segment.header.total_size);
            CHECK(whole != NULL);
            memcpy(whole, base, segment.header.total_size);
            read_lane(whole, &segment.header);
            free(whole);
        }
        free(copy);
    }
    munmap(base, OBJECT);
    shm_unlink(name);
    printf("%" PRIu64 " rounds: %" PRIu64 " accepted, %" PRIu64 " refused, %" PRIu64 " starting, "
           "%" PRIu64 " closed; %" PRIu64 " messages read\n",
           rounds, accepted, refused[-SEGMENT_REFUSED], refused[-SEGMENT_STARTING],
           refused[-SEGMENT_CLOSED], messages_read);
    CHECK(accepted > rounds / 20 && refused[-SEGMENT_REFUSED] > rounds / 20 && messages_read > 0);
    return 0;
}

/* ---- read: a lane under attack ---- */

struct attacked {
    void *base;
    const struct shm_header *header;
    uint64_t end_ns, seed;
    atomic_bool over;
};

static void *attack_thread(void *argument)
{
    struct attacked *a = argument;

    random_state = a->seed;
    attack(a->base, a->header, a->end_ns);
    atomic_store(&a->over, true);
    return NULL;
}

static int read_attacked(uint64_t seconds)
{
    const struct shm_header header = good_header(8, 256, 200);
    struct attacked a = {.base = heap_segment(&header),
                         .header = &header,
                         .end_ns = clock_now_ns() + seconds * 1000000000u,
                         .seed = any()};
    unsigned char *bytes = a.base;
    char line[PAYLOAD_JSON_SIZE];
    uint64_t results[8] = {0}, lost = 0;
    struct lane lane;
    struct lane_message message;
    pthread_t thread;
    uint32_t other;

    CHECK(pthread_create(&thread, NULL, attack_thread, &a) == 0);
    while (!atomic_load(&a.over)) {
        if (lane_open(&lane, a.base, &header, SHM_DOWN) != LANE_OK)
            continue;
        if ((below(2) ? lane_claim(&lane, (uint32_t)getpid(), &other) : lane_attach(&lane)) !=
            LANE_OK)
            continue;
        enum lane_result result = LANE_OK;
        while (result != LANE_DAMAGED && result != LANE_DROPPED && !atomic_load(&a.over)) {
            result = lane_next(&lane, &message);
            if (result == LANE_OK) {
                CHECK(message.length <= header.payload_capacity && message.payload >= bytes &&
                      message.payload + message.length <= bytes + header.total_size);
                result = lane_confirm(&lane, &message);
                if (below(16) == 0)
                    (void)payload_json(line, &message);
                if (result == LANE_OK)
                    result = lane_release(&lane, &message);
            } else if (result == LANE_EMPTY || result == LANE_PENDING) {
                (void)lane_readable(&lane);
            }
            results[-result]++;
        }
        lost += lane.lost;
        lane_leave(&lane);
    }
    pthread_join(thread, NULL);
    free(a.base);
    printf("%" PRIu64 " read, %" PRIu64 " pending, %" PRIu64 " lapped (%" PRIu64 " lost), %" PRIu64
           " dropped, %" PRIu64 " damaged\n",
           results[-LANE_OK], results[-LANE_PENDING], results[-LANE_LAPPED], lost,
           results[-LANE_DROPPED], results[-LANE_DAMAGED]);
    CHECK(results[-LANE_OK] > 0 && results[-LANE_LAPPED] > 0 && results[-LANE_DAMAGED] > 0);
    return 0;
}

/* ---- host: a segment of its own, and what it does to it ---- */

static volatile sig_atomic_t told, ended;

static void on_signal(int number)
{
    if (number == SIGUSR1)
        told = 1;
    else
        ended = 1;
}

static int host(const char *name, const char *mode, uint64_t argument)
{
    const struct shm_header header = good_header(64, 256, 200);
    char *base = shared_segment(name, header.total_size);
    const uint64_t ahead_ns = strcmp(mode, "clock") == 0 ? argument * 1000000000u : 0;
    const struct timespec step = {.tv_nsec = 500000};
    struct lane writer;

    signal(SIGUSR1, on_signal);
    signal(SIGTERM, on_signal);
    go_live(base, &header);
    atomic_store(&status_of(base)->heartbeat_ns, clock_now_ns() + ahead_ns);
    CHECK(lane_open(&writer, base, &header, SHM_DOWN) == LANE_OK);
    if (strcmp(mode, "flip") == 0) {
        attack(base, &header, clock_now_ns() + argument * 1000000000u);
        ended = 1;
    }
    while (!ended) {
        atomic_store(&status_of(base)->heartbeat_ns, clock_now_ns() + ahead_ns);
        struct shm_slot *slot =
            (void *)(writer.slots + writer.next % header.slot_count * header.slot_stride);
        if (strcmp(mode, "laps") == 0) {
            for (uint64_t i = 0; i < header.slot_count; i++) {
                slot = (void *)(writer.slots + i * header.slot_stride);
                atomic_store(&slot->seq, 1ull << 60);
            }
            for (int i = 0; i < 100000; i++)
                atomic_store(&writer.shared->head, writer.next++);
            continue;
        }
        put(&writer, writer.next);
        if (ahead_ns != 0) {
            atomic_store(&slot->due_ns, clock_now_ns() + ahead_ns);
            atomic_store(&slot->timestamp_ns, clock_now_ns() + ahead_ns);
        }
        if (told && strcmp(mode, "odd") == 0) {
            for (uint64_t i = 0; i < argument; i++) /* the reader: behind it, or waiting for it */
                nanosleep(&step, NULL);
            slot = (void *)(writer.slots + writer.next % header.slot_count * header.slot_stride);
            atomic_store(&slot->seq, 2 * writer.next - 1);
            atomic_store(&writer.shared->head, writer.next);
            while (!ended) {
                atomic_store(&status_of(base)->heartbeat_ns, clock_now_ns());
                nanosleep(&step, NULL);
            }
        }
        /* At slot 40: where the reader goes next, or on its way there, the page is gone. */
        if (told && strcmp(mode, "truncate") == 0 && writer.next % header.slot_count == 40) {
            const int fd = shm_open(name, O_RDWR, 0);
            CHECK(fd >= 0 && ftruncate(fd, (off_t)argument) == 0);
            close(fd);
            while (!ended)
                pause();
        }
        nanosleep(&step, NULL);
    }
    shm_unlink(name);
    return 0;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    const uint64_t number = argc > 2 ? strtoull(argv[2], NULL, 10) : 0;

    random_state = argc > 3 ? strtoull(argv[3], NULL, 10) : clock_now_ns();
    random_state |= 1;
    if (strcmp(what, "host") != 0)
        printf("seed %" PRIu64 "\n", random_state);
    alarm(900); /* a hang is a failure */
    if (strcmp(what, "headers") == 0)
        return headers(number ? number : 100000);
    if (strcmp(what, "read") == 0)
        return read_attacked(number ? number : 3);
    if (strcmp(what, "host") == 0 && argc > 3) {
        random_state = clock_now_ns() | 1;
        return host(argv[2], argv[3], argc > 4 ? strtoull(argv[4], NULL, 10) : 0);
    }
    fputs("usage: see the head of hostile.c\n", stderr);
    return 2;
}
