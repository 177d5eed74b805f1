/*
 * steps.h - src/lane.c with a hook before each of its atomic operations, and before each call of
 * the kernel: one thread plays every side, stops one of them between any two of its steps, and lets
 * the others act there.
 *
 * That forces every order of the steps. The orders that a machine adds by reordering memory are for
 * tests/model.
 */
#ifndef STEPS_H
#define STEPS_H
#define _GNU_SOURCE 1

#include <setjmp.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <unistd.h>

#ifdef __linux__
#include <sys/syscall.h>
#endif

static struct {
    int left; /* steps until the action comes; 0: none is due */
    void (*action)(void);
    jmp_buf grave;                /* where to go on when the action is step_death */
    const volatile void *watched; /* how often is this touched? */
    unsigned touched;
} steps;

static inline void step(const volatile void *what)
{
    steps.touched += what != NULL && what == steps.watched;
    if (steps.left > 0 && --steps.left == 0)
        steps.action();
}

/* The action comes just before this step from now on, the first being 1. */
static inline void step_arm(int number, void (*action)(void))
{
    steps.left = number;
    steps.action = action;
}

/* @return true when it has come; false when there were fewer steps */
static inline bool step_came(void)
{
    const bool came = steps.left == 0;

    steps.left = 0;
    return came;
}

/* The action of a process that is killed there. */
static inline void step_death(void)
{
    longjmp(steps.grave, 1);
}

static inline bool step_swap(_Atomic uint64_t *at, uint64_t *expected, uint64_t desired)
{
    step(at);
    return atomic_compare_exchange_strong(at, expected, desired);
}

/* In place of the futex call; the test defines it. */
long step_futex(long number, uint32_t *low_half, int operation, uint32_t value, const void *longest,
                void *none, int zero);

/* The plain use of an _Atomic object is sequentially consistent, and this is one thread. */
#undef atomic_load_explicit
#undef atomic_store_explicit
#undef atomic_fetch_add_explicit
#undef atomic_compare_exchange_weak_explicit
#undef atomic_thread_fence
#define atomic_load_explicit(at, order)             (step(at), *(at))
#define atomic_store_explicit(at, value, order)     (step(at), (void)(*(at) = (value)))
#define atomic_fetch_add_explicit(at, value, order) (step(at), (void)(*(at) += (value)))
#define atomic_compare_exchange_weak_explicit(at, expected, desired, success, failure)             \
    step_swap(at, expected, desired)
#define atomic_thread_fence(order) step(NULL)
#define syscall                    step_futex

#include "../../src/lane.c"

#endif
