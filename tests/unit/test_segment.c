/*
 * src/segment.c against a host that this test plays: real objects and locks, a clock that is made
 * up where the host's health is watched, and a hook before each load and copy of shared memory.
 */
#define _GNU_SOURCE 1
#include <fcntl.h>
#include <stdatomic.h>
#include <string.h>

#include "shm_segment.h"

static int steps_left; /* until the action comes; 0: none is due */
static void (*interrupt)(void);

static inline void step(void)
{
    if (steps_left > 0 && --steps_left == 0)
        interrupt();
}

static inline void *step_copy(void *to, const void *from, size_t length)
{
    step();
    return memcpy(to, from, length);
}

#undef atomic_load
#undef atomic_load_explicit
#define atomic_load(at)                 (step(), *(at))
#define atomic_load_explicit(at, order) (step(), *(at))
#define memcpy                          step_copy
#define shm_role_is_held(segment, role) (step(), shm_role_is_held(segment, role))
#include "../../src/segment.c"
#undef memcpy

#include "unit.h"

#define MS 1000000u

enum { SLOTS = 4, STRIDE = 128, TOTAL = SHM_HEADER_SIZE + 2 * SLOTS * STRIDE };

static char name[SHM_NAME_SIZE];
static struct shm_segment client;

/* The host: its object, and its lock. */
static int object;
static unsigned char *memory;
static struct shm_header *header;
static struct shm_status *status;
static struct shm_segment its_host;

static const struct shm_header good = {.magic = {'S', 'H', 'M', 'P', 'R', 'U', 'E', 'B'},
                                       .version = SHM_VERSION,
                                       .header_size = SHM_HEADER_SIZE,
                                       .total_size = TOTAL,
                                       .slot_count = SLOTS,
                                       .slot_stride = STRIDE,
                                       .payload_capacity = 96,
                                       .session = 7,
                                       .host_pid = 4711,
                                       .schema = "index:Q value:d"};

static void host_create(void)
{
    object = shm_open(name, O_RDWR | O_CREAT | O_EXCL, 0600);
    CHECK(object >= 0 && ftruncate(object, TOTAL) == 0);
    memory = mmap(NULL, TOTAL, PROT_READ | PROT_WRITE, MAP_SHARED, object, 0);
    CHECK(memory != MAP_FAILED);
    header = (void *)memory;
    status = (void *)(memory + SHM_STATUS_AT);
    its_host = (struct shm_segment){0};
    memcpy(its_host.name, name, sizeof name);
    CHECK(shm_roles_open(&its_host) == SHM_OK);
    CHECK(shm_role_take(&its_host, SHM_ROLE_HOST) == SHM_OK);
}

static void host_goes_live(void)
{
    *header = good;
    atomic_store(&status->heartbeat_ns, shm_clock_now_ns());
    atomic_store(&status->state, SHM_STATE_LIVE);
}

static void host_dies(void)
{
    shm_role_leave(&its_host, SHM_ROLE_HOST);
}

static void host_closes(void)
{
    atomic_store(&status->state, SHM_STATE_CLOSED);
    shm_role_leave(&its_host, SHM_ROLE_HOST);
}

static void host_goes(void)
{
    shm_unlink(name);
    shm_roles_close(&its_host);
    munmap(memory, TOTAL);
    close(object);
}

static enum shm_result attach(const char *schema, uint64_t timeout_ns)
{
    client.why[0] = '\0';
    return shm_segment_attach(&client, name, schema, timeout_ns);
}

static bool says(const char *words)
{
    const bool found = strstr(client.why, words) != NULL && strchr(client.why, '\n') == NULL;

    if (!found)
        fprintf(stderr, "says: %s\n", client.why);
    return found;
}

/* ---- attach ---- */

static unsigned calls;
static enum shm_result told;

static bool count_calls(void *context, enum shm_result host)
{
    told = host;
    calls++;
    return context == NULL;
}

static bool begins_in_the_third(void *context, enum shm_result host)
{
    CHECK(context == &calls && host == (calls < 1 ? SHM_ABSENT : SHM_STARTING));
    calls++;
    if (calls == 1)
        host_create();
    if (calls == 3)
        host_goes_live();
    return true;
}

static void waits_for_a_host(void)
{
    client = (struct shm_segment){.idle = count_calls};
    CHECK(attach(NULL, 0) == SHM_ABSENT && says("start host.py") && calls == 0);
    CHECK(attach(NULL, 20 * MS) == SHM_ABSENT && calls >= 1 && told == SHM_ABSENT);
    client.context = &calls; /* then it says stop */
    calls = 0;
    CHECK(attach(NULL, UINT64_MAX) == SHM_STOPPED && calls == 1);

    calls = 0;
    client = (struct shm_segment){.idle = begins_in_the_third, .context = &calls};
    CHECK(attach("index:Q value:d", 60000ull * MS) == SHM_OK && calls == 3);
    CHECK(client.header.total_size == TOTAL && client.header.session == 7 && client.host == SHM_OK);
    CHECK(client.step_ns[SHM_STEP_OPEN] > 0 && client.step_ns[SHM_STEP_MAP] > 0);
    shm_segment_detach(&client);
    shm_segment_detach(&client); /* twice is no harm, */
    client = (struct shm_segment){.fd = 0};
    shm_segment_detach(&client); /* nor is one that was never attached */
    CHECK(fcntl(0, F_GETFD) != -1 || errno == EBADF);

    host_closes();
    CHECK(attach(NULL, 0) == SHM_ENDED && says("has ended"));
    atomic_store(&status->state, SHM_STATE_LIVE);
    CHECK(attach(NULL, 10 * MS) == SHM_DIED && says("pid 4711") && says("start host.py"));
    CHECK(client.fd == -1 && client.base == NULL);
    host_goes();
    host_create(); /* the size comes late, too */
    CHECK(ftruncate(object, 0) == 0);
    CHECK(attach(NULL, 10 * MS) == SHM_STARTING && says("size 0"));
    host_goes();
}

/* The host goes LIVE in any step of a try: never refused. */
static void goes_live_meanwhile(void)
{
    unsigned starting = 0, live = 0;
    bool came = true;

    for (int number = 1; came; number++) {
        host_create();
        client = (struct shm_segment){0};
        interrupt = host_goes_live;
        steps_left = number;
        const enum shm_result result = attach(NULL, 0);
        came = steps_left == 0;
        steps_left = 0;
        CHECK(result == SHM_OK || result == SHM_STARTING);
        starting += came && result == SHM_STARTING;
        live += came && result == SHM_OK;
        shm_segment_detach(&client);
        host_goes();
    }
    CHECK(starting > 0 && live > 0);
}

/* Larger than what is mapped before its size is known; and an object whose size is a lie. */
static void large(void)
{
    const uint64_t total = SHM_HEADER_SIZE + 2ull * FIRST_MAP;

    host_create();
    CHECK(ftruncate(object, (off_t)total) == 0);
    host_goes_live();
    header->slot_count = FIRST_MAP / STRIDE;
    header->total_size = total;
    client = (struct shm_segment){0};
    CHECK(attach(NULL, 0) == SHM_OK && client.size == total);
    CHECK(((volatile unsigned char *)client.base)[total - 1] == 0);
    shm_segment_detach(&client);
    host_goes();
    host_create();
    CHECK(ftruncate(object, (off_t)1 << 47) == 0);
    CHECK(attach(NULL, 0) == SHM_STARTING);
    host_goes_live();
    CHECK(attach(NULL, 0) == SHM_OK && client.size == FIRST_MAP); /* the rest is not used */
    shm_segment_detach(&client);
    host_goes();
}

#define REFUSED_WITH(words, ...)                                                                   \
    do {                                                                                           \
        host_goes_live();                                                                          \
        __VA_ARGS__;                                                                               \
        CHECK(attach(NULL, UINT64_MAX) == SHM_REFUSED && says("refused: ") && says(words));        \
        CHECK(client.fd == -1 && client.base == NULL);                                             \
    } while (0)

static void refused(void)
{
    static const char *const bad[] = {"", "/", "..", "a/b", "a:b", "caf\xc3\xa9"};

    client = (struct shm_segment){0};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        CHECK(shm_segment_attach(&client, bad[i], NULL, UINT64_MAX) == SHM_REFUSED);
        CHECK(says("its name ") && client.name[0] == '\0');
    }
    host_create();
    REFUSED_WITH("not made by host.py", header->magic[7] = 'C');
    REFUSED_WITH("not made by host.py", header->magic[0] = 0);
    REFUSED_WITH("version 1, ", header->version = 1);
    REFUSED_WITH("version 3, ", header->version = 3);
    REFUSED_WITH("byte order", header->version = 2u << 24);
    REFUSED_WITH("state", atomic_store(&status->state, 3));
    REFUSED_WITH("header_size", header->header_size = 1024);
    REFUSED_WITH("slot_count", header->slot_count = 0);
    REFUSED_WITH("slot_count", header->slot_count = 1);
    REFUSED_WITH("slot_count", header->slot_count = 3);
    REFUSED_WITH("slot_count", header->slot_count = 131072);
    REFUSED_WITH("slot_stride", header->slot_stride = 0);
    REFUSED_WITH("slot_stride", header->slot_stride = 96);
    REFUSED_WITH("payload_capacity", header->payload_capacity = 0);
    REFUSED_WITH("payload_capacity", header->payload_capacity = 97);
    REFUSED_WITH("total_size", header->total_size++);
    REFUSED_WITH("flags", header->flags = 2);
    REFUSED_WITH("session", header->session = 0);
    REFUSED_WITH("host_pid", header->host_pid = 0);
    REFUSED_WITH("zero", header->zero = 1);
    REFUSED_WITH("schema", memset(header->schema, 'a', SHM_SCHEMA_SIZE));
    REFUSED_WITH("schema", header->schema[3] = '\n');
    REFUSED_WITH("schema", header->schema[3] = '\x7f');
    REFUSED_WITH("schema", header->schema[3] = '\xe9');
    REFUSED_WITH("truncated", header->slot_count = 8,
                 header->total_size = SHM_HEADER_SIZE + 16 * STRIDE);
    REFUSED_WITH("2048 bytes", CHECK(ftruncate(object, 2048) == 0));
    CHECK(ftruncate(object, TOTAL + 12288) == 0); /* larger is right: macOS rounds up */
    host_goes_live();
    CHECK(attach(NULL, 0) == SHM_OK);
    shm_segment_detach(&client);
    host_goes();
}

static void schemas(void)
{
    char long_one[2000];

    host_create();
    host_goes_live();
    client = (struct shm_segment){0};
    CHECK(attach("index:Q value:d", 0) == SHM_OK);
    shm_segment_detach(&client);
    CHECK(attach("index:Q value:f", UINT64_MAX) == SHM_REFUSED);
    CHECK(says("\"index:Q value:d\"") && says("\"index:Q value:f\""));
    CHECK(attach("", UINT64_MAX) == SHM_REFUSED && attach("index:Q", 0) == SHM_REFUSED);
    memset(header->schema, 'h', SHM_SCHEMA_SIZE - 1); /* both texts as long as they can be */
    memset(long_one, 'c', sizeof long_one);
    long_one[sizeof long_one - 1] = '\0';
    CHECK(attach(long_one, 0) == SHM_REFUSED && says("hhh\"") && says("ccc\"; "));
    header->schema[0] = '\0';
    CHECK(attach("", 0) == SHM_OK);
    shm_segment_detach(&client);
    host_goes();
}

/* ---- the host's health ---- */

static uint64_t now_ns;

static void attach_to_live(void)
{
    host_create();
    host_goes_live();
    client = (struct shm_segment){0};
    CHECK(attach(NULL, 0) == SHM_OK);
    now_ns = shm_clock_now_ns();
    client.still = (struct shm_patience){0, now_ns}; /* from here on the clock is made up */
    client.asked_ns = now_ns;
}

static enum shm_result health_after(uint64_t ms)
{
    now_ns += ms * MS;
    return shm_segment_host(&client, now_ns);
}

static void leave_it(void)
{
    shm_segment_detach(&client);
    host_goes();
}

static void ends_and_dies(void)
{
    unsigned ended = 0;
    bool came = true;

    attach_to_live();
    CHECK(health_after(11) == SHM_OK);
    host_dies();
    CHECK(health_after(5) == SHM_OK); /* it asks the kernel every 10 ms */
    CHECK(health_after(5) == SHM_DIED && says("pid 4711") && client.host == SHM_DIED);
    CHECK(shm_role_take(&its_host, SHM_ROLE_HOST) == SHM_OK); /* a successor judges the object: */
    CHECK(health_after(100) == SHM_DIED);                     /* it does not rise from the dead */
    leave_it();

    attach_to_live();
    atomic_store(&status->state, SHM_STATE_CLOSED);
    CHECK(health_after(0) == SHM_ENDED && says("has ended")); /* at once */
    leave_it();

    for (int number = 1; came; number++) { /* it closes and leaves in any step: it never "died" */
        attach_to_live();
        interrupt = host_closes;
        steps_left = number;
        const enum shm_result result = health_after(20);
        came = steps_left == 0;
        steps_left = 0;
        CHECK(result == SHM_OK || result == SHM_ENDED);
        ended += result == SHM_ENDED;
        CHECK(!came || health_after(20) == SHM_ENDED);
        leave_it();
    }
    CHECK(ended > 0);
}

static void stalls(void)
{
    attach_to_live();
    for (int look = 1; look < 10; look++)
        CHECK(health_after(100) == SHM_OK);
    CHECK(health_after(100) == SHM_STALLED && says("pid 4711") && says("stalled"));
    CHECK(health_after(100) == SHM_STALLED);
    atomic_store(&status->heartbeat_ns, now_ns);
    CHECK(health_after(1) == SHM_OK && client.host == SHM_OK); /* goes on when the host does */
    CHECK(client.why[0] == '\0');
    for (int look = 1; look < 5; look++)
        CHECK(health_after(60000) == SHM_OK); /* we were stopped: 200 ms each */
    CHECK(health_after(60000) == SHM_STALLED && !client.foreign_clock);
    host_dies();
    CHECK(health_after(20) == SHM_DIED);
    leave_it();
}

static void another_clock(void)
{
    attach_to_live();
    atomic_store(&status->heartbeat_ns, now_ns - 5000ull * MS);
    CHECK(health_after(600) == SHM_OK && !client.foreign_clock); /* it may be that old by now */
    atomic_store(&status->heartbeat_ns, now_ns - 900ull * MS);
    CHECK(health_after(50) == SHM_OK && !client.foreign_clock);
    atomic_store(&status->heartbeat_ns, now_ns - 5000ull * MS);
    CHECK(health_after(100) == SHM_OK && client.foreign_clock);
    leave_it();
    attach_to_live();
    atomic_store(&status->heartbeat_ns, now_ns + 5000ull * MS);
    CHECK(health_after(100) == SHM_OK && client.foreign_clock);
    leave_it();
}

static void truncated(void)
{
    struct shm_segment other = {0};

    shm_segment_guard();
    attach_to_live();
    CHECK(shm_segment_attach(&other, name, NULL, 0) == SHM_OK); /* the last map is guarded */
    CHECK(ftruncate(object, SHM_HEADER_SIZE) == 0); /* the slots are gone, state is there */
    CHECK(health_after(20) == SHM_REFUSED && says("truncated"));
    shm_segment_detach(&client);
    CHECK(((volatile unsigned char *)other.base)[TOTAL - 1] == 0); /* no signal 7 */
    CHECK(shm_segment_host(&other, shm_clock_now_ns()) == SHM_REFUSED);
    shm_segment_detach(&other);
    leave_it();

    attach_to_live();
    CHECK(ftruncate(object, 0) == 0);
    CHECK(health_after(0) == SHM_REFUSED && says("truncated")); /* the state is gone, too */
    leave_it();
    signal(SIGBUS, SIG_DFL);
}

static void words(void)
{
    for (int result = SHM_SYSTEM; result <= SHM_OK; result++)
        for (int other = result + 1; other <= SHM_OK; other++)
            CHECK(strcmp(shm_result_text((enum shm_result)result),
                         shm_result_text((enum shm_result)other)) != 0);
    CHECK(strcmp(shm_result_text(SHM_SYSTEM), "a system call failed") == 0);
    CHECK(strcmp(shm_result_text((enum shm_result)(SHM_SYSTEM - 1)), "unknown result") == 0);
    CHECK(strcmp(shm_result_text((enum shm_result)1), "unknown result") == 0);
}

int main(void)
{
    unit_begin();
    snprintf(name, sizeof name, "/segment-%x", (unsigned)getpid());
    waits_for_a_host();
    goes_live_meanwhile();
    large();
    refused();
    schemas();
    ends_and_dies();
    stalls();
    another_clock();
    truncated();
    words();
    return unit_end();
}
