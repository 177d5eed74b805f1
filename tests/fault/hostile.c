/*
 * hostile.c - what a broken or hostile peer may do, and what the library makes of it.
 *
 *   hostile headers [ROUNDS [SEED]]      attach to an object with fields set to anything
 *   hostile read [ENDS [SEED]]           read a lane while a thread attacks it
 *   hostile host NAME flip SECONDS       a host that lies: length, seq, head, timestamps, place
 *   hostile host NAME odd STEPS          ... that leaves a seq odd on SIGUSR1, and lives on
 *   hostile host NAME laps               ... whose every slot has been overwritten, for ever
 *   hostile host NAME clock SECONDS      ... whose clock is so far ahead
 *   hostile host NAME truncate BYTES     ... that cuts its segment on SIGUSR1, then only sleeps
 */
#define _GNU_SOURCE 1
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

#include "own_roles.h"
#include "shm_lane.h"

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
    atomic_store(&status_of(base)->heartbeat_ns, shm_clock_now_ns());
    atomic_store(&status_of(base)->state, SHM_STATE_LIVE);
}

/* A segment on the heap, of exactly its size: AddressSanitizer knows where it ends. */
static struct shm_segment heap_segment(const struct shm_header *header)
{
    struct shm_segment segment = {.header = *header,
                                  .base = aligned_alloc(SHM_BLOCK, header->total_size)};

    CHECK(segment.base != NULL);
    memset(segment.base, 0, header->total_size);
    own_roles(&segment);
    return segment;
}

static void free_segment(struct shm_segment *segment)
{
    shm_roles_close(segment);
    free(segment->base);
}

/* A segment of this name, whose host is this process: it holds the kernel's lock. */
static struct shm_segment shared_segment(const char *name, const struct shm_header *header,
                                         size_t size)
{
    struct shm_segment segment = {.header = *header, .object_size = size};
    const int fd = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);

    CHECK(fd >= 0);
    snprintf(segment.name, sizeof segment.name, "%s", name);
    segment.base = ftruncate(fd, (off_t)size) == 0
                       ? mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0)
                       : MAP_FAILED;
    close(fd);
    if (segment.base == MAP_FAILED || shm_roles_open(&segment) != SHM_OK ||
        shm_role_take(&segment, SHM_ROLE_HOST) != SHM_OK) {
        shm_unlink(name);
        perror("hostile: cannot make a segment");
        exit(1);
    }
    return segment;
}

/* ---- a hostile producer ---- */

static void put(struct shm_lane *writer)
{
    const uint64_t n = writer->next;
    unsigned char *payload;

    if (shm_lane_reserve(writer, &payload) != SHM_OK)
        return;
    for (uint32_t i = 0; i < writer->segment->header.payload_capacity; i++)
        payload[i] = (unsigned char)((n + i) % 251);
    shm_lane_commit(writer, writer->segment->header.payload_capacity, 0);
}

enum { LENGTH = 1, SEQ = 2, HEAD = 4, TIME = 8, PLACE = 16, ALL = 31 };

static uint64_t bad(uint64_t good)
{
    const uint64_t values[] = {
        0,        1,          UINT64_MAX,          good - 1, good + 1, good - 99,
        good * 2, 1ull << 47, good + (1ull << 63), any()};
    return values[below(sizeof values / sizeof values[0])];
}

/* As a host drops the consumer that holds the place. */
static void drop(struct shm_lane *writer)
{
    atomic_store(&writer->shared->dropped, SHM_EPOCH(atomic_load(&writer->shared->place)));
}

/* One lie. kinds: which of them this time. */
static void lie(struct shm_lane *writer, unsigned kinds)
{
    struct shm_lane_block *shared = writer->shared;
    struct shm_slot *slot = (void *)(writer->slots + below(writer->segment->header.slot_count) *
                                                         writer->segment->header.slot_stride);

    switch (kinds & (1u << below(5))) {
    case LENGTH:
        atomic_store(&slot->length, (uint32_t)bad(writer->segment->header.payload_capacity));
        break;
    case SEQ: atomic_store(&slot->seq, bad(2 * writer->next)); break;
    case HEAD: atomic_store(&shared->head, bad(writer->next)); break;
    case TIME:
        atomic_store(&slot->timestamp_ns, bad(shm_clock_now_ns()));
        atomic_store(&slot->due_ns, bad(shm_clock_now_ns()));
        break;
    case PLACE:
        atomic_store(&shared->place, SHM_PLACE(any(), SHM_POSITION(bad(writer->next))));
        atomic_store(&shared->pid, (uint32_t)any());
        atomic_store(&shared->dropped, bad(SHM_EPOCH(atomic_load(&shared->place))));
        atomic_store(&shared->wish, bad(writer->next));
        break;
    default: break;
    }
}

/* Publishes rightly, and in between lies in the ways of the moment, until end_ns or *over. */
static void attack(struct shm_segment *segment, uint64_t end_ns, const atomic_bool *over)
{
    struct shm_lane writer;
    uint64_t phase_ns = 0, room_ns = 0, now;
    unsigned kinds = 0;

    CHECK(shm_lane_open(&writer, segment, SHM_DOWN) == SHM_OK);
    while ((now = shm_clock_now_ns()) < end_ns && !atomic_load(over)) {
        if (now > phase_ns) { /* head alone ends a run at once: not always */
            kinds = (unsigned)below(4) ? ALL & ~(unsigned)(HEAD | PLACE) : ALL;
            kinds &= (unsigned)any() | LENGTH;
            phase_ns = now + 50000000;
        }
        atomic_store(&status_of(segment->base)->heartbeat_ns, now);
        if (shm_lane_writable(&writer))
            room_ns = now;
        else if (now - room_ns > 2000000) /* a lie about seq keeps a consumer where it is */
            drop(&writer);
        put(&writer);
        if (below(200) == 0) {
            lie(&writer, kinds);
            for (uint64_t hold = now + below(300000); shm_clock_now_ns() < hold;)
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
    } fields[] = {{0, 8},   {8, 4},   {12, 4},  {16, 8},  {24, 4},  {28, 4},   {32, 4},  {36, 4},
                  {40, 8},  {48, 8},  {56, 8},  {64, 8},  {504, 8}, {512, 4},  {520, 8}, {640, 8},
                  {648, 8}, {768, 8}, {776, 4}, {896, 8}, {904, 4}, {1024, 8}, {1152, 8}};

    for (uint64_t i = below(5); i > 0; i--) {
        const uint64_t values[] = {0, 1, 2, UINT64_MAX, any()};
        const uint64_t value = values[below(5)];
        const size_t field = below(sizeof fields / sizeof fields[0]);
        memcpy(bytes + fields[field].at, &value, fields[field].size);
    }
    for (uint64_t i = below(8); i > 0; i--) { /* and the slots */
        const uint64_t value = below(2) ? any() : below(2 * header->slot_count + 2);
        const uint64_t words = (header->total_size - SHM_HEADER_SIZE) / 8;
        memcpy(bytes + SHM_HEADER_SIZE + 8 * below(words), &value, sizeof value);
    }
}

static uint64_t messages_read, answers[18]; /* by -enum shm_result */

/* Reads what there is; every byte that a message claims must lie in the slots. */
static void read_lane(struct shm_segment *segment)
{
    const struct shm_header *header = &segment->header;
    const unsigned char *base = segment->base;
    struct shm_lane lane;
    struct shm_message message;
    uint32_t other;

    if (shm_lane_open(&lane, segment, SHM_DOWN) != SHM_OK)
        return;
    lane.next = lane.head > 2 ? lane.head - below(lane.head < 9 ? lane.head : 9) : 1;
    if (below(2) && shm_lane_claim(&lane, NULL, &other) != SHM_OK)
        return;
    for (uint64_t i = 0; i < 2 * lane.segment->header.slot_count; i++) {
        const enum shm_result result = shm_lane_next(&lane, &message);
        if (result != SHM_OK && result != SHM_LAPPED)
            break;
        if (result == SHM_LAPPED)
            continue;
        CHECK(message.payload >= base + SHM_HEADER_SIZE &&
              message.payload + message.length <= base + header->total_size);
        messages_read++;
        if (shm_lane_confirm(&lane, &message) == SHM_OK)
            shm_lane_release(&lane, &message);
    }
    shm_lane_leave(&lane);
    if (shm_lane_open(&lane, segment, SHM_UP) == SHM_OK)
        put(&lane);
}

/* What segment_check says of these bytes, where AddressSanitizer sees each of them; and what a
 * reader makes of what is accepted. */
static void check_on_the_heap(const void *bytes, size_t object_size)
{
    unsigned char *copy = aligned_alloc(SHM_BLOCK, SHM_HEADER_SIZE);
    struct shm_segment segment = {
        .base = copy, .status = status_of(copy), .object_size = object_size};

    CHECK(copy != NULL);
    memcpy(copy, bytes, SHM_HEADER_SIZE);
    if (shm_segment_check(&segment) == SHM_OK) {
        CHECK(segment.header.total_size <= object_size);
        struct shm_segment whole = heap_segment(&segment.header);
        memcpy(whole.base, bytes, segment.header.total_size);
        read_lane(&whole);
        free_segment(&whole);
    }
    free(copy);
}

static int headers(uint64_t rounds)
{
    static const uint32_t strides[] = {128, 256, 384};
    enum { OBJECT = 32768 };
    char name[32];
    uint64_t accepted = 0;

    snprintf(name, sizeof name, "/t%x-headers", (unsigned)getpid());
    struct shm_segment ours = shared_segment(name, &(struct shm_header){.version = 0}, OBJECT);
    for (uint64_t round = 0; round < rounds; round++) {
        const uint32_t stride = strides[below(3)];
        const uint32_t capacity = 1 + (uint32_t)below(stride - SHM_SLOT_HEAD);
        ours.header = good_header(2u << below(5), stride, capacity);
        ours.header.flags = (uint32_t)below(2);
        snprintf(ours.header.schema, sizeof ours.header.schema, "%s", below(2) ? "a:B" : "");
        memset(ours.base, 0, ours.header.total_size);
        go_live(ours.base, &ours.header);
        struct shm_lane writer;
        CHECK(shm_lane_open(&writer, &ours, SHM_DOWN) == SHM_OK);
        for (uint64_t n = below(2 * ours.header.slot_count); n > 0; n--)
            put(&writer);
        mutate(ours.base, &ours.header);
        const bool dead = below(8) == 0; /* its host, as the kernel sees it */
        if (dead)
            shm_role_leave(&ours, SHM_ROLE_HOST);

        struct shm_segment segment = {.fd = -1};
        const enum shm_result result = shm_segment_attach(&segment, name, NULL, 0);
        answers[-result]++;
        CHECK(result == SHM_OK || (segment.why[0] != '\0' && segment.fd == -1));
        CHECK(result == SHM_OK || result == SHM_STARTING || result == SHM_ENDED ||
              result == SHM_REFUSED || (result == SHM_DIED && dead));
        if (result == SHM_OK) {
            accepted++;
            CHECK(!dead && segment.header.total_size <= OBJECT && segment.size == OBJECT);
            read_lane(&segment);
            shm_segment_detach(&segment);
        }
        if (dead)
            CHECK(shm_role_take(&ours, SHM_ROLE_HOST) == SHM_OK);
        check_on_the_heap(ours.base, OBJECT);
    }
    shm_unlink(name);
    printf("%" PRIu64 " rounds: %" PRIu64 " accepted, %" PRIu64 " refused, %" PRIu64 " starting, "
           "%" PRIu64 " ended, %" PRIu64 " died; %" PRIu64 " messages read\n",
           rounds, accepted, answers[-SHM_REFUSED], answers[-SHM_STARTING], answers[-SHM_ENDED],
           answers[-SHM_DIED], messages_read);
    CHECK(accepted > rounds / 20 && answers[-SHM_REFUSED] > rounds / 20 && messages_read > 0);
    CHECK(answers[-SHM_DIED] > 0);
    return 0;
}

/* ---- read: a lane under attack ---- */

struct attacked {
    struct shm_segment segment;
    uint64_t seed;
    atomic_bool over;
};

static void *attack_thread(void *argument)
{
    struct attacked *a = argument;

    random_state = a->seed;
    attack(&a->segment, UINT64_MAX, &a->over);
    return NULL;
}

/* One message; *message lies in the slots, whatever the result. */
static enum shm_result read_one(struct shm_lane *lane, struct shm_message *message)
{
    const struct shm_segment *segment = lane->segment;
    const unsigned char *bytes = segment->base;
    enum shm_result result = shm_lane_next(lane, message);

    if (result == SHM_OK) {
        CHECK(message->length <= lane->segment->header.payload_capacity &&
              message->payload >= bytes &&
              message->payload + message->length <= bytes + segment->header.total_size);
        result = shm_lane_confirm(lane, message);
        if (result == SHM_OK)
            shm_lane_release(lane, message);
    }
    return result;
}

/* Reads until damage and laps have ended so many reads each. */
static int read_attacked(uint64_t ends)
{
    const struct shm_header header = good_header(8, 256, 200);
    struct attacked a = {.segment = heap_segment(&header), .seed = any()};
    uint64_t results[18] = {0}, lost = 0;
    struct shm_lane lane;
    struct shm_message message;
    pthread_t thread;
    uint32_t other;

    CHECK(pthread_create(&thread, NULL, attack_thread, &a) == 0);
    while (results[-SHM_OK] < ends || results[-SHM_LAPPED] < ends || results[-SHM_DAMAGED] < ends) {
        if (shm_lane_open(&lane, &a.segment, SHM_DOWN) != SHM_OK ||
            (below(2) ? shm_lane_claim(&lane, NULL, &other) : shm_lane_attach(&lane)) != SHM_OK)
            continue;
        enum shm_result result = SHM_OK;
        /* A lie about head may have sent it to a message that will not come for years. */
        for (unsigned in_vain = 0;
             result != SHM_DAMAGED && result != SHM_DROPPED && in_vain < 100000; in_vain++) {
            result = read_one(&lane, &message);
            results[-result]++;
            in_vain = result == SHM_OK ? 0 : in_vain;
        }
        lost += lane.lost;
        shm_lane_leave(&lane);
    }
    atomic_store(&a.over, true);
    pthread_join(thread, NULL);
    free_segment(&a.segment);
    printf("%" PRIu64 " read, %" PRIu64 " not yet visible, %" PRIu64 " lapped (%" PRIu64
           " lost), %" PRIu64 " dropped, %" PRIu64 " damaged\n",
           results[-SHM_OK], results[-SHM_AGAIN], results[-SHM_LAPPED], lost, results[-SHM_DROPPED],
           results[-SHM_DAMAGED]);
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

/* Every slot has been overwritten since head said that it is there. */
static void lap(struct shm_lane *writer)
{
    for (uint64_t i = 0; i < writer->segment->header.slot_count; i++) {
        struct shm_slot *slot = (void *)(writer->slots + i * writer->segment->header.slot_stride);
        atomic_store(&slot->seq, 1ull << 60);
    }
    for (int i = 0; i < 100000; i++)
        atomic_store(&writer->shared->head, writer->next++);
}

static struct shm_slot *next_slot(const struct shm_lane *writer)
{
    return (void *)(writer->slots + writer->next % writer->segment->header.slot_count *
                                        writer->segment->header.slot_stride);
}

static int host(const char *name, const char *mode, uint64_t argument)
{
    const struct shm_header header = good_header(64, 256, 200);
    struct shm_segment segment = shared_segment(name, &header, header.total_size);
    struct shm_status *status = status_of(segment.base);
    const uint64_t ahead_ns = strcmp(mode, "clock") == 0 ? argument * 1000000000u : 0;
    const struct timespec step = {.tv_nsec = 500000};
    struct shm_lane writer;

    signal(SIGUSR1, on_signal);
    signal(SIGTERM, on_signal);
    go_live(segment.base, &header);
    atomic_store(&status->heartbeat_ns, shm_clock_now_ns() + ahead_ns);
    CHECK(shm_lane_open(&writer, &segment, SHM_DOWN) == SHM_OK);
    if (strcmp(mode, "flip") == 0) {
        atomic_bool enough = false;

        attack(&segment, shm_clock_now_ns() + argument * 1000000000u, &enough);
        ended = 1;
    }
    while (!ended) {
        struct shm_slot *slot = next_slot(&writer);
        atomic_store(&status->heartbeat_ns, shm_clock_now_ns() + ahead_ns);
        if (strcmp(mode, "laps") == 0) {
            lap(&writer);
            continue;
        }
        put(&writer);
        if (ahead_ns != 0) {
            atomic_store(&slot->due_ns, shm_clock_now_ns() + ahead_ns);
            atomic_store(&slot->timestamp_ns, shm_clock_now_ns() + ahead_ns);
        }
        if (told && strcmp(mode, "odd") == 0) {
            for (uint64_t i = 0; i < argument; i++) /* the reader has caught up, or not yet */
                nanosleep(&step, NULL);
            atomic_store(&next_slot(&writer)->seq, 2 * writer.next - 1);
            atomic_store(&writer.shared->head, writer.next);
            while (!ended) {
                atomic_store(&status->heartbeat_ns, shm_clock_now_ns());
                nanosleep(&step, NULL);
            }
        }
        /* At slot 40: where the reader goes next, or on its way there, the page is gone. */
        if (told && strcmp(mode, "truncate") == 0 && writer.next % header.slot_count == 40) {
            CHECK(ftruncate(segment.fd, (off_t)argument) == 0);
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

    random_state = argc > 3 ? strtoull(argv[3], NULL, 10) : shm_clock_now_ns();
    random_state |= 1;
    if (strcmp(what, "host") != 0)
        printf("seed %" PRIu64 "\n", random_state);
    alarm(900); /* a hang is a failure */
    if (strcmp(what, "headers") == 0)
        return headers(number ? number : 100000);
    if (strcmp(what, "read") == 0)
        return read_attacked(number ? number : 5);
    if (strcmp(what, "host") == 0 && argc > 3) {
        random_state = shm_clock_now_ns() | 1;
        return host(argv[2], argv[3], argc > 4 ? strtoull(argv[4], NULL, 10) : 0);
    }
    fputs("usage: see the head of hostile.c\n", stderr);
    return 2;
}
