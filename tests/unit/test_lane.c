/*
 * src/lane.c, with every interleaving forced: one thread plays all sides, and stops each of them
 * between two of its steps (steps.h).
 */
#include <string.h>

#include "latency.h"
#include "steps.h"
#include "unit.h"

enum { SLOTS = 4, STRIDE = 128, CAPACITY = 96, TOTAL = 1024 + 2 * SLOTS * STRIDE };

static _Alignas(128) unsigned char memory[TOTAL];
static const struct shm_header header = {
    .slot_count = SLOTS, .slot_stride = STRIDE, .payload_capacity = CAPACITY};
static struct shm_lane *const shared = (void *)(memory + SHM_LANE_AT(SHM_DOWN));
static struct lane writer, one, two, three;
static struct lane_message message;
static uint32_t other;
static bool asleep;
static unsigned wakes;

/* In place of waiter.c's. */
void waiter_wake(_Atomic uint64_t *head)
{
    CHECK(head == &shared->head);
    asleep = false;
    wakes++;
}

static struct shm_slot *slot(uint64_t n)
{
    return (void *)(memory + SHM_SLOTS_AT(SHM_DOWN, SLOTS, STRIDE) + n % SLOTS * STRIDE);
}

static void begin(void)
{
    memset(memory, 0, sizeof memory);
    CHECK(lane_open(&writer, memory, &header, SHM_DOWN) == LANE_OK);
    one = two = three = writer;
    asleep = false;
    wakes = steps.touched = 0;
    steps.watched = NULL;
}

/* Writes n's payload: b = a + 1000 in every pair of words, so that a mixture shows. */
static void fill(unsigned char *payload, uint64_t n)
{
    uint64_t words[CAPACITY / 8];
    for (size_t i = 0; i < CAPACITY / 8; i++)
        words[i] = n + 1000 * i;
    memcpy(payload, words, sizeof words);
}

static int whole(const struct lane_message *m)
{
    unsigned char expected[CAPACITY];
    fill(expected, m->n);
    return m->length == CAPACITY && memcmp(m->payload, expected, CAPACITY) == 0;
}

/* Publishes as many, or as there is room for. */
static void publish(int count)
{
    unsigned char *payload;

    while (count-- > 0 && lane_reserve(&writer, &payload) == LANE_OK) {
        fill(payload, writer.next);
        lane_commit(&writer, CAPACITY, 0, 0);
    }
}

/* Reads one message, whole, and is done with it. */
static enum lane_result take(struct lane *reader)
{
    enum lane_result result = lane_next(reader, &message);

    if (result == LANE_OK) {
        const int good = whole(&message);
        result = lane_confirm(reader, &message);
        CHECK(good || result != LANE_OK);
    }
    return result == LANE_OK ? lane_release(reader, &message) : result;
}

static void claim(struct lane *lane, uint32_t pid)
{
    CHECK(lane_claim(lane, pid, &other) == LANE_OK);
}

static uint16_t generation(void)
{
    return SHM_GENERATION(atomic_load(&shared->place));
}

static void drop(void) /* as the host does with whoever holds the place */
{
    if (generation() % 2 == 1)
        atomic_store(&shared->dropped, generation());
}

/* ---- reading ---- */

static void in_order(void)
{
    begin();
    CHECK(lane_attach(&one) == LANE_OK);
    CHECK(lane_next(&one, &message) == LANE_EMPTY && !lane_readable(&one));
    for (uint64_t n = 1; n <= 10; n++) {
        publish(1);
        CHECK(lane_readable(&one) && take(&one) == LANE_OK && message.n == n);
        CHECK(message.due_ns == message.timestamp_ns && message.timestamp_ns != 0);
    }
    CHECK(one.lost == 0 && one.retries == 0 && !lane_dropped(&one));
    CHECK(lane_attach(&two) == LANE_OK && two.next == 11); /* what was before is not promised */
    CHECK(atomic_load(&shared->attached) == 2 && atomic_load(&shared->place) == 0);
    lane_leave(&one); /* a reader takes nothing, and gives nothing back */
    CHECK(atomic_load(&shared->place) == 0);
}

/* The producer begins to overwrite message 1 while the reader uses it. */
static void torn_while_used(void)
{
    unsigned char *payload;

    begin();
    publish(SLOTS);
    CHECK(lane_next(&one, &message) == LANE_OK && message.n == 1);
    CHECK(lane_reserve(&writer, &payload) == LANE_OK); /* message 5, in message 1's slot */
    fill(payload, 5);
    CHECK(!whole(&message));                            /* torn it is ... */
    CHECK(lane_confirm(&one, &message) == LANE_LAPPED); /* ... and that is seen */
    CHECK(one.lost == 1 && one.retries == 1 && one.next == 2);
    CHECK(take(&one) == LANE_OK && message.n == 2);
    for (uint64_t head = SLOTS + 1; head <= 3 * SLOTS;
         head++) { /* goes on behind head + 1's slot */
        begin();
        publish((int)head);
        CHECK(lane_reserve(&writer, &payload) == LANE_OK);
        CHECK(take(&one) == LANE_LAPPED && one.next == head + 2 - SLOTS);
    }
}

/* The producer stands in the middle of a message when the reader comes. */
static void torn_before_look(void)
{
    unsigned char *payload;

    begin();
    CHECK(lane_reserve(&writer, &payload) == LANE_OK);
    memset(payload, 0x55, CAPACITY);
    CHECK(lane_next(&one, &message) == LANE_EMPTY);
    /* What a weakly ordered machine may show of host.py: head first, then seq. Not lost. */
    atomic_store(&shared->head, 1);
    CHECK(!lane_readable(&one) && lane_next(&one, &message) == LANE_PENDING);
    CHECK(one.lost == 0 && one.next == 1);
    fill(payload, 1);
    lane_commit(&writer, CAPACITY, 0, 0);
    CHECK(take(&one) == LANE_OK && message.n == 1);
    CHECK(lane_reserve(&writer, &payload) == LANE_OK); /* taking it twice takes the same one */
    CHECK(lane_reserve(&writer, &payload) == LANE_OK && writer.next == 2);
}

static int burst;

static void publish_burst(void)
{
    unsigned char *payload;

    publish(burst / 2);
    if (burst % 2 == 1) /* and half of one more */
        CHECK(lane_reserve(&writer, &payload) == LANE_OK && memset(payload, 0x55, CAPACITY) != 0);
}

/* However often and in whatever step it is lapped: whole, and read + lost = published. */
static void lapped_exactly(void)
{
    uint64_t lapped = 0;

    for (burst = 0; burst < 4 * SLOTS; burst++) {
        bool came = true;
        for (int number = 1; came; number++) {
            uint64_t read = 0;
            begin();
            publish(SLOTS / 2);
            step_arm(number, publish_burst);
            for (enum lane_result result = LANE_OK; result != LANE_EMPTY;) {
                result = take(&one);
                read += result == LANE_OK;
                CHECK(result == LANE_OK || result == LANE_LAPPED || result == LANE_EMPTY);
            }
            came = step_came();
            CHECK(one.next == writer.next && read + one.lost == writer.next - 1);
            lapped += one.lost;
        }
    }
    CHECK(lapped > 100);
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
            CHECK(take(&one) == LANE_OK);
        atomic_store(&shared->head, heads[i]);
        CHECK(lane_readable(&one) && lane_next(&one, &message) == LANE_DAMAGED);
        if (heads[i] > 1) {
            CHECK(lane_open(&one, memory, &header, SHM_DOWN) == LANE_DAMAGED);
            CHECK(lane_attach(&two) == LANE_DAMAGED);
            CHECK(lane_claim(&two, 2, &other) == LANE_DAMAGED);
        }
    }
    begin();
    publish(1);
    atomic_store(&slot(1)->length, CAPACITY + 1);
    CHECK(lane_next(&one, &message) == LANE_DAMAGED);
    atomic_store(&slot(1)->seq, 1); /* odd for ever: nothing to read, nothing lost */
    for (int i = 0; i < 1000; i++)
        CHECK(lane_next(&one, &message) == LANE_PENDING);
    CHECK(one.lost == 0);
}

/* ---- the one consumer ---- */

static void lossless_waits(void)
{
    unsigned char *payload;

    begin();
    publish(1); /* before the claim: never promised */
    CHECK(!lane_has_consumer(&writer));
    claim(&one, 7);
    CHECK(lane_has_consumer(&writer) && one.next == 2 && atomic_load(&shared->attached) == 1);
    CHECK(atomic_load(&shared->place) == SHM_PLACE(1, 1));
    CHECK(atomic_load(&shared->holder) == (1ull << 32 | 7));
    publish(SLOTS);
    CHECK(!lane_writable(&writer) && lane_reserve(&writer, &payload) == LANE_FULL);
    CHECK(lane_unread(&writer) == SLOTS);
    CHECK(lane_next(&one, &message) == LANE_OK && message.n == 2);
    CHECK(lane_reserve(&writer, &payload) == LANE_FULL); /* seen is not done with */
    CHECK(lane_confirm(&one, &message) == LANE_OK && lane_release(&one, &message) == LANE_OK);
    CHECK(lane_reserve(&writer, &payload) == LANE_OK && lane_unread(&writer) == SLOTS - 1);
    lane_leave(&one);
    CHECK(atomic_load(&shared->place) == SHM_PLACE(2, 2));
    CHECK(!lane_has_consumer(&writer) && lane_writable(&writer));
}

static void publish_all(void)
{
    publish(3 * SLOTS);
}

/* The producer has looked when there was nobody, and goes on in any step of a claim: it stops
 * before it overwrites what the new consumer was promised. */
static void claimed_behind_the_look(void)
{
    for (int before = 0; before <= 2 * SLOTS; before++) {
        bool came = true;
        for (int number = 1; came; number++) {
            begin();
            if (before % 2 == 1) { /* a predecessor that was dropped, or nobody */
                claim(&two, 2);
                drop();
            }
            publish(before);
            step_arm(number, publish_all);
            claim(&one, 1);
            came = step_came();
            publish_all();
            CHECK(!lane_writable(&writer) && writer.next == one.next + SLOTS);
            for (uint64_t n = one.next; n < writer.next; n++)
                CHECK(take(&one) == LANE_OK && message.n == n);
            CHECK(one.lost == 0 && lane_next(&one, &message) == LANE_EMPTY);
        }
    }
}

static void one_leaves_three_comes(void)
{
    lane_leave(&one);
    claim(&three, 3);
}

/* A second consumer is refused with the pid of the first, or told to ask again. */
static void one_consumer(void)
{
    enum lane_result result;
    bool came = true;

    for (int number = 1; came; number++) {
        begin();
        claim(&one, 1);
        step_arm(number, one_leaves_three_comes);
        result = lane_claim(&two, 2, &other);
        came = step_came();
        if (!came)
            CHECK(result == LANE_BUSY && other == 1);
        else if (number == 1)
            CHECK(result == LANE_BUSY && other == 3);
        else
            CHECK(result == LANE_PENDING);
        lane_leave(&two); /* never had it */
        if (came)
            CHECK(lane_claim(&two, 2, &other) == LANE_BUSY && other == 3);
    }
}

static uint64_t place_then, dropped_then, holder_then;

static void note(void)
{
    place_then = atomic_load(&shared->place);
    dropped_then = atomic_load(&shared->dropped);
    holder_then = atomic_load(&shared->holder);
}

static bool as_noted(void)
{
    return atomic_load(&shared->place) == place_then &&
           atomic_load(&shared->holder) == holder_then &&
           atomic_load(&shared->dropped) == dropped_then;
}

/* A client killed before any step of its claim, the place being free, or that of a dropped one. */
static void killed_in_claim(void)
{
    volatile unsigned claiming = 0, held = 0; /* they outlive a longjmp */

    for (volatile int predecessor = 0; predecessor < 2; predecessor++) {
        volatile bool came = true;
        for (volatile int number = 1; came; number++) {
            begin();
            publish(2);
            if (predecessor) {
                claim(&three, 3);
                drop();
            }
            note();
            step_arm(number, step_death);
            if (setjmp(steps.grave) == 0) {
                claim(&one, 1);
                came = step_came();
            }
            if (as_noted()) { /* not begun yet */
                claim(&two, 2);
                continue;
            }
            if (SHM_POSITION(atomic_load(&shared->place)) >= SHM_CLAIMING)
                claiming++;
            else
                held++;
            const uint16_t dead = generation();
            CHECK(lane_claim(&two, 2, &other) == LANE_BUSY && other == 1);
            publish_all(); /* nobody can have been promised anything before message 3 */
            CHECK(!lane_writable(&writer) && writer.next <= 3 + SLOTS);
            drop();
            publish(1);
            claim(&two, 2);
            CHECK(generation() == dead + 2 && lane_claim(&one, 1, &other) == LANE_BUSY);
            CHECK(other == 2 && two.next == writer.next);
        }
    }
    CHECK(claiming >= 2 && held >= 2);
}

/* ---- a consumer that was dropped, and wakes up ---- */

/* The host drops one, goes on over what it reads; two takes the place, and reads. */
static void one_is_replaced(void)
{
    drop();
    publish(SLOTS + 2);
    claim(&two, 2);
    publish(2);
    CHECK(take(&two) == LANE_OK && message.n == two.next - 1);
    note();
}

/* The same to two: dropped does not name one any more. */
static void one_and_two_are_replaced(void)
{
    one_is_replaced();
    drop();
    two = three;
    two.next = 0;
    claim(&two, 3);
    publish(2);
    CHECK(take(&two) == LANE_OK);
    note();
}

static void (*const replacements[])(void) = {one_is_replaced, one_and_two_are_replaced};

static enum lane_result wakes_in_release(const struct lane_message *used)
{
    const enum lane_result result = lane_confirm(&one, used);

    return result == LANE_OK ? lane_release(&one, used) : result;
}

static enum lane_result wakes_in_next(const struct lane_message *used)
{
    struct lane_message newer;
    enum lane_result result = lane_release(&one, used);

    if (result == LANE_OK)
        result = lane_next(&one, &newer);
    return result == LANE_OK ? lane_confirm(&one, &newer) : result;
}

static enum lane_result wakes_in_leave(const struct lane_message *used)
{
    (void)used;
    lane_leave(&one);
    return LANE_DROPPED; /* it asks no more */
}

/* Whatever it was about to do: the lane is its successor's, and it knows. */
static void late_steps(void)
{
    enum lane_result (*const wakes_in[])(const struct lane_message *) = {
        wakes_in_release, wakes_in_next, wakes_in_leave};

    for (size_t i = 0; i < 2 * sizeof wakes_in / sizeof wakes_in[0]; i++) {
        unsigned number = 1;
        for (bool came = true; came; number++) {
            struct lane_message used;
            begin();
            claim(&one, 1);
            publish(2);
            CHECK(lane_next(&one, &used) == LANE_OK && whole(&used));
            step_arm((int)number, replacements[i % 2]);
            enum lane_result result = wakes_in[i / 2](&used);
            came = step_came();
            if (!came)
                break;
            if (result != LANE_DROPPED) /* it was done with that message in time */
                result = take(&one);
            CHECK(result == LANE_DROPPED && as_noted());
            lane_leave(&one);
            CHECK(as_noted() && lane_has_consumer(&writer));
            CHECK(take(&two) == LANE_OK && take(&two) == LANE_EMPTY && two.lost == 0);
        }
        CHECK(number > (i / 2 == 2 ? 1 : 4));
    }
}

/* Dropped, but nobody has taken the place: it counts what it was done with, and no more. */
static void dropped_only(void)
{
    bool came = true;
    unsigned counted = 0;

    for (int number = 1; came; number++) {
        begin();
        claim(&one, 1);
        publish(2);
        CHECK(lane_next(&one, &message) == LANE_OK && whole(&message));
        const struct lane_message used = message;
        step_arm(number, drop);
        counted += wakes_in_release(&used) == LANE_OK;
        came = step_came();
        if (!came)
            break;
        CHECK(take(&one) == LANE_DROPPED && lane_readable(&one));
        publish_all();
        CHECK(writer.next == 3 + 3 * SLOTS); /* who was dropped is waited for no more */
    }
    CHECK(counted >= 2);
}

/* A claim that was dropped in its sleep, and wakes up when another has the place. */
static void late_claim(void)
{
    unsigned late = 0;

    for (int twice = 0; twice < 2; twice++) {
        bool came = true;
        for (int number = 1; came; number++) {
            begin();
            publish(1);
            step_arm(number, replacements[twice]);
            const enum lane_result result = lane_claim(&one, 1, &other);
            came = step_came();
            if (!came)
                break;
            const uint32_t successor = twice ? 3 : 2;
            if (result == LANE_BUSY) { /* it had not begun */
                CHECK(other == successor);
                continue;
            }
            CHECK(result == LANE_DROPPED || result == LANE_PENDING);
            late += result == LANE_DROPPED;
            CHECK(as_noted() && lane_claim(&three, 4, &other) == LANE_BUSY && other == successor);
            lane_leave(&one);
            CHECK(as_noted() && take(&two) == LANE_OK);
        }
    }
    CHECK(late >= 8);
}

static uint16_t seen_generation;

static void drop_who_was_seen(void)
{
    atomic_store(&shared->dropped, seen_generation);
}

/* The host has seen that one does not move, and drops it while it leaves and two claims: two is
 * not dropped, and is waited for. Then the same with two taking over from a dropped one that
 * leaves meanwhile. */
static void dropped_while_it_leaves(void)
{
    bool came = true;

    for (int number = 1; came; number++) {
        begin();
        claim(&one, 1);
        seen_generation = generation();
        step_arm(number, drop_who_was_seen);
        lane_leave(&one);
        claim(&two, 2);
        came = step_came();
        CHECK(generation() == 3 && !lane_dropped(&two));
        publish_all();
        CHECK(writer.next == two.next + SLOTS && take(&two) == LANE_OK);
    }
}

static void one_leaves(void)
{
    lane_leave(&one);
}

static void dropped_leaves_while_two_claims(void)
{
    bool came = true;

    for (int number = 1; came; number++) {
        begin();
        claim(&one, 1);
        drop();
        step_arm(number, one_leaves);
        if (lane_claim(&two, 2, &other) != LANE_OK)
            claim(&two, 2);
        came = step_came();
        lane_leave(&one);
        CHECK(generation() == 3 && lane_has_consumer(&writer) && !lane_dropped(&two));
    }
}

/* After 32,768 claims the generations begin again, and never with the one in dropped. */
static void generations_wrap(void)
{
    begin();
    atomic_store(&shared->place, SHM_PLACE(65534, 0));
    claim(&one, 1);
    CHECK(generation() == 65535);
    lane_leave(&one);
    CHECK(atomic_load(&shared->place) == SHM_PLACE(0, 0));
    claim(&one, 1);
    CHECK(generation() == 1);

    for (uint64_t last = 65534; last <= 65535; last++) { /* free, or of one that is dropped */
        begin();
        const bool held = last % 2 == 1;
        atomic_store(&shared->place, SHM_PLACE(last, 0));
        atomic_store(&shared->dropped, held ? last : 65535);
        claim(&one, 1);
        CHECK(generation() == 1 && !lane_dropped(&one));
    }
    begin();
    atomic_store(&shared->place, SHM_PLACE(0, 0));
    atomic_store(&shared->dropped, 1);
    claim(&one, 1);
    CHECK(generation() == 3 && !lane_dropped(&one));
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

    begin(); /* one who keeps up */
    for (uint64_t ring = 0; ring < 5; ring++) {
        set_place(1, ring * SLOTS);
        CHECK(room_for(1, 1) && room_for(SLOTS - 1, 0));
    }
    set_place(1, 4 * SLOTS + 1); /* one who does not */
    CHECK(room_for(1, 1) && !lane_writable(&writer));
    set_place(1, 4 * SLOTS); /* who goes back, */
    CHECK(!lane_writable(&writer));
    set_place(1, writer.next); /* or is done with what was never published */
    CHECK(!lane_writable(&writer));
    set_place(1, 4 * SLOTS + 2);
    CHECK(room_for(1, 1) && !lane_writable(&writer));
    set_place(1, 4 * SLOTS + 1); /* who goes back takes no room that was there */
    CHECK(writer.next == 5 * SLOTS + 3 && !lane_writable(&writer));
    set_place(3, SHM_CLAIMING | 77); /* another claims: what was seen last counts */
    CHECK(!lane_writable(&writer));
    atomic_store(&shared->dropped, 1); /* its predecessor's */
    CHECK(!lane_writable(&writer));
    set_place(3, writer.next - 1);
    CHECK(room_for(SLOTS, 1) && !lane_writable(&writer));
    set_place(5, SHM_CLAIMING | 77);
    atomic_store(&shared->dropped, 5); /* dropped in its claim */
    CHECK(room_for(SLOTS, 1));
}

/* ---- waking ---- */

static int steps_to_sleep; /* of the producer, between the sleeper's wish and its sleep */
static uint64_t sleeps_for;

static void fall_asleep(void) /* as the kernel does: look, and enter the queue, in one */
{
    asleep = atomic_load(&shared->head) < sleeps_for;
}

static void wish(void)
{
    atomic_store(&shared->wish, sleeps_for);
    if (steps_to_sleep == 0)
        fall_asleep();
    else
        step_arm(steps_to_sleep, fall_asleep);
}

/* In whatever step of the producer somebody wishes, and in whatever later one he falls asleep: he
 * is awake when his message is there, and two calls at most were made for him. */
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
                CHECK(!asleep || sleeps_for == 3);
                publish(1);
                CHECK(!asleep);
                publish(3 * SLOTS);
                CHECK(wakes <= 2);
                twice += wakes == 2;
                (void)step_came();
            }
    CHECK(twice > 0);

    begin(); /* woken early, for one that wished early; then for each wish once */
    atomic_store(&shared->wish, 2);
    publish(1);
    CHECK(wakes == 1 && writer.woken == 1); /* not the wish: he may not be in the queue yet */
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

int main(void)
{
    unit_begin();
    in_order();
    torn_while_used();
    torn_before_look();
    lapped_exactly();
    hostile();
    lossless_waits();
    claimed_behind_the_look();
    one_consumer();
    killed_in_claim();
    late_steps();
    dropped_only();
    late_claim();
    dropped_while_it_leaves();
    dropped_leaves_while_two_claims();
    generations_wrap();
    room_is_asked_for_once_a_ring();
    woken_once_or_twice();
    return unit_end();
}
