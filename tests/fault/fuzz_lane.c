/* fuzz_lane.c - reading and writing lanes whose every byte changes between two steps.
 * Input: one byte for the sizes, then steps of 10 bytes: what to call, where to write, what. */
#define _GNU_SOURCE 1
#include <stdlib.h>
#include <string.h>

#include "own_roles.h"
#include "shm_lane.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* Every byte that the message claims, is in the slots. */
static void check(const struct shm_lane *lane, const unsigned char *end,
                  const struct shm_message *m)
{
    if (m->length > lane->segment->header.payload_capacity || m->payload < lane->slots ||
        m->payload + m->length > end)
        abort();
}

static void write_one(struct shm_lane *lane, uint8_t fill, uint32_t length)
{
    unsigned char *payload;

    if (shm_lane_reserve(lane, &payload) != SHM_OK)
        return;
    memset(payload, fill, lane->segment->header.payload_capacity);
    shm_lane_commit(lane,
                    length < lane->segment->header.payload_capacity
                        ? length
                        : lane->segment->header.payload_capacity,
                    fill);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct shm_segment segment;
    static int begun;

    if (size < 1)
        return 0;
    if (!begun)
        own_roles(&segment);
    begun = 1;
    const uint32_t slots = 2u << (data[0] & 3), stride = 128 * (1 + (data[0] >> 2 & 3u));
    segment.header = (struct shm_header){.total_size = SHM_HEADER_SIZE + 2 * slots * stride,
                                         .slot_count = slots,
                                         .slot_stride = stride,
                                         .payload_capacity = stride - 32 - (data[0] >> 5),
                                         .flags = data[0] >> 4 & SHM_FLAG_CRC};
    const size_t total = segment.header.total_size;
    unsigned char *base = aligned_alloc(SHM_BLOCK, total);
    struct shm_lane reader, writer, up;
    struct shm_message message = {0};
    uint32_t other;

    if (base == NULL)
        return 0;
    memset(base, 0, total);
    segment.base = base;
    (void)shm_lane_open(&reader, &segment, SHM_DOWN);
    (void)shm_lane_open(&writer, &segment, SHM_DOWN);
    (void)shm_lane_open(&up, &segment, SHM_UP);
    for (data++, size--; size >= 10; data += 10, size -= 10) {
        /* head, dropped, place, pid, wish, attached; head and place of the other lane */
        static const uint8_t lane_words[] = {0, 1, 16, 17, 32, 33, 48, 64};
        const uint32_t word = data[1] - 8u; /* below 8: the lanes' control, else a slot's head */
        const size_t at = data[1] < 8
                              ? SHM_LANE_AT(SHM_DOWN) + 8u * lane_words[data[1]]
                              : SHM_HEADER_SIZE + word / 4 % (2 * slots) * stride + 8 * (word % 4);
        if (data[0] & 128)
            memcpy(base + at, data + 2, 8);
        switch (data[0] & 15) {
        case 0: (void)shm_lane_claim(&reader, data[3] & 1 ? &up : NULL, &other); break;
        case 1: shm_lane_leave(data[3] & 1 ? &up : &reader); break;
        case 2: (void)shm_lane_attach(&reader); break;
        case 3: (void)shm_lane_dropped(&reader); break;
        case 4: (void)shm_lane_produce(&up); break;
        case 5: /* as a good host does */
        case 6: write_one(&writer, data[2], UINT32_MAX); break;
        case 7:
            write_one(&up, data[2], data[3]);
            (void)shm_lane_unread(&up);
            break;
        default:
            reader.newest = !(data[0] & 1);
            if (shm_lane_next(&reader, &message) != SHM_OK)
                break;
            check(&reader, base + total, &message);
            if (data[0] & 64) /* overwritten while it was read */
                memcpy(base + at, data + 2, 8);
            if (shm_lane_confirm(&reader, &message) == SHM_OK)
                shm_lane_release(&reader, &message);
        }
    }
    shm_lane_leave(&reader);
    shm_lane_leave(&up);
    free(base);
    return 0;
}
