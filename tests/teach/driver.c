/* driver NAME COUNT: sends COUNT structs of its own to receive.py; an empty message ends them. */
#include "shm_waiter.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct trade {
    uint64_t number;
    char symbol[8];
    double price;
    uint32_t size;
};
#define TRADE "number:Q symbol:8s price:d size:I :4x" /* its schema; a host must have the same */

int main(int argc, char **argv)
{
    struct shm_segment segment = {0};
    struct shm_lane up;
    unsigned char *slot;
    const uint64_t patience_ns = 5000000000u, count = argc == 3 ? strtoull(argv[2], NULL, 10) : 0;
    int end = shm_segment_attach(&segment, argc == 3 ? argv[1] : "", TRADE, patience_ns);

    if (end || (end = shm_lane_open(&up, &segment, SHM_UP)) || (end = shm_lane_produce(&up))) {
        fprintf(stderr, "driver: %s\n", end == SHM_REFUSED ? segment.why : shm_result_text(end));
        return end == SHM_REFUSED || end == SHM_BUSY ? 5 : 3;
    }
    for (uint64_t n = 1; n <= count + 1; n++) {
        struct trade trade = {n, "ACME", 100 + (double)(n % 64) / 4, (uint32_t)(n % 512)};
        if (shm_wait_room(&up, patience_ns) || shm_lane_reserve(&up, &slot))
            return 4; /* its host has ended, or takes no more */
        memcpy(slot, &trade, sizeof trade);
        shm_lane_commit(&up, n <= count ? sizeof trade : 0, 0);
    }
    return 0;
}
