#define _GNU_SOURCE
#include "shm_segment.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#ifndef MAP_POPULATE /* Linux: map the pages now, not one fault at a time in the timed loop */
#define MAP_POPULATE 0
#endif

#define TRY_NS 4000000u  /* between two tries to attach */
#define ASK_NS 10000000u /* between two queries of the host's lock */

/* The maps of this process, for on_bus_error. An entry is free while size is 0. */
static struct {
    _Atomic uintptr_t base;
    _Atomic size_t size;
} guarded[16];

#define REFUSE(segment, ...) say(segment, SHM_REFUSED, "refused: " __VA_ARGS__)

__attribute__((format(printf, 3, 4))) static enum shm_result
say(struct shm_segment *segment, enum shm_result result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(segment->why, sizeof segment->why, format, arguments);
    va_end(arguments);
    return result;
}

uint64_t shm_clock_now_ns(void)
{
    struct timespec t;

    clock_gettime(SHM_CLOCK, &t);
    return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

/* ---- attach: its steps ---- */

static enum shm_result open_object(struct shm_segment *segment)
{
    segment->fd = shm_role_open_object(segment->name);
    if (segment->fd >= 0)
        return SHM_OK;
    switch (errno) {
    case ENOENT:
        return say(segment, SHM_ABSENT,
                   "no host: there is no such segment; start host.py first (in a container: both "
                   "in one, or with --ipc=host)");
    case EACCES:
    case EPERM: return REFUSE(segment, "it belongs to another user; run both as one user");
    case EISDIR:
    case EINVAL: /* glibc, for a folder */
    case ELOOP:
    case ENXIO: return REFUSE(segment, "a link, folder or socket has this name; choose another");
    default: return say(segment, SHM_SYSTEM, "shm_open: %s", strerror(errno));
    }
}

static enum shm_result open_roles(struct shm_segment *segment)
{
    switch (shm_roles_open(&segment->roles, segment->name, &segment->fd)) {
    case SHM_OK: return SHM_OK;
    case SHM_ABSENT: return say(segment, SHM_ABSENT, "no host: it has just gone; start it again");
    case SHM_REFUSED: return REFUSE(segment, "its lock file in /tmp is another user's; remove it");
    default: return say(segment, SHM_SYSTEM, "its lock file in /tmp: %s", strerror(errno));
    }
}

static enum shm_result stat_object(struct shm_segment *segment)
{
    struct stat found;

    if (fstat(segment->fd, &found) != 0)
        return say(segment, SHM_SYSTEM, "fstat: %s", strerror(errno));
    segment->object_size = (uint64_t)found.st_size;
    if (!S_ISREG(found.st_mode) && (found.st_mode & S_IFMT) != 0) /* macOS: reports no type */
        return REFUSE(segment, "not a regular shared memory object; choose another name");
    if (found.st_uid != geteuid() && found.st_uid != 0)
        return REFUSE(segment, "it belongs to user %lu, not to you or root; run both as one user",
                      (unsigned long)found.st_uid);
    if (segment->object_size == 0)
        return say(segment, SHM_STARTING, "its host has not finished starting (size 0)");
    if (segment->object_size < SHM_HEADER_SIZE)
        return REFUSE(segment, "%" PRIu64 " bytes, the header alone has %u; not made by host.py",
                      segment->object_size, SHM_HEADER_SIZE);
    return SHM_OK;
}

static void unmap(struct shm_segment *segment)
{
    if (segment->base == NULL)
        return;
    for (size_t i = 0; i < sizeof guarded / sizeof guarded[0]; i++)
        if (guarded[i].base == (uintptr_t)segment->base) {
            guarded[i].base = 0;
            guarded[i].size = 0;
        }
    munmap(segment->base, segment->size);
    segment->base = NULL;
}

/* Maps the header; once that is checked, the whole object. */
static enum shm_result map_object(struct shm_segment *segment)
{
    const size_t size = segment->header.total_size ? segment->header.total_size : SHM_HEADER_SIZE;

    unmap(segment);
    void *base =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, segment->fd, 0);
    if (base == MAP_FAILED)
        return say(segment, SHM_SYSTEM, "mmap of %zu bytes: %s", size, strerror(errno));
    segment->base = base;
    segment->size = size;
    segment->status = (void *)((char *)base + SHM_STATUS_AT);
    for (size_t i = 0; i < sizeof guarded / sizeof guarded[0]; i++) {
        size_t none = 0;
        if (atomic_compare_exchange_strong(&guarded[i].size, &none, size)) {
            guarded[i].base = (uintptr_t)base;
            break;
        }
    }
    return SHM_OK;
}

static bool is_text(const char *schema)
{
    size_t i = 0;

    while (i < SHM_SCHEMA_SIZE && schema[i] >= ' ' && schema[i] <= '~')
        i++;
    return i < SHM_SCHEMA_SIZE && schema[i] == '\0';
}

enum shm_result shm_segment_check(struct shm_segment *segment)
{
    struct shm_header *header = &segment->header;
    /* SYNC live (acquire): pairs with the host's fence before LIVE. Load state first: otherwise we
     * would refuse a host that goes LIVE when we have copied half a header. */
    const uint32_t state = atomic_load_explicit(&segment->status->state, memory_order_acquire);

    memcpy(header, segment->base, sizeof *header); /* copy once: it may change */
    const bool starting = state == SHM_STATE_STARTING;
    for (size_t i = 0; i < sizeof header->magic; i++)
        if (header->magic[i] != (uint8_t)SHM_MAGIC[i] && !(starting && header->magic[i] == 0))
            return REFUSE(segment, "not made by host.py (no %s at its begin); choose another name",
                          SHM_MAGIC);
    if (header->version == __builtin_bswap32(SHM_VERSION))
        return REFUSE(segment,
                      "made by a machine of the other byte order; run both on one machine");
    if (header->version != SHM_VERSION && !(starting && header->version == 0))
        return REFUSE(segment, "version %" PRIu32 ", this program reads %u; update the older side",
                      header->version, SHM_VERSION);
    if (starting)
        return say(segment, SHM_STARTING, "its host has not finished starting");

    const uint32_t slots = header->slot_count, stride = header->slot_stride;
    const uint32_t capacity = header->payload_capacity;
    const bool a_power = (slots & (slots - 1)) == 0;
    const struct {
        const char *field;
        bool good;
    } rules[] = {
        /* the error names the first broken one */
        {"state", state <= SHM_STATE_CLOSED},
        {"header_size", header->header_size == SHM_HEADER_SIZE},
        {"slot_count", slots >= SHM_SLOTS_MIN && slots <= SHM_SLOTS_MAX && a_power},
        {"slot_stride", stride >= SHM_BLOCK && stride % SHM_BLOCK == 0},
        {"payload_capacity", capacity >= 1 && capacity <= stride - SHM_SLOT_HEAD},
        {"total_size", header->total_size == SHM_HEADER_SIZE + 2ull * slots * stride},
        {"flags", (header->flags & ~SHM_FLAG_CRC) == 0},
        {"session", header->session != 0},
        {"host_pid", header->host_pid != 0 && header->host_pid <= INT32_MAX},
        {"zero", header->zero == 0},
        {"schema", is_text(header->schema)},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (!rules[i].good)
            return REFUSE(segment, "%s has an impossible value; restart host.py", rules[i].field);
    /* >=, never ==: macOS rounds an object up to whole pages. */
    if (segment->object_size < header->total_size)
        return REFUSE(segment, "truncated, %" PRIu64 " bytes of %" PRIu64 "; restart host.py",
                      segment->object_size, header->total_size);
    return SHM_OK;
}

static enum shm_result check_host(struct shm_segment *segment)
{
    return shm_segment_host(segment, shm_clock_now_ns());
}

static enum shm_result try_to_attach(struct shm_segment *segment, const char *name,
                                     const char *schema)
{
    static const struct {
        enum shm_result (*run)(struct shm_segment *);
        enum shm_step step;
    } steps[] = {{open_object, SHM_STEP_OPEN},        {open_roles, SHM_STEP_OPEN},
                 {stat_object, SHM_STEP_STAT},        {map_object, SHM_STEP_MAP},
                 {shm_segment_check, SHM_STEP_CHECK}, {map_object, SHM_STEP_MAP},
                 {check_host, SHM_STEP_CHECK}};
    enum shm_result result = SHM_OK;
    uint64_t begin_ns = shm_clock_now_ns();

    *segment = (struct shm_segment){.fd = -1,
                                    .roles = {.fd = -1, .file = -1},
                                    .idle = segment->idle,
                                    .context = segment->context};
    const char *wrong = shm_name_normalise(SHM_ON_MACOS, name, strlen(name), segment->name);
    if (wrong != NULL)
        return REFUSE(segment, "its name %s; choose another", wrong);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && result == SHM_OK; i++) {
        result = steps[i].run(segment);
        const uint64_t now_ns = shm_clock_now_ns();
        segment->step_ns[steps[i].step] += now_ns - begin_ns;
        begin_ns = now_ns;
    }
    if (result == SHM_OK && schema != NULL && strcmp(schema, segment->header.schema) != 0)
        return REFUSE(segment,
                      "its payloads are \"%s\", this program expects \"%.447s\"; change one",
                      segment->header.schema, schema);
    return result;
}

enum shm_result shm_segment_attach(struct shm_segment *segment, const char *name,
                                   const char *schema, uint64_t timeout_ns)
{
    const struct timespec nap = {.tv_nsec = TRY_NS};
    struct shm_patience waited = {0, shm_clock_now_ns()};
    enum shm_result result;

    while ((result = try_to_attach(segment, name, schema)) != SHM_OK) {
        shm_segment_detach(segment);
        if (result == SHM_REFUSED || result == SHM_SYSTEM ||
            shm_patience_spent(&waited, shm_clock_now_ns()) >= timeout_ns)
            return result;
        if (segment->idle != NULL &&
            !segment->idle(segment->context, result == SHM_STARTING ? result : SHM_ABSENT))
            return say(segment, SHM_STOPPED, "stopped while it waited for a host");
        nanosleep(&nap, NULL);
    }
    return SHM_OK;
}

/* ---- once attached ---- */

/* Asks the kernel, and only then loads state: the host may close, and leave, in between. */
static enum shm_result ask(struct shm_segment *segment)
{
    const bool held = shm_role_is_held(&segment->roles, SHM_ROLE_HOST);
    const uint32_t state = atomic_load_explicit(&segment->status->state, memory_order_acquire);
    struct stat found;

    if (state == SHM_STATE_CLOSED)
        return say(segment, SHM_ENDED, "its host has ended; start host.py again");
    if (state != SHM_STATE_LIVE ||
        (fstat(segment->fd, &found) == 0 && (uint64_t)found.st_size < segment->size))
        return REFUSE(segment, "truncated under this program; restart host.py");
    if (held)
        return SHM_OK;
    return say(segment, SHM_DIED, "its host (pid %" PRIu64 ") died; start host.py again",
               segment->header.host_pid);
}

enum shm_result shm_segment_host(struct shm_segment *segment, uint64_t now_ns)
{
    if (segment->host != SHM_OK && segment->host != SHM_STALLED)
        return segment->host; /* final: no later host uses this object */
    if (atomic_load(&segment->status->state) != SHM_STATE_LIVE ||
        now_ns - segment->asked_ns >= ASK_NS) {
        segment->asked_ns = now_ns;
        const enum shm_result answer = ask(segment);
        if (answer != SHM_OK)
            return segment->host = answer;
    }
    const uint64_t beat_ns = atomic_load(&segment->status->heartbeat_ns);
    if (beat_ns != segment->heartbeat_ns) {
        /* It moved since the last check: it is no older than that, or of another clock. */
        const bool near = now_ns - beat_ns + SHM_STALLED_NS <= 2 * SHM_STALLED_NS;
        segment->foreign_clock |= !near && now_ns - segment->still.looked_ns < SHM_STALLED_NS / 2;
        segment->heartbeat_ns = beat_ns;
        segment->still = (struct shm_patience){0, now_ns};
    }
    const bool stalled = shm_patience_spent(&segment->still, now_ns) >= SHM_STALLED_NS;
    if (stalled && segment->host != SHM_STALLED)
        say(segment, SHM_STALLED, "its host (pid %" PRIu64 ") is stalled; continue or restart it",
            segment->header.host_pid);
    return segment->host = stalled ? SHM_STALLED : SHM_OK;
}

/* Puts zeros in place of the lost pages of a truncated object: shm_segment_host then finds that
 * state is not LIVE, and checks the size. mmap is a plain system call, safe in a handler. A return
 * without new pages would only raise the signal again. */
static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
    const uintptr_t at = (uintptr_t)info->si_addr;

    (void)context;
    for (size_t i = 0; i < sizeof guarded / sizeof guarded[0]; i++) {
        const uintptr_t base = guarded[i].base;
        const size_t size = guarded[i].size;
        if (base != 0 && at - base < size &&
            mmap((void *)base, size, PROT_READ | PROT_WRITE,
                 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
            return;
    }
    signal(signal_number, SIG_DFL);
}

void shm_segment_guard(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

void shm_segment_detach(struct shm_segment *segment)
{
    if (segment->name[0] == '\0') /* never attached */
        return;
    unmap(segment);
    shm_roles_close(&segment->roles);
    if (segment->fd >= 0)
        close(segment->fd);
    segment->fd = -1;
}

const char *shm_result_text(enum shm_result result)
{
    static const char *const texts[] = {"done",
                                        "nothing new",
                                        "full: the consumer has not released the slot",
                                        "overwritten before it was read",
                                        "not settled yet",
                                        "no host: there is no such segment",
                                        "its host has not finished starting",
                                        "its host is stalled",
                                        "nothing came in time",
                                        "stopped",
                                        "its host has ended",
                                        "its host died",
                                        "another process holds the role",
                                        "dropped: the host took this consumer for stalled",
                                        "a message does not match its CRC-32",
                                        "the segment is damaged",
                                        "the segment was refused",
                                        "a system call failed"};
    const size_t index = (size_t) - (int)result;

    return index < sizeof texts / sizeof texts[0] ? texts[index] : "unknown result";
}
