#define _GNU_SOURCE
#include "waiter.h"

#include <errno.h>
#include <limits.h>
#include <sched.h>
#include <time.h>
#include <unistd.h>

#if WAITER_CAN_BLOCK
#include <sys/syscall.h>
#endif
/* <linux/futex.h> would have them, but a musl toolchain may come without the kernel's headers. */
#define FUTEX_WAIT 0
#define FUTEX_WAKE 1

#include "latency.h"

#define SPIN_LOOKS     64u      /* between two looks at the clock and the host's health */
#define SPIN_YIELD     4096u    /* looks, then others on this CPU have a turn */
#define ADAPTIVE_NS    2000000u /* spin so long without a message */
#define SLEEP_FIRST_NS 50000u   /* then twice as long each time ... */
#define SLEEP_LONGEST  1000000u /* ... up to this */
#define BLOCK_LONGEST  100000000u

const char *const wait_mode_names[] = {"adaptive", "spin", "yield", "sleep", "block", NULL};

void waiter_init(struct waiter *waiter, enum wait_mode mode, struct shm_lane *sleep_on)
{
    const bool blocks = WAITER_CAN_BLOCK && (mode == WAIT_ADAPTIVE || mode == WAIT_BLOCK);

    *waiter = (struct waiter){.mode = mode,
                              .sleep_on = blocks ? sleep_on : NULL,
                              .one_cpu = sysconf(_SC_NPROCESSORS_ONLN) < 2};
    waiter_reset(waiter);
}

void waiter_reset(struct waiter *waiter)
{
    waiter->looks = 0;
    waiter->since_ns = 0;
    waiter->sleep_ns = SLEEP_FIRST_NS;
}

static void relax(void)
{
#if defined(__x86_64__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ __volatile__("yield");
#endif
}

/* Waits while the low half of head is value, or wakes as many: a futex has 32 bits. Not
 * FUTEX_PRIVATE: the other side is another process. */
static long futex(_Atomic uint64_t *head, int operation, uint32_t value,
                  const struct timespec *longest)
{
#if WAITER_CAN_BLOCK
    uint32_t *low_half = (uint32_t *)(void *)head + (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__);
    return syscall(SYS_futex, low_half, operation, value, longest, NULL, 0);
#else
    (void)head, (void)operation, (void)value, (void)longest; /* sleep_on is always NULL */
    return 0;
#endif
}

static void waiter_block(struct waiter *waiter, uint64_t next)
{
    struct shm_lane *lane = waiter->sleep_on;
    const struct timespec longest = {.tv_nsec = BLOCK_LONGEST};
    const uint64_t owner = atomic_load_explicit(&lane->owner, memory_order_relaxed);

    /* Ours is exact only now (lane_release): the producer tells by it that we sleep anew. */
    atomic_store_explicit(&lane->cursor, next - 1, memory_order_release);
    atomic_store_explicit(&lane->waiting, 1, memory_order_relaxed);
    /* SYNC sleep (full fence): pairs with the producer's fence "wake". We say that we wait, then
     * look; it stores head, then looks whether we wait. One of the two sees the other. */
    atomic_thread_fence(memory_order_seq_cst);
    const uint64_t head = atomic_load_explicit(&lane->head, memory_order_relaxed);
    if (head < next) {
        const long result = futex(&lane->head, FUTEX_WAIT, (uint32_t)head, &longest);
        if (result != 0 && errno == ETIMEDOUT &&
            atomic_load_explicit(&lane->head, memory_order_relaxed) != head)
            waiter->missed_wakeups++;
    }
    /* Who was stopped in his sleep and dropped does not end his successor's. */
    if (atomic_load_explicit(&lane->owner, memory_order_relaxed) == owner)
        atomic_store_explicit(&lane->waiting, 0, memory_order_relaxed);
}

void waiter_wake(_Atomic uint64_t *head)
{
    futex(head, FUTEX_WAKE, INT_MAX, NULL);
}

static void sleep_a_step(struct waiter *waiter)
{
    const struct timespec step = {.tv_nsec = (long)waiter->sleep_ns};

    nanosleep(&step, NULL);
    waiter->sleep_ns *= 2;
    if (waiter->sleep_ns > SLEEP_LONGEST)
        waiter->sleep_ns = SLEEP_LONGEST;
}

bool waiter_pause(struct waiter *waiter, uint64_t next)
{
    enum wait_mode mode = waiter->mode;

    if (mode == WAIT_ADAPTIVE && !waiter->one_cpu &&
        (waiter->since_ns == 0 || waiter->now_ns - waiter->since_ns < ADAPTIVE_NS))
        mode = WAIT_SPIN;
    if (mode == WAIT_SPIN || mode == WAIT_YIELD) {
        relax();
        waiter->looks++;
        if (mode == WAIT_YIELD || waiter->looks % SPIN_YIELD == 0)
            sched_yield(); /* now and then even who spins, or two on one CPU never meet */
        if (waiter->looks % SPIN_LOOKS != 0)
            return false;
    } else if (waiter->sleep_on != NULL && next != 0) {
        waiter_block(waiter, next);
    } else {
        sleep_a_step(waiter);
    }
    waiter->now_ns = clock_now_ns();
    if (waiter->since_ns == 0)
        waiter->since_ns = waiter->now_ns;
    return true;
}
