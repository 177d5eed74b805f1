#define _GNU_SOURCE 1
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

#define FIRST_MAP 1048576u  /* bytes to map before the header is checked; often that is all */
#define PAGE      4096u     /* the smallest page of any machine */
#define TRY_NS    4000000u  /* between two tries to attach */
#define ASK_NS    10000000u /* between two queries of the host's lock */

/* The map that on_bus_error guards. */
static _Atomic uintptr_t guarded_base;
static _Atomic size_t guarded_size;

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
    const enum shm_result result = shm_roles_open(segment);

    if (result == SHM_REFUSED)
        return REFUSE(segment,
                      "its lock file in /tmp is another user's, or not a regular file; remove "
                      "it");
    if (result == SHM_OK)
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
    default: return say(segment, SHM_SYSTEM, "opening it: %s", strerror(errno));
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
    if (guarded_base == (uintptr_t)segment->base)
        guarded_size = 0;
    if (segment->base != NULL)
        munmap(segment->base, segment->size);
    segment->base = NULL;
}

/* Maps the object, or the start of a large one: its size may be a lie. Called again once the header
 * is checked, it maps what that describes, and reads a byte of each page, so that no page fault is
 * left for the timed loop. (Cheaper than MAP_POPULATE, and macOS has none.) */
static enum shm_result map_object(struct shm_segment *segment)
{
    const uint64_t total_size = segment->header.total_size, object_size = segment->object_size;
    const size_t size = total_size ? total_size : object_size < FIRST_MAP ? object_size : FIRST_MAP;

    if (segment->size < size) {
        unmap(segment);
        void *base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, segment->fd, 0);
        if (base == MAP_FAILED)
            return say(segment, SHM_SYSTEM, "mmap of %zu bytes: %s", size, strerror(errno));
        segment->base = base;
        segment->size = size;
        segment->status = (void *)((char *)base + SHM_STATUS_AT);
        guarded_size = 0; /* first: base and size never belong to two maps */
        guarded_base = (uintptr_t)base;
        guarded_size = size;
    }
    for (size_t at = 0; at < total_size; at += PAGE)
        (void)((volatile unsigned char *)segment->base)[at];
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
            return REFUSE(segment, "not made by host.py (no %s at its start); choose another name",
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
    const bool slots_fit = slots >= SHM_SLOTS_MIN && slots <= SHM_SLOTS_MAX;
    const uint64_t total_size = SHM_HEADER_SIZE + 2ull * slots * stride;
    const char *bad = state > SHM_STATE_CLOSED                            ? "state"
                      : header->header_size != SHM_HEADER_SIZE            ? "header_size"
                      : !slots_fit || (slots & (slots - 1)) != 0          ? "slot_count"
                      : stride < SHM_BLOCK || stride % SHM_BLOCK != 0     ? "slot_stride"
                      : capacity < 1 || capacity > stride - SHM_SLOT_HEAD ? "payload_capacity"
                      : header->total_size != total_size                  ? "total_size"
                      : (header->flags & ~SHM_FLAG_CRC) != 0              ? "flags"
                      : header->session == 0                              ? "session"
                      : header->host_pid - 1 >= INT32_MAX                 ? "host_pid"
                      : header->zero != 0                                 ? "zero"
                      : !is_text(header->schema)                          ? "schema"
                                                                          : NULL;
    if (bad != NULL)
        return REFUSE(segment, "%s has an impossible value; restart host.py", bad);
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
    } steps[] = {{open_object, SHM_STEP_OPEN}, {stat_object, SHM_STEP_STAT},
                 {map_object, SHM_STEP_MAP},   {shm_segment_check, SHM_STEP_CHECK},
                 {map_object, SHM_STEP_MAP},   {check_host, SHM_STEP_CHECK}};
    enum shm_result result = SHM_OK;
    uint64_t begin_ns = shm_clock_now_ns();

    *segment = (struct shm_segment){
        .fd = -1, .lock_fd = -1, .idle = segment->idle, .context = segment->context};
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
    const bool held = shm_role_is_held(segment, SHM_ROLE_HOST);
    const uint32_t state = atomic_load_explicit(&segment->status->state, memory_order_acquire);
    struct stat found;

    if (state == SHM_STATE_CLOSED)
        return say(segment, SHM_ENDED, "its host has ended; start host.py again");
    if (state != SHM_STATE_LIVE ||
        (fstat(segment->fd, &found) == 0 && (uint64_t)found.st_size < segment->header.total_size))
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
        /* The heartbeat is newer than the last check, or it is of another clock. */
        const bool near = now_ns - beat_ns + SHM_STALLED_NS <= 2 * SHM_STALLED_NS;
        segment->foreign_clock |= !near && now_ns - segment->still.checked_ns < SHM_STALLED_NS / 2;
        segment->heartbeat_ns = beat_ns;
        segment->still = (struct shm_patience){0, now_ns};
    }
    const bool stalled = shm_patience_spent(&segment->still, now_ns) >= SHM_STALLED_NS;
    if (stalled && segment->host != SHM_STALLED)
        say(segment, SHM_STALLED, "its host (pid %" PRIu64 ") is stalled; continue or restart it",
            segment->header.host_pid);
    if (!stalled)
        segment->why[0] = '\0';
    return segment->host = stalled ? SHM_STALLED : SHM_OK;
}

/* Puts zeros in place of the lost pages of a truncated object: shm_segment_host then finds that
 * state is not LIVE, and checks the size. mmap is a plain system call, safe in a handler. A return
 * without new pages would only raise the signal again. */
static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
    const uintptr_t base = guarded_base, at = (uintptr_t)info->si_addr;
    const size_t size = guarded_size;

    (void)context;
    if (at - base >= size || mmap((void *)base, size, PROT_READ | PROT_WRITE,
                                  MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
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
    shm_roles_close(segment);
}

const char *shm_result_text(enum shm_result result)
{
    switch (result) {
#define CASE(name, value, text)                                                                    \
    case name: return text;
        SHM_RESULTS(CASE)
    }
    return "unknown result";
}
