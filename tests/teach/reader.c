/* reader [NAME]: receives a struct of its own from publish.py, until that ends. */
#include "shm_waiter.h"
#include <stdio.h>
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
    struct shm_lane lane;
    struct shm_waiter waiter;
    struct shm_message message;
    struct trade trade;
    unsigned long long count = 0, shares = 0;
    int end = shm_segment_attach(&segment, argc > 1 ? argv[1] : "/trades", TRADE, 5000000000u);

    if (end || (end = shm_lane_open(&lane, &segment, SHM_DOWN)) || (end = shm_lane_attach(&lane))) {
        fprintf(stderr, "reader: %s\n", end == SHM_REFUSED ? segment.why : shm_result_text(end));
        return end == SHM_REFUSED ? 5 : 3;
    }
    shm_waiter_init(&waiter, SHM_WAIT_ADAPTIVE, &lane); /* or SHM_WAIT_SPIN, SHM_WAIT_BLOCK */
    while ((end = shm_receive(&waiter, 5000000000u, &message)) == SHM_OK) {
        const bool fits = message.length >= sizeof trade;
        memcpy(&trade, message.payload, fits ? sizeof trade : 0); /* copy, confirm, release, use */
        const bool whole = shm_lane_confirm(&lane, &message) == SHM_OK && fits;
        shm_lane_release(&lane, &message);
        count += whole;
        shares += whole ? trade.size : 0;
    }
    printf("%llu trades, %llu shares, %llu lost; %s\n", count, shares,
           (unsigned long long)lane.lost, shm_result_text(end));
    return end == SHM_ENDED ? 0 : end == SHM_DIED ? 4 : 3;
}
