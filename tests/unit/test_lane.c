/*
 * src/lane.c, with every interleaving forced: one thread plays all sides, and stops each of them
 * between two of its steps (steps.h).
 */
#include "steps.h"

#include <string.h>

#include "unit.h"

enum { SLOTS = 8, STRIDE = 128, CAPACITY = 96, TOTAL = SHM_HEADER_SIZE + 2 * SLOTS * STRIDE };

static _Alignas(128) unsigned char memory[TOTAL];
static struct shm_lane_block *const shared = (void *)(memory + SHM_LANE_AT(SHM_DOWN));
static struct shm_lane_block *const up = (void *)(memory + SHM_LANE_AT(SHM_UP));

/* Each process has a segment of its own, and so its own roles. */
static struct shm_segment segments[5];
static struct shm_lane writer, one, two, three, echo;
static struct shm_message message;
static uint32_t other;

/* ---- the kernel: locks and sleepers ---- */

static const struct shm_segment *holders[4];

enum shm_result shm_role_take(struct shm_segment *segment, enum shm_role role)
{
    step(NULL);
    if (holders[role] != NULL)
        return SHM_BUSY;
    holders[role] = segment;
    return SHM_OK;
}

bool shm_role_is_held(const struct shm_segment *segment, enum shm_role role)
{
    (void)segment;
    step(NULL);
    return holders[role] != NULL;
}

void shm_role_leave(struct shm_segment *segment, enum shm_role role)
{
    step(NULL);
    if (holders[role] == segment)
        holders[role] = NULL;
}

static void die(struct shm_lane *lane) /* the kernel releases its roles; it never runs again */
{
    for (int role = 0; role < 4; role++)
        if (holders[role] == lane->segment)
            holders[role] = NULL;
}

static unsigned in_queue, wakes;

#if SHM_HAS_FUTEX
long step_futex(long number, uint32_t *low_half, int operation, uint32_t value, const void *longest,
                void *none, int zero)
{
    (void)number, (void)none, (void)zero;
    step(NULL);
    CHECK((_Atomic uint64_t *)(void *)(low_half - (__BYTE_ORDER__ == __ORDER_BIG_ENDIAN__)) ==
          &shared->head);
    if (operation == FUTEX_WAKE) {
        in_queue = 0;
        wakes++;
        return 0;
    }
    CHECK(longest != NULL);
    in_queue += *low_half == value; /* it compares and enters the queue in one */
    return 0;
}
#endif

uint64_t shm_clock_now_ns(void)
{
    static uint64_t now_ns;

    return ++now_ns;
}

static struct shm_slot *slot(uint64_t n)
{
    return (void *)(memory + SHM_SLOTS_AT(SHM_DOWN, SLOTS, STRIDE) + n % SLOTS * STRIDE);
}

static void begin_with(uint32_t flags)
{
    struct shm_lane *const lanes[] = {&writer, &one, &two, &three, &echo};

    memset(memory, 0, sizeof memory);
    memset(holders, 0, sizeof holders);
    for (size_t i = 0; i < 5; i++) {
        segments[i] = (struct shm_segment){.base = memory};
        segments[i].header = (struct shm_header){.slot_count = SLOTS,
                                                 .slot_stride = STRIDE,
                                                 .payload_capacity = CAPACITY,
                                                 .flags = flags};
        CHECK(shm_lane_open(lanes[i], &segments[i], SHM_DOWN) == SHM_OK);
    }
    CHECK(shm_lane_open(&echo, &segments[1], SHM_UP) == SHM_OK); /* of the process of one */
    holders[SHM_ROLE_HOST] = &segments[0];
    in_queue = wakes = steps.touched = 0;
    steps.watched = NULL;
}

static void begin(void)
{
    begin_with(0);
}

/* Writes n's payload: b = a + 1000 in every pair of words, so that a mixture shows. */
static void fill(unsigned char *payload, uint64_t n)
{
    uint64_t words[CAPACITY / 8];
    for (size_t i = 0; i < CAPACITY / 8; i++)
        words[i] = n + 1000 * i;
    memcpy(payload, words, sizeof words);
}

static bool whole(const struct shm_message *m)
{
    unsigned char expected[CAPACITY];
    fill(expected, m->n);
    return m->length == CAPACITY && memcmp(m->payload, expected, CAPACITY) == 0;
}

/* Publishes as many, or as there is room for. */
static void publish(int count)
{
    unsigned char *payload;

    while (count-- > 0 && shm_lane_reserve(&writer, &payload) == SHM_OK) {
        fill(payload, writer.next);
        shm_lane_commit(&writer, CAPACITY, 0);
    }
}

static void publish_all(void)
{
    publish(3 * SLOTS);
}

static void publish_half_of_one(void)
{
    unsigned char *payload = NULL;

    CHECK(shm_lane_reserve(&writer, &payload) == SHM_OK);
    memset(payload, 0x55, CAPACITY);
}

/* Reads one message, whole, and is done with it. */
static enum shm_result take(struct shm_lane *reader)
{
    enum shm_result result = shm_lane_next(reader, &message);

    if (result == SHM_OK) {
        const bool good = whole(&message);
        result = shm_lane_confirm(reader, &message);
        CHECK(good || result != SHM_OK);
    }
    if (result == SHM_OK)
        shm_lane_release(reader, &message);
    return result;
}

static void claim(struct shm_lane *lane)
{
    CHECK(shm_lane_claim(lane, NULL, &other) == SHM_OK);
}

static uint16_t epoch(void)
{
    return SHM_EPOCH(atomic_load(&shared->place));
}

/* As the host does with a consumer that stands still. */
static void drop(void)
{
    if (epoch() % 2 == 1)
        atomic_store(&shared->dropped, epoch());
}

static bool held(void)
{
    return epoch() % 2 == 1 && atomic_load(&shared->dropped) != epoch();
}

/* As the host does wherever it waits. */
static void drop_dead(void)
{
    const uint16_t seen = epoch();

    if (held() && holders[SHM_ROLE_CONSUMER] == NULL && epoch() == seen)
        atomic_store(&shared->dropped, seen);
}

/* ---- reading ---- */

static void in_order(void)
{
    begin();
    CHECK(shm_lane_attach(&one) == SHM_OK);
    CHECK(shm_lane_next(&one, &message) == SHM_EMPTY);
    for (uint64_t n = 1; n <= 3 * SLOTS; n++) {
        publish(1);
        CHECK(take(&one) == SHM_OK && message.n == n);
        CHECK(message.due_ns == message.timestamp_ns && message.timestamp_ns != 0);
    }
    CHECK(one.lost == 0 && one.retries == 0 && !shm_lane_dropped(&one));
    CHECK(shm_lane_attach(&two) == SHM_OK && two.next == 3 * SLOTS + 1); /* not what was before */
    CHECK(atomic_load(&shared->attached) == 2 && atomic_load(&shared->place) == 0);
    shm_lane_leave(&one); /* a reader takes nothing, and gives nothing back */
    CHECK(atomic_load(&shared->place) == 0 && holders[SHM_ROLE_HOST] == &segments[0]);
}

static void published_while_it_attaches(void)
{
    bool came = true;

    for (int number = 1; came; number++) {
        begin();
        publish(3);
        step_arm(number, publish_all);
        CHECK(shm_lane_attach(&one) == SHM_OK);
        came = step_came();
        const uint32_t attached = atomic_load(&shared->attached);
        CHECK(attached == 1 && (one.next == 4 || one.next == 4 + 3 * SLOTS));
    }
}

/* The producer begins to overwrite message 1 while the reader uses it. */
static void torn_while_used(void)
{
    unsigned char *payload;

    begin();
    publish(SLOTS);
    CHECK(shm_lane_next(&one, &message) == SHM_OK && message.n == 1);
    CHECK(shm_lane_reserve(&writer, &payload) == SHM_OK); /* in message 1's slot */
    fill(payload, SLOTS + 1);
    CHECK(!whole(&message));                               /* it is torn ... */
    CHECK(shm_lane_confirm(&one, &message) == SHM_LAPPED); /* ... and that is seen */
    CHECK(one.retries == 1 && one.next == SLOTS / 2 + 1 && one.lost == SLOTS / 2);
    shm_lane_release(&one, &message); /* it was lapped: this changes nothing */
    CHECK(one.next == SLOTS / 2 + 1);
    CHECK(take(&one) == SHM_OK && message.n == SLOTS / 2 + 1);
}

/* It goes on half a ring behind head, wherever head is, and never goes back. */
static void half_a_ring_behind(void)
{
    for (uint64_t head = SLOTS + 1; head <= 4 * SLOTS; head++) {
        begin();
        publish((int)head);
        publish_half_of_one();
        CHECK(take(&one) == SHM_LAPPED && one.next == head + 1 - SLOTS / 2);
        CHECK(one.lost == one.next - 1);
        for (int i = 0; i < SLOTS / 2; i++)
            CHECK(take(&one) == SHM_OK);
        CHECK(take(&one) == SHM_EMPTY && one.lost + SLOTS / 2 == head);
    }
    begin(); /* a slot that says more than head: the next one, not an older one */
    publish(2);
    CHECK(take(&one) == SHM_OK);
    atomic_store(&slot(2)->seq, 2 * (2 + SLOTS));
    CHECK(take(&one) == SHM_LAPPED && one.next == 3 && one.lost == 1);
}

/* The producer stands in the middle of a message when the reader comes. */
static void torn_before_it_is_read(void)
{
    unsigned char *payload;

    begin();
    publish_half_of_one();
    CHECK(shm_lane_next(&one, &message) == SHM_EMPTY);
    /* What a weakly ordered machine may show of host.py: head first, then seq. Not lost. */
    atomic_store(&shared->head, 1);
    CHECK(shm_lane_next(&one, &message) == SHM_AGAIN && one.lost == 0 && one.next == 1);
    CHECK(shm_lane_reserve(&writer, &payload) == SHM_OK); /* taking it twice takes the same one */
    fill(payload, 1);
    shm_lane_commit(&writer, CAPACITY, 0);
    CHECK(take(&one) == SHM_OK && message.n == 1 && writer.next == 2);
}

static int burst;

static void publish_burst(void)
{
    publish(burst / 2);
    if (burst % 2 == 1)
        publish_half_of_one();
}

/* However often and in whatever step it is lapped: whole, and read + lost (+ skipped) = published.
 */
static void lapped_exactly(void)
{
    uint64_t lost[2] = {0}, skipped = 0;

    for (int newest = 0; newest < 2; newest++)
        for (burst = 0; burst < 4 * SLOTS; burst++) {
            bool came = true;
            for (int number = 1; came; number++) {
                uint64_t read = 0;
                begin();
                one.newest = newest;
                publish(SLOTS / 2);
                step_arm(number, publish_burst);
                for (enum shm_result result = SHM_OK; result != SHM_EMPTY;) {
                    result = take(&one);
                    read += result == SHM_OK;
                    CHECK(result == SHM_OK || result == SHM_LAPPED || result == SHM_EMPTY);
                }
                came = step_came();
                CHECK(one.next == writer.next);
                CHECK(read + one.lost + one.skipped == writer.next - 1);
                CHECK(newest || one.skipped == 0);
                CHECK(!newest || one.lost <= 1); /* one burst, so one message that was in use */
                lost[newest] += one.lost;
                skipped += one.skipped;
            }
        }
    CHECK(lost[0] > 100 && lost[1] > 0 && skipped > 100);
}

static void newest_only(void)
{
    begin();
    one.newest = true;
    CHECK(take(&one) == SHM_EMPTY);
    publish(1);
    CHECK(take(&one) == SHM_OK && message.n == 1 && one.skipped == 0);
    publish(5);
    CHECK(take(&one) == SHM_OK && message.n == 6 && one.skipped == 4);
    publish(5 * SLOTS);
    CHECK(take(&one) == SHM_OK && message.n == 6 + 5 * SLOTS);
    CHECK(one.skipped == 4 + 5 * SLOTS - 1 && one.lost == 0 && take(&one) == SHM_EMPTY);
}

/* What no producer writes ends the reading, and never leaves the slots. */
static void hostile(void)
{
    static const uint64_t heads[] = {0,          1,          SHM_CLAIMING + 4,
                                     1ull << 63, UINT64_MAX, UINT64_MAX - 3};

    for (size_t i = 0; i < sizeof heads / sizeof heads[0]; i++) {
        begin();
        publish(3);
        for (int n = 0; n < 3; n++)
            CHECK(take(&one) == SHM_OK);
        atomic_store(&shared->head, heads[i]);
        CHECK(shm_lane_next(&one, &message) == SHM_DAMAGED);
        one.newest = true;
        CHECK(shm_lane_next(&one, &message) == SHM_DAMAGED);
        one.newest = false;
        if (heads[i] > 1) {
            CHECK(shm_lane_open(&one, &segments[1], SHM_DOWN) == SHM_DAMAGED);
            CHECK(shm_lane_attach(&two) == SHM_DAMAGED);
            CHECK(shm_lane_claim(&two, NULL, &other) == SHM_DAMAGED);
            CHECK(!held() && holders[SHM_ROLE_CONSUMER] == NULL && two.epoch == 0);
            atomic_store(&up->head, heads[i]);
            CHECK(shm_lane_claim(&one, &echo, &other) == SHM_DAMAGED);
            CHECK(!held() && holders[SHM_ROLE_CONSUMER] == NULL);
            CHECK(holders[SHM_ROLE_SENDER] == NULL);
        }
    }
    begin();
    publish(1);
    atomic_store(&slot(1)->length, CAPACITY + 1);
    CHECK(shm_lane_next(&one, &message) == SHM_DAMAGED);
    atomic_store(&slot(1)->seq, 1); /* odd for ever: nothing to read, nothing lost */
    for (int i = 0; i < 1000; i++)
        CHECK(shm_lane_next(&one, &message) == SHM_AGAIN);
    CHECK(one.lost == 0);
    begin_with(SHM_FLAG_CRC); /* a length that lies: nothing beyond the slot is read for its CRC */
    publish(1);
    atomic_store(&slot(1)->length, UINT32_MAX);
    CHECK(shm_lane_next(&one, &message) == SHM_DAMAGED);
}

static void change_a_byte(void)
{
    slot(1)->payload[17] ^= 1;
}

static void checksums(void)
{
    const unsigned char digits[] = "123456789";
    bool came = true;
    unsigned bad = 0;

    CHECK(shm_crc32(digits, 9, 0) == 0xcbf43926u); /* the check value of the catalogues */
    CHECK(shm_crc32(digits + 4, 5, shm_crc32(digits, 4, 0)) == 0xcbf43926u);
    CHECK(shm_crc32(digits, 0, 7) == 7);
    begin();
    publish(1);
    CHECK(take(&one) == SHM_OK && message.crc32 == 0);
    begin_with(SHM_FLAG_CRC);
    publish(2);
    CHECK(atomic_load(&slot(2)->crc32) == shm_crc32(slot(2)->payload, CAPACITY, 2));
    CHECK(take(&one) == SHM_OK && take(&one) == SHM_OK);

    for (int number = 1; came; number++) { /* a byte that changes under a seq that does not */
        begin_with(SHM_FLAG_CRC);
        publish(2);
        CHECK(shm_lane_next(&one, &message) == SHM_OK);
        step_arm(number, change_a_byte);
        const enum shm_result result = shm_lane_confirm(&one, &message);
        came = step_came();
        CHECK(result == SHM_OK || (came && result == SHM_BAD_CRC));
        bad += result == SHM_BAD_CRC;
        shm_lane_release(&one, &message);
        CHECK(take(&one) == SHM_OK && message.n == 2);
    }
    CHECK(bad > 0);
}

/* ---- the one consumer ---- */

static void lossless_waits(void)
{
    unsigned char *payload;

    begin();
    publish(1); /* before the claim: never promised */
    claim(&one);
    CHECK(held() && one.next == 2 && atomic_load(&shared->attached) == 1);
    CHECK(atomic_load(&shared->place) == SHM_PLACE(1, 1));
    CHECK(atomic_load(&shared->pid) == (uint32_t)getpid());
    CHECK(holders[SHM_ROLE_CONSUMER] == &segments[1] && holders[SHM_ROLE_SENDER] == NULL);
    publish(SLOTS);
    CHECK(!shm_lane_writable(&writer) && shm_lane_reserve(&writer, &payload) == SHM_FULL);
    CHECK(shm_lane_unread(&writer) == SLOTS);
    CHECK(shm_lane_next(&one, &message) == SHM_OK && message.n == 2);
    CHECK(shm_lane_reserve(&writer, &payload) == SHM_FULL); /* seen is not done with */
    CHECK(shm_lane_confirm(&one, &message) == SHM_OK);
    CHECK(shm_lane_reserve(&writer, &payload) == SHM_FULL); /* nor is confirmed */
    shm_lane_release(&one, &message);
    CHECK(shm_lane_reserve(&writer, &payload) == SHM_OK && shm_lane_unread(&writer) == SLOTS - 1);
    shm_lane_leave(&one);
    CHECK(atomic_load(&shared->place) == SHM_PLACE(2, 2) && holders[SHM_ROLE_CONSUMER] == NULL);
    CHECK(shm_lane_writable(&writer));
    claim(&two);
    CHECK(epoch() == 3 && two.next == writer.next);
}

/* The producer has looked when there was nobody, and goes on in any step of a claim: it stops
 * before it overwrites what the new consumer was promised. */
static void claimed_after_the_look(void)
{
    for (int before = 0; before <= 2 * SLOTS; before++) {
        bool came = true;
        for (int number = 1; came; number++) {
            begin();
            if (before % 2 == 1) { /* a predecessor that died and was dropped, or nobody */
                claim(&two);
                die(&two);
                drop_dead();
            }
            publish(before);
            step_arm(number, publish_all);
            claim(&one);
            came = step_came();
            publish_all();
            CHECK(!shm_lane_writable(&writer) && writer.next == one.next + SLOTS);
            for (uint64_t n = one.next; n < writer.next; n++)
                CHECK(take(&one) == SHM_OK && message.n == n);
            CHECK(one.lost == 0 && shm_lane_next(&one, &message) == SHM_EMPTY);
        }
    }
}

static void one_leaves(void)
{
    shm_lane_leave(&one);
}

static void one_leaves_three_comes(void)
{
    shm_lane_leave(&one);
    claim(&three);
}

static void one_dies(void)
{
    die(&one);
}

static void one_dies_three_comes(void)
{
    die(&one);
    drop_dead();
    claim(&three);
}

static bool three_died;

static void three_comes_and_dies(void)
{
    three_died = shm_lane_claim(&three, NULL, &other) == SHM_OK;
    if (three_died)
        die(&three);
}

/* The words and the kernel agree about who holds the place. */
static bool is_consistent(void)
{
    const struct shm_lane *const lanes[] = {&one, &two, &three};
    unsigned holding = 0;

    for (size_t i = 0; i < 3; i++)
        if (lanes[i]->epoch != 0 && lanes[i]->epoch == epoch() && holders[SHM_ROLE_CONSUMER])
            holding += holders[SHM_ROLE_CONSUMER] == lanes[i]->segment ? 1 : 100;
    return holding == (held() && holders[SHM_ROLE_CONSUMER] != NULL);
}

/* A second consumer while there is a first one, which leaves or dies, and is followed, in any of
 * its steps. It gets the place or is refused, and never passes over one that died. */
static void one_consumer(void)
{
    static void (*const events[])(void) = {one_leaves, one_leaves_three_comes, one_dies,
                                           one_dies_three_comes};
    unsigned got = 0, refused = 0, again = 0;

    begin();
    claim(&one);
    CHECK(shm_lane_claim(&two, NULL, &other) == SHM_BUSY && other == (uint32_t)getpid());
    for (size_t event = 0; event < sizeof events / sizeof events[0]; event++) {
        bool came = true;
        for (int number = 1; came; number++) {
            begin();
            claim(&one);
            step_arm(number, events[event]);
            const enum shm_result result = shm_lane_claim(&two, NULL, &other);
            came = step_came();
            CHECK(result == SHM_OK || result == SHM_BUSY || result == SHM_AGAIN);
            CHECK(is_consistent() && (result == SHM_OK) == (two.epoch != 0));
            CHECK((holders[SHM_ROLE_CONSUMER] == two.segment) == (result == SHM_OK));
            if (events[event] == one_dies && came) {
                CHECK(result != SHM_OK && epoch() == 1); /* not before the host has counted it */
                CHECK(shm_lane_claim(&two, NULL, &other) == SHM_AGAIN);
                drop_dead();
                claim(&two);
            }
            got += result == SHM_OK;
            refused += result == SHM_BUSY;
            again += result == SHM_AGAIN;
        }
    }
    CHECK(got > 0 && refused > 0 && again > 0);

    bool came = true; /* one comes and dies between our look at the place and our lock */
    unsigned died = 0;
    for (int number = 1; came; number++) {
        begin();
        three_died = false;
        step_arm(number, three_comes_and_dies);
        const enum shm_result result = shm_lane_claim(&two, NULL, &other);
        came = step_came();
        CHECK(result == (three_died ? SHM_AGAIN : SHM_OK));
        CHECK((holders[SHM_ROLE_CONSUMER] == two.segment) == (result == SHM_OK));
        drop_dead();
        CHECK(atomic_load(&shared->dropped) == (three_died ? 1 : 0)); /* it is counted */
        died += three_died;
    }
    CHECK(died >= 3);
}

/* A client killed before any step of its claim, plain or with echo, the place being free, or that
 * of a dropped one. */
static void killed_in_claim(void)
{
    volatile unsigned claiming = 0, settled = 0, nothing = 0; /* they outlive a longjmp */

    for (volatile int kind = 0; kind < 4; kind++) {
        volatile bool came = true;
        for (volatile int number = 1; came; number++) {
            begin();
            publish(2);
            if (kind % 2) {
                claim(&three);
                die(&three);
                drop_dead();
            }
            const uint16_t before = epoch();
            step_arm(number, step_death);
            if (setjmp(steps.grave) == 0) {
                CHECK(shm_lane_claim(&one, kind / 2 ? &echo : NULL, &other) == SHM_OK);
                came = step_came();
            }
            publish_all(); /* nobody can have been promised anything before message 3 */
            CHECK(epoch() == before || (!shm_lane_writable(&writer) && writer.next <= 3 + SLOTS));
            if (epoch() != before) { /* it lives, so far as the kernel knows */
                CHECK(shm_lane_claim(&two, NULL, &other) == SHM_BUSY);
                CHECK(other == (uint32_t)getpid());
            }
            die(&one);
            if (epoch() == before)
                nothing++;
            else if (SHM_POSITION(atomic_load(&shared->place)) == SHM_CLAIMING)
                claiming++;
            else
                settled++;
            if (epoch() != before)
                CHECK(shm_lane_claim(&two, NULL, &other) == SHM_AGAIN);
            drop_dead();
            publish(1);
            claim(&two);
            CHECK(epoch() % 2 == 1 && epoch() > before && two.next == writer.next);
            CHECK(holders[SHM_ROLE_CONSUMER] == two.segment);
            CHECK(holders[SHM_ROLE_SENDER] == NULL);
        }
    }
    CHECK(claiming >= 4 && settled >= 4 && nothing >= 4);
}

/* The host looks for dead consumers in any step of a leave: one that leaves never looks dead. And
 * a successor in any step gets the place only after it is left. */
static void never_dead_while_it_leaves(void)
{
    bool came = true;

    for (int number = 1; came; number++) {
        begin();
        claim(&one);
        publish(2);
        CHECK(take(&one) == SHM_OK);
        step_arm(number, drop_dead);
        shm_lane_leave(&one);
        came = step_came();
        CHECK(atomic_load(&shared->dropped) == 0);
        CHECK(atomic_load(&shared->place) == SHM_PLACE(2, 1));
    }
}

static enum shm_result two_found;

static void two_claims(void)
{
    two_found = shm_lane_claim(&two, NULL, &other);
}

static void left_and_claimed(void)
{
    unsigned busy = 0;
    bool came = true;

    for (int number = 1; came; number++) {
        begin();
        claim(&one);
        two_found = SHM_EMPTY;
        step_arm(number, two_claims);
        shm_lane_leave(&one);
        came = step_came();
        busy += two_found == SHM_BUSY;
        if (two_found != SHM_OK) {
            CHECK(two_found == SHM_BUSY || !came);
            claim(&two);
        }
        CHECK(epoch() == 3 && held() && !shm_lane_dropped(&two));
    }
    CHECK(busy >= 2);
}

/* ---- a consumer that was dropped as stalled, and wakes up ---- */

/* The host drops one, and goes on over what it reads. Another client is refused: it lives. */
static void one_is_dropped(void)
{
    const bool lives = holders[SHM_ROLE_CONSUMER] == one.segment;

    drop();
    publish(2 * SLOTS);
    CHECK(!lives || shm_lane_claim(&two, NULL, &other) == SHM_BUSY);
}

static enum shm_result wakes_in_confirm(void)
{
    const enum shm_result result = shm_lane_confirm(&one, &message);

    if (result == SHM_OK)
        shm_lane_release(&one, &message);
    return result;
}

static enum shm_result wakes_in_next(void)
{
    struct shm_message newer;
    shm_lane_release(&one, &message);
    const enum shm_result result = shm_lane_next(&one, &newer);

    return result == SHM_OK ? shm_lane_confirm(&one, &newer) : result;
}

static enum shm_result wakes_in_leave(void)
{
    shm_lane_leave(&one);
    return SHM_OK;
}

/* In whatever step it wakes up: it counts nothing that may be overwritten, it knows, it has no
 * successor before it leaves, and then it has one. */
static void late_steps(void)
{
    static enum shm_result (*const wakes_in[])(void) = {wakes_in_confirm, wakes_in_next,
                                                        wakes_in_leave};

    for (size_t i = 0; i < sizeof wakes_in / sizeof wakes_in[0]; i++) {
        unsigned number = 1, counted = 0, told = 0;
        for (bool came = true; came; number++) {
            begin();
            claim(&one);
            publish(3);
            CHECK(shm_lane_next(&one, &message) == SHM_OK && whole(&message));
            step_arm((int)number, one_is_dropped);
            const enum shm_result result = wakes_in[i]();
            came = step_came();
            if (!came)
                break;
            counted += result == SHM_OK;
            told += result == SHM_DROPPED;
            CHECK(result == SHM_OK || result == SHM_DROPPED);
            CHECK(one.epoch == 0 || take(&one) == SHM_DROPPED);
            CHECK(writer.next == 4 + 2 * SLOTS); /* it was waited for no more */
            shm_lane_leave(&one);
            CHECK(!held() && epoch() == 2);
            claim(&two);
            CHECK(epoch() == 3 && !shm_lane_dropped(&two) && two.next == writer.next);
            publish(1);
            CHECK(take(&two) == SHM_OK && take(&two) == SHM_EMPTY && two.lost == 0);
        }
        CHECK(wakes_in[i] == wakes_in_next || counted > 0);
        CHECK(wakes_in[i] == wakes_in_leave || told > 1);
    }
}

/* Nothing of its message is overwritten yet, but it must not pass it on as its own. */
static void dropped_but_whole(void)
{
    begin();
    claim(&one);
    publish(2);
    CHECK(shm_lane_next(&one, &message) == SHM_OK);
    drop();
    CHECK(shm_lane_dropped(&one) && whole(&message));
    CHECK(shm_lane_confirm(&one, &message) == SHM_DROPPED);
}

/* Dropped in any step of its claim: it finds out with its first message, and reads none. */
static void late_claim(void)
{
    unsigned late = 0;

    bool came = true;
    for (int number = 1; came; number++) {
        begin();
        publish(1);
        step_arm(number, one_is_dropped);
        const enum shm_result result = shm_lane_claim(&one, NULL, &other);
        came = step_came();
        if (atomic_load(&shared->dropped) == 0 || result != SHM_OK)
            continue; /* it had not begun */
        late++;
        CHECK(shm_lane_dropped(&one));
        publish_all();
        CHECK(take(&one) == SHM_DROPPED && shm_lane_claim(&two, NULL, &other) == SHM_BUSY);
        shm_lane_leave(&one);
        claim(&two);
        CHECK(!shm_lane_dropped(&two));
    }
    CHECK(late >= 4);
}

static uint16_t seen_epoch;

static void drop_the_one_seen(void)
{
    atomic_store(&shared->dropped, seen_epoch);
}

/* The host has seen that one does not move, and drops it while it leaves and two claims: two is
 * not dropped, and is waited for. */
static void dropped_while_it_leaves(void)
{
    bool came = true;

    for (int number = 1; came; number++) {
        begin();
        claim(&one);
        seen_epoch = epoch();
        step_arm(number, drop_the_one_seen);
        shm_lane_leave(&one);
        claim(&two);
        came = step_came();
        CHECK(epoch() == 3 && !shm_lane_dropped(&two));
        publish_all();
        CHECK(writer.next == two.next + SLOTS && take(&two) == SHM_OK);
    }
}

/* After 32,768 claims the epochs begin again, and never with the one in dropped. */
static void epochs_wrap(void)
{
    begin();
    atomic_store(&shared->place, SHM_PLACE(65534, 0));
    claim(&one);
    CHECK(epoch() == 65535);
    shm_lane_leave(&one);
    CHECK(atomic_load(&shared->place) == SHM_PLACE(0, 0));
    claim(&one);
    CHECK(epoch() == 1);

    for (uint64_t last = 65534; last <= 65535; last++) { /* free, or of one that is dropped */
        begin();
        atomic_store(&shared->place, SHM_PLACE(last, 0));
        atomic_store(&shared->dropped, 65535);
        claim(&one);
        CHECK(epoch() == 1 && !shm_lane_dropped(&one));
    }
    begin();
    atomic_store(&shared->place, SHM_PLACE(0, 0));
    atomic_store(&shared->dropped, 1);
    claim(&one);
    CHECK(epoch() == 3 && !shm_lane_dropped(&one));
}

/* ---- the up lane ---- */

static void set_up_place(uint16_t holds, uint64_t position)
{
    atomic_store(&up->place, SHM_PLACE(holds, position));
}

static void echoes(void)
{
    unsigned char *payload;
    struct shm_lane sender;

    begin();
    atomic_store(&up->head, 5); /* an earlier sender's */
    CHECK(shm_lane_claim(&one, &echo, &other) == SHM_OK && echo.next == 6 && echo.produces);
    CHECK(holders[SHM_ROLE_CONSUMER] == &segments[1]);
    CHECK(holders[SHM_ROLE_SENDER] == &segments[1]);
    CHECK(shm_lane_reserve(&echo, &payload) == SHM_OK);
    shm_lane_commit(&echo, 3, 77);
    CHECK(atomic_load(&up->head) == 6 && atomic_load(&shared->head) == 0);
    shm_lane_leave(&echo);
    CHECK(holders[SHM_ROLE_SENDER] == NULL && held());
    shm_lane_leave(&one);
    CHECK(holders[SHM_ROLE_CONSUMER] == NULL && !held());

    set_up_place(1, 6); /* another sends: refused, with no pid, and nothing is kept */
    CHECK(shm_lane_open(&sender, &segments[2], SHM_UP) == SHM_OK);
    CHECK(shm_lane_produce(&sender) == SHM_OK);
    CHECK(shm_lane_claim(&one, &echo, &other) == SHM_BUSY && other == 0);
    CHECK(holders[SHM_ROLE_CONSUMER] == NULL && epoch() == 2 && one.epoch == 0);
    CHECK(holders[SHM_ROLE_SENDER] == &segments[2]);
    shm_lane_leave(&echo); /* it never had it */
    CHECK(holders[SHM_ROLE_SENDER] == &segments[2]);
}

static void senders(void)
{
    unsigned char *payload;
    struct shm_lane first, next;

    begin();
    CHECK(shm_lane_open(&first, &segments[1], SHM_UP) == SHM_OK);
    CHECK(shm_lane_open(&next, &segments[2], SHM_UP) == SHM_OK);
    CHECK(shm_lane_produce(&first) == SHM_AGAIN); /* the host does not receive */
    CHECK(holders[SHM_ROLE_SENDER] == NULL && !first.produces);
    set_up_place(1, 0);
    CHECK(shm_lane_produce(&first) == SHM_OK && first.next == 1);
    CHECK(shm_lane_produce(&next) == SHM_BUSY);
    CHECK(shm_lane_produce(&first) == SHM_BUSY &&
          holders[SHM_ROLE_SENDER] != NULL); /* it keeps it */
    for (int n = 1; n <= SLOTS; n++) {
        CHECK(shm_lane_reserve(&first, &payload) == SHM_OK);
        shm_lane_commit(&first, 8, 0);
    }
    CHECK(shm_lane_reserve(&first, &payload) == SHM_FULL && shm_lane_unread(&first) == SLOTS);
    set_up_place(1, 3);
    CHECK(shm_lane_reserve(&first, &payload) == SHM_OK);
    memset(payload, 0x55, CAPACITY); /* killed in the middle of message 9 */
    die(&first);
    CHECK(shm_lane_produce(&next) == SHM_OK && next.next == SLOTS + 1);
    CHECK(shm_lane_reserve(&next, &payload) == SHM_OK); /* the same slot, from its begin */
    fill(payload, 9);
    shm_lane_commit(&next, CAPACITY, 0);
    struct shm_lane host;
    CHECK(shm_lane_open(&host, &segments[0], SHM_UP) == SHM_OK);
    host.next = 9;
    CHECK(take(&host) == SHM_OK && message.n == 9);
    shm_lane_leave(&next);
    CHECK(holders[SHM_ROLE_SENDER] == NULL && atomic_load(&up->place) == SHM_PLACE(1, 3));
}

/* ---- the producer's room ---- */

static void set_place(uint16_t holds, uint64_t position)
{
    atomic_store(&shared->place, SHM_PLACE(holds, position));
}

/* How many messages have room, and how many looks at the place that takes. */
static bool room_for(int messages, unsigned looks)
{
    const uint64_t from = writer.next;

    steps.watched = &shared->place;
    steps.touched = 0;
    publish(messages);
    steps.watched = NULL;
    return writer.next == from + (uint64_t)messages && steps.touched == looks;
}

static void room_is_asked_for_once_a_ring(void)
{
    begin(); /* nobody */
    CHECK(room_for(1, 1));
    CHECK(room_for(SLOTS - 1, 0) && room_for(5 * SLOTS, 5));
    set_place(3, 1); /* dropped */
    atomic_store(&shared->dropped, 3);
    CHECK(room_for(5 * SLOTS, 5));

    begin(); /* one that keeps up */
    for (uint64_t ring = 0; ring < 5; ring++) {
        set_place(1, ring * SLOTS);
        CHECK(room_for(1, 1) && room_for(SLOTS - 1, 0));
    }
    set_place(1, 4 * SLOTS + 1); /* one that does not */
    CHECK(room_for(1, 1) && !shm_lane_writable(&writer));
    set_place(1, 4 * SLOTS); /* that goes back, */
    CHECK(!shm_lane_writable(&writer));
    set_place(1, writer.next); /* or is done with what was never published */
    CHECK(!shm_lane_writable(&writer));
    set_place(1, 4 * SLOTS + 2);
    CHECK(room_for(1, 1) && !shm_lane_writable(&writer));
    set_place(1, 4 * SLOTS + 1); /* one that goes back takes no room that was there */
    CHECK(writer.next == 5 * SLOTS + 3 && !shm_lane_writable(&writer));
    set_place(3, SHM_CLAIMING); /* another claims: what was seen last counts */
    CHECK(!shm_lane_writable(&writer));
    atomic_store(&shared->dropped, 1); /* its predecessor's */
    CHECK(!shm_lane_writable(&writer));
    set_place(3, writer.next - 1);
    CHECK(room_for(SLOTS, 1) && !shm_lane_writable(&writer));
    set_place(5, SHM_CLAIMING);
    atomic_store(&shared->dropped, 5); /* dropped in its claim */
    CHECK(room_for(SLOTS, 1));
}

/* ---- sleeping and waking ---- */

#if SHM_HAS_FUTEX
static uint64_t sleeps_for;
static int steps_to_sleep; /* of the producer, between the sleeper's wish and its sleep */

static void fall_asleep(void) /* as the kernel does: compare, and enter the queue, in one */
{
    in_queue = atomic_load(&shared->head) < sleeps_for;
}

static void wish(void)
{
    atomic_store(&shared->wish, sleeps_for);
    if (steps_to_sleep == 0)
        fall_asleep();
    else
        step_arm(steps_to_sleep, fall_asleep);
}

/* In whatever step of the producer a sleeper wishes, and in whatever later one it falls asleep: it
 * is awake when its message is there, and two calls at most were made for it. */
static void woken_once_or_twice(void)
{
    enum { STEPS = 12 }; /* more than a commit has */
    unsigned twice = 0;

    for (sleeps_for = 2; sleeps_for <= 3; sleeps_for++)
        for (int number = 1; number <= 2 * STEPS; number++)
            for (steps_to_sleep = 0; steps_to_sleep <= 2 * STEPS; steps_to_sleep++) {
                begin();
                publish(1);
                CHECK(wakes == 0); /* nobody sleeps */
                step_arm(number, wish);
                publish(1);
                CHECK(in_queue == 0 || sleeps_for == 3);
                publish(1);
                CHECK(in_queue == 0);
                publish(3 * SLOTS);
                CHECK(wakes <= 2);
                twice += wakes == 2;
                (void)step_came();
            }
    CHECK(twice > 0);

    begin(); /* woken early, for one that wished early; then for each wish once */
    atomic_store(&shared->wish, 2);
    publish(1);
    CHECK(wakes == 1 && writer.woken == 1); /* not the wish: it may not be in the queue yet */
    publish(1);
    CHECK(wakes == 2);
    publish(20);
    CHECK(wakes == 2);
    for (unsigned more = 1; more <= 5; more++) {
        atomic_store(&shared->wish, writer.next);
        publish(3);
        CHECK(wakes == 2 + more);
    }
}

static void publish_two(void)
{
    publish(2);
}

static void publish_one(void)
{
    publish(1);
}

/* Only where it is over is a message that came meanwhile a missed wake-up. */
static void naps(void)
{
    struct shm_lane reader;

    begin();
    CHECK(shm_lane_open(&reader, &segments[1], SHM_UP) == SHM_OK);
    CHECK(shm_lane_attach(&reader) == SHM_OK);
    CHECK(shm_lane_sleep(&reader, SHM_NAP_NS));
    CHECK(!shm_lane_sleep(&reader, SHM_NAP_NS + 1));
}

static void two_sleeps(void)
{
    CHECK(!shm_lane_sleep(&two, 1000));
}

/* The sleeper's own steps: the producer, or another sleeper, comes in any of them. */
static void sleeps(void)
{
    static void (*const events[])(void) = {publish_one, publish_two, two_sleeps};
    unsigned slept = 0, raised = 0;

    for (size_t event = 0; event < 3; event++)
        for (uint64_t ahead = 1; ahead <= 2;
             ahead++) { /* two waits for message 2, one for 1 or 3 */
            bool came = true;
            for (int number = 1; came; number++) {
                begin();
                two.next = 2;
                one.next = 2 * ahead - 1;
                step_arm(number, events[event]);
                CHECK(!shm_lane_sleep(&one, 1000));
                came = step_came();
                if (event != 2)
                    CHECK(in_queue == 0 || writer.next <= one.next); /* never on what is there */
                CHECK(atomic_load(&shared->wish) >= one.next);
                raised += atomic_load(&shared->wish) == 2;
                slept += in_queue;
                publish(5);
                CHECK(in_queue == 0);
            }
        }
    CHECK(slept > 0 && raised > 0);

    bool came = true; /* the producer's steps: the sleeper comes in any of them */
    for (int number = 1; came; number++) {
        begin();
        two.next = 1;
        step_arm(number, two_sleeps);
        publish(1);
        came = step_came();
        CHECK(in_queue == 0);
    }
}

#endif

int main(void)
{
    unit_begin();
    in_order();
    published_while_it_attaches();
    torn_while_used();
    half_a_ring_behind();
    torn_before_it_is_read();
    lapped_exactly();
    newest_only();
    hostile();
    checksums();
    lossless_waits();
    claimed_after_the_look();
    one_consumer();
    killed_in_claim();
    never_dead_while_it_leaves();
    left_and_claimed();
    late_steps();
    dropped_but_whole();
    late_claim();
    dropped_while_it_leaves();
    epochs_wrap();
    echoes();
    senders();
    room_is_asked_for_once_a_ring();
#if SHM_HAS_FUTEX
    woken_once_or_twice();
    sleeps();
    naps();
#endif
    return unit_end();
}
