/* fuzz_lane.c - reading and writing lanes whose every byte changes between two steps.
 * Input: one byte for the sizes, then steps of 10 bytes: what to call, where to write, what. */
#include <stdlib.h>
#include <string.h>

#include "payload.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void use(const struct lane *lane, const unsigned char *end, const struct lane_message *m)
{
    static char line[PAYLOAD_JSON_SIZE];

    if (m->length > lane->capacity || m->payload < lane->slots || m->payload + m->length > end)
        abort();
    (void)payload_crc32(m->payload, m->length, (uint32_t)m->n);
    (void)payload_matches(m->n % 2, m);
    if (payload_json(line, m) >= PAYLOAD_JSON_SIZE)
        abort();
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 1)
        return 0;
    const uint32_t slots = 2u << (data[0] & 3), stride = 128 * (1 + (data[0] >> 2 & 3u));
    const struct shm_header header = {.total_size = SHM_HEADER_SIZE + 2 * slots * stride,
                                      .slot_count = slots,
                                      .slot_stride = stride,
                                      .payload_capacity = stride - 32 - (data[0] >> 4)};
    unsigned char *base = aligned_alloc(SHM_BLOCK, header.total_size), *payload;
    struct lane reader, writer, other_way;
    struct lane_message message = {0};
    uint32_t other;

    if (base == NULL)
        return 0;
    memset(base, 0, header.total_size);
    const unsigned char *end = base + header.total_size;
    (void)lane_open(&reader, base, &header, SHM_DOWN);
    (void)lane_open(&writer, base, &header, SHM_DOWN);
    (void)lane_open(&other_way, base, &header, SHM_UP);
    reader.next = 1;
    for (data++, size--; size >= 10; data += 10, size -= 10) {
        /* head, dropped, place, holder, wish, attached; dropped and place of the other lane */
        static const uint8_t lane_words[] = {0, 1, 16, 17, 32, 33, 49, 64};
        const uint32_t word = data[1] - 8u; /* below 8: the lanes' control, else a slot's head */
        const size_t at = data[1] < 8
                              ? SHM_LANE_AT(SHM_DOWN) + 8u * lane_words[data[1]]
                              : SHM_HEADER_SIZE + word / 4 % (2 * slots) * stride + 8 * (word % 4);
        if (data[0] & 128)
            memcpy(base + at, data + 2, 8);
        switch (data[0] & 15) {
        case 0: (void)lane_claim(&reader, 1, &other); break;
        case 1: lane_leave(&reader); break;
        case 2: (void)lane_attach(&reader); break;
        case 3: (void)lane_readable(&reader); break;
        case 4:
        case 5: /* as a good host does */
        case 6:
            if (lane_reserve(&writer, &payload) == LANE_OK) {
                memset(payload, data[2], writer.capacity);
                lane_commit(&writer, writer.capacity, 0, data[3]);
            }
            break;
        case 7:
            if (lane_reserve(&other_way, &payload) == LANE_OK) {
                memset(payload, data[2], other_way.capacity);
                lane_commit(&other_way, data[3], 1, 0);
            }
            (void)lane_unread(&other_way);
            break;
        default:
            if (lane_next(&reader, &message) != LANE_OK)
                break;
            use(&reader, end, &message);
            if (data[0] & 64) /* overwritten while it was read */
                memcpy(base + at, data + 2, 8);
            if (lane_confirm(&reader, &message) == LANE_OK)
                (void)lane_release(&reader, &message);
        }
    }
    free(base);
    return 0;
}
