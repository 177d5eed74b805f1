/* fuzz_attach.c - the bytes of an object, as attach finds them: refused, or all of it is in bounds.
 * Input: a number for the object's size (u32, in front), then its first bytes, the rest is zero. */
#define _GNU_SOURCE 1
#include <stdlib.h>
#include <string.h>

#include "shm_lane.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct shm_segment segment;
    struct shm_lane lanes[2];
    uint32_t object;

    if (size < sizeof object)
        return 0;
    memcpy(&object, data, sizeof object);
    data += sizeof object;
    size -= sizeof object;
    unsigned char *bytes = aligned_alloc(SHM_BLOCK, SHM_HEADER_SIZE);
    if (bytes == NULL)
        return 0;
    memset(bytes, 0, SHM_HEADER_SIZE);
    memcpy(bytes, data, size < SHM_HEADER_SIZE ? size : SHM_HEADER_SIZE);
    segment.base = bytes;
    segment.status = (void *)(bytes + SHM_STATUS_AT);
    segment.object_size = object;
    segment.why[0] = '\0';
    const enum shm_result result = shm_segment_check(&segment);
    if (result == SHM_OK) {
        const struct shm_header *h = &segment.header;
        const uint64_t lane_size = (uint64_t)h->slot_count * h->slot_stride;
        if (h->total_size > object || h->total_size != SHM_HEADER_SIZE + 2 * lane_size ||
            h->payload_capacity + SHM_SLOT_HEAD > h->slot_stride || h->host_pid > INT32_MAX ||
            memchr(h->schema, '\0', sizeof h->schema) == NULL)
            abort();
        for (int i = 0; i < 2; i++)
            if (shm_lane_open(&lanes[i], &segment, (enum shm_lane_index)i) == SHM_OK &&
                (uint64_t)(lanes[i].slots - bytes) + lane_size > object)
                abort();
    } else if (segment.why[0] == '\0') {
        abort();
    }
    free(bytes);
    return 0;
}
