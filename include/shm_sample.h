/*
 * shm_sample.h - what a payload of kind 1 is, and where the demo's values come from. For your own
 * data this list is the one place in C; class Sample and sample_filler in host.py are the one in
 * Python.
 *
 * The struct, its checks, `--layout`, the first message's text, the ndjson line and what --verify
 * expects are all made from it. X(kind, name, dimension, unit, what host.py sends in message n);
 * kinds: u64 u32 f64 f32 text (chars) pad (zeros).
 */
#ifndef SHM_SAMPLE_H
#define SHM_SAMPLE_H

#include <stddef.h>
#include <stdint.h>

#define SHM_SAMPLE_FIELDS(X)                                                                       \
    X(u64, index, , "", n)                                                                         \
    X(f64, time_s, , "s", (double)n * 0.001)                                                       \
    X(f32, accel, [3], "m/s^2",                                                                    \
      {0.5f * shm_swing(n), 0.25f * shm_swing(n + 256), 9.8125f + 0.0625f * shm_swing(2 * n)})     \
    X(f32, gyro, [3], "rad/s",                                                                     \
      {0.25f * shm_swing(n + 256), -0.125f * shm_swing(n), 0.03125f * shm_swing(4 * n)})           \
    X(f32, temperature, , "degrees C", 36.5f + 0.25f * shm_swing(n + 512))                         \
    X(pad, zero, [20], "", {0})

typedef uint64_t shm_u64;
typedef uint32_t shm_u32;
typedef double shm_f64;
typedef float shm_f32;
typedef char shm_text;
typedef uint8_t shm_pad;

#define SHM_SAMPLE_MEMBER(kind, name, dimension, unit, ...) shm_##kind name dimension;
struct shm_sample {
    SHM_SAMPLE_FIELDS(SHM_SAMPLE_MEMBER)
};

/* The compiler has put no gap between the fields: Python would have to know of it. */
#define SHM_SAMPLE_SIZE(kind, name, dimension, unit, ...) +sizeof(shm_##kind dimension)
_Static_assert(sizeof(struct shm_sample) == 0 SHM_SAMPLE_FIELDS(SHM_SAMPLE_SIZE),
               "a gap in struct shm_sample: fill it with a pad");

/* A sine made of two parabolas, period 1024, -1 ... 1. */
static inline float shm_swing(uint64_t n)
{
    const double x = ((double)(n & 1023) - 512) / 512;
    return (float)(4 * x * (x < 0 ? 1 + x : 1 - x));
}

/* What host.py sends as message n: a pure function of n, in exact binary fractions, so that
 * --verify can check every byte. */
#define SHM_SAMPLE_VALUE(kind, name, dimension, unit, ...) .name = __VA_ARGS__,
static inline struct shm_sample shm_sample_of(uint64_t n)
{
    return (struct shm_sample){SHM_SAMPLE_FIELDS(SHM_SAMPLE_VALUE)};
}

#endif
