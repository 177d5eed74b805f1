/*
 * driver.c - a driver in C feeds a Python program: what a sender needs of the library, and no more.
 * driver NAME COUNT: sends COUNT "measurements" to a host that receives, and an empty message,
 * which ends the stream. cliente_c --source (src/transfer.c) looks at all that can go wrong; this
 * does not.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "lane.h"
#include "latency.h"
#include "segment.h"

/* Straight into the slot: float i of measurement n is n + i / 4. @return bytes */
static uint32_t read_the_sensor(unsigned char *payload, uint64_t n)
{
    for (uint32_t i = 0; i < 4; i++) {
        const float value = (float)n + (float)i / 4;
        memcpy(payload + i * sizeof value, &value, sizeof value);
    }
    return 4 * sizeof(float);
}

int main(int argc, char **argv)
{
    struct segment segment = {.fd = -1};
    struct lane down, up;
    uint32_t other;
    unsigned char *payload;

    if (argc != 3)
        return 2;
    const uint64_t count = strtoull(argv[2], NULL, 10);
    if (segment_attach(&segment, argv[1]) != SEGMENT_OK) {
        fprintf(stderr, "driver: %s: %s\n", argv[1], segment.why);
        return 3;
    }
    if (lane_open(&down, segment.base, &segment.header, SHM_DOWN) != LANE_OK ||
        lane_claim(&down, (uint32_t)getpid(), &other) != LANE_OK || /* nobody else sends */
        lane_open(&up, segment.base, &segment.header, SHM_UP) != LANE_OK ||
        up.capacity < 4 * sizeof(float)) {
        fprintf(stderr, "driver: %s: somebody else sends, or its messages are too small\n",
                argv[1]);
        return 5;
    }
    for (uint64_t n = 1; n <= count + 1;) {
        if (lane_reserve(&up, &payload) != LANE_OK) { /* LANE_FULL: the host has not read it yet */
            if (segment_host(&segment, clock_now_ns()) != SEGMENT_OK)
                return 4;
            nanosleep(&(struct timespec){.tv_nsec = 50000}, NULL);
            continue;
        }
        lane_commit(&up, n <= count ? read_the_sensor(payload, n) : 0, 0, 0);
        n++;
    }
    lane_leave(&down);
    segment_detach(&segment);
    return 0;
}
