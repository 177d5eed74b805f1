/*
 * torn.c - what a reader accepts that does not check seq: two acts (README.md in this folder).
 *
 * torn NAME             reads the segment of host.py twice, side by side, for three seconds: the
 *                       naive way (load head, copy the payload) and the lane's (newest, copy,
 *                       confirm)
 * torn --counters NAME  NAME is a shared memory object of two counters (counter.py), read as long
 *
 * Exit code: 0; 1 when the lane's reader has accepted a mixed message, or a counter that is stored
 * in one piece was seen as zero; or when the run has proved nothing, because neither happened to
 * the others. 2: usage. 3: no host.
 */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "client.h" /* of src/cliente: the sample that host.py generates */

/* Three seconds are enough on two free CPUs; on busy ones a mixture takes longer to come. */
#define RUN_NS      UINT64_C(3000000000)
#define PATIENCE_NS UINT64_C(60000000000)

/* One reader's account. */
struct reader {
    const char *name;
    uint64_t accepted, refused, mixed;
    uint64_t first, then; /* of the first mixture: which message it begins as, and goes on as */
    uint32_t changes_at;  /* ... from this byte on */
    unsigned char *copy;
};

static unsigned char *pattern; /* byte i is i % 251 */

/* Is this copy one whole message? It begins with the sample, whose first field is n; after that
 * byte i is (n + i) % 251: where that breaks, another message begins. */
static void account(struct reader *reader, uint32_t length)
{
    const uint32_t head = sizeof(struct sample);
    struct shm_message message = {.length = head, .payload = reader->copy};

    memcpy(&message.n, reader->copy, sizeof message.n);
    const unsigned char *expected = pattern + message.n % 251;
    reader->accepted++;
    if ((sample_matches(SAMPLE_SCHEMA, &message) &&
         memcmp(reader->copy + head, expected + head, length - head) == 0) ||
        reader->mixed++ > 0)
        return;
    uint32_t i = head;
    while (i < length && reader->copy[i] == expected[i])
        i++;
    reader->first = message.n;
    reader->changes_at = i < length ? i : 0;
    if (i < length) /* the next message whose byte i is this one */
        reader->then = message.n + (reader->copy[i] + 251u - expected[i]) % 251u;
}

/* As most examples do it: head says which message is there, so it must be there. */
static void read_naively(const struct shm_lane *lane, struct reader *reader, uint64_t *last)
{
    const uint64_t n = atomic_load_explicit(&lane->shared->head, memory_order_acquire);
    const struct shm_slot *slot =
        (void *)(lane->slots +
                 (n & (lane->segment->header.slot_count - 1)) * lane->segment->header.slot_stride);

    if (n == *last)
        return;
    *last = n;
    memcpy(reader->copy, slot->payload, lane->segment->header.payload_capacity);
    account(reader, lane->segment->header.payload_capacity);
}

/* The newest message, too. A copy that changed under it is refused. */
static void read_by_lane(struct shm_lane *lane, struct reader *reader)
{
    struct shm_message message;

    lane->newest = true;
    if (shm_lane_next(lane, &message) != SHM_OK)
        return;
    memcpy(reader->copy, message.payload, message.length);
    const bool whole = shm_lane_confirm(lane, &message) == SHM_OK;
    shm_lane_release(lane, &message);
    if (whole)
        account(reader, message.length);
    else
        reader->refused++;
}

static void tell(const struct reader *reader)
{
    printf("%-5s reader  accepted %7" PRIu64 ", %5" PRIu64 " of them mixed; refused %7" PRIu64 "\n",
           reader->name, reader->accepted, reader->mixed, reader->refused);
    if (reader->mixed > 0 && reader->changes_at > 0)
        printf("  its first mixture: message %" PRIu64 ", from byte %" PRIu32 " on message %" PRIu64
               "\n",
               reader->first, reader->changes_at, reader->then);
}

static bool go_on(uint64_t begin, bool proved)
{
    return shm_clock_now_ns() - begin < (proved ? RUN_NS : PATIENCE_NS);
}

static int messages(const char *name)
{
    struct shm_segment segment = {0};
    struct shm_lane lane;
    struct reader naive = {.name = "naive"}, careful = {.name = "lane"};
    const uint64_t begin = shm_clock_now_ns();

    if (shm_segment_attach(&segment, name, SAMPLE_SCHEMA, 0) != SHM_OK ||
        shm_lane_open(&lane, &segment, SHM_DOWN) != SHM_OK || shm_lane_attach(&lane) != SHM_OK) {
        fprintf(stderr, "torn: %s: %s\n", name, segment.why);
        return 3;
    }
    unsigned char *const room = malloc(3 * (size_t)lane.segment->header.payload_capacity + 251u);
    if (room == NULL)
        return 1;
    naive.copy = room;
    careful.copy = room + lane.segment->header.payload_capacity;
    pattern = careful.copy + lane.segment->header.payload_capacity;
    for (uint32_t i = 0; i < lane.segment->header.payload_capacity + 251u; i++)
        pattern[i] = (unsigned char)(i % 251);
    uint64_t last = lane.head; /* there may be no message yet */
    while (go_on(begin, naive.mixed > 0 && careful.refused > 0 && careful.accepted > 0)) {
        read_naively(&lane, &naive, &last);
        read_by_lane(&lane, &careful);
    }
    tell(&naive);
    tell(&careful);
    free(room);
    shm_segment_detach(&segment);
    if (naive.mixed == 0 || careful.accepted == 0)
        puts("nothing is proved: the naive reader must meet a mixture, the lane's a message");
    return careful.mixed > 0 || naive.mixed == 0 || careful.accepted == 0;
}

/* Each counter only grows, from 1: nobody wrote a 0. */
static int counters(const char *name)
{
    static const char *const writers[] = {"struct.pack_into", "words[i] = n    "};
    uint64_t values[2] = {0}, zeros[2] = {0}, changes[2] = {0};
    const int fd = shm_open(name, O_RDONLY, 0);
    _Atomic uint64_t *words =
        fd < 0 ? MAP_FAILED : mmap(NULL, 2 * sizeof *words, PROT_READ, MAP_SHARED, fd, 0);

    if (words == MAP_FAILED) {
        perror(name);
        return 1;
    }
    const uint64_t begin = shm_clock_now_ns();
    while (go_on(begin, zeros[0] > 0 && changes[1] > 0))
        for (int i = 0; i < 20000; i++) {
            const int which = i % 2;
            const uint64_t value = atomic_load_explicit(&words[which], memory_order_relaxed);
            changes[which] += value != values[which];
            zeros[which] += value == 0 && values[which] != 0;
            values[which] = value;
        }
    for (int which = 0; which < 2; which++)
        printf("%s  moved %8" PRIu64 " times, to a zero %6" PRIu64 " times\n", writers[which],
               changes[which], zeros[which]);
    if (zeros[0] == 0 || changes[1] == 0)
        puts("nothing is proved: the first counter must be seen as zero, the second to move");
    return zeros[1] > 0 || zeros[0] == 0 || changes[1] == 0;
}

int main(int argc, char **argv)
{
    if (argc == 2)
        return messages(argv[1]);
    if (argc == 3 && strcmp(argv[1], "--counters") == 0)
        return counters(argv[2]);
    fputs("usage: torn NAME | torn --counters NAME\n", stderr);
    return 2;
}
