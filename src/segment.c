#define _GNU_SOURCE
#include "segment.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "latency.h"
#include "shm_sample.h"

#ifdef __APPLE__
#define OPEN_FLAGS 0 /* shm_open takes no others there, and closes on exec by itself */
#else
#define OPEN_FLAGS (O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK)
#endif
#ifndef MAP_POPULATE /* Linux: map the pages now, not one fault at a time in the timed loop */
#define MAP_POPULATE 0
#endif

const char *const segment_host_names[] = {"live", "", "", "closed", "stalled", "died", "died"};

static void *volatile guarded_base;
static volatile size_t guarded_size;
static volatile sig_atomic_t guarded_lost;

#define REFUSE(segment, ...) say(segment, SEGMENT_REFUSED, "refused: " __VA_ARGS__)

__attribute__((format(printf, 3, 4))) static enum segment_result
say(struct segment *segment, enum segment_result result, const char *format, ...)
{
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(segment->why, sizeof segment->why, format, arguments);
    va_end(arguments);
    return result;
}

bool process_is_gone(uint64_t pid)
{
    char path[40], status[512];

    if (pid > INT32_MAX || (kill((pid_t)pid, 0) != 0 && errno == ESRCH))
        return true;
    snprintf(path, sizeof path, "/proc/%" PRIu64 "/stat", pid);
    FILE *file = fopen(path, "r"); /* Linux; elsewhere a zombie counts as alive */
    if (file == NULL)
        return false;
    const size_t length = fread(status, 1, sizeof status - 1, file);
    fclose(file);
    status[length] = '\0';
    /* The name in parentheses may hold anything; the state follows. */
    const char *after_name = strrchr(status, ')');
    return after_name != NULL && strncmp(after_name, ") Z", 3) == 0;
}

/* ---- attach: its steps ---- */

static void unmap(struct segment *segment)
{
    guarded_base = NULL;
    if (segment->base != NULL)
        munmap(segment->base, segment->size);
    segment->base = NULL;
}

static enum segment_result open_object(struct segment *segment)
{
    segment->fd = shm_open(segment->name, O_RDWR | OPEN_FLAGS, 0);
    if (segment->fd >= 0)
        return SEGMENT_OK;
    switch (errno) {
    case ENOENT:
        return say(segment, SEGMENT_ABSENT,
                   "no host: there is no such segment; start host.py first (in a container: both "
                   "in one, or with --ipc=host --pid=host)");
    case EACCES:
    case EPERM: return REFUSE(segment, "it belongs to another user; run both as one user");
    case EISDIR:
    case EINVAL: /* glibc, for a folder */
    case ELOOP:
    case ENXIO: return REFUSE(segment, "a link, folder or socket has this name; choose another");
    default: return say(segment, SEGMENT_ERROR, "shm_open: %s", strerror(errno));
    }
}

static enum segment_result stat_object(struct segment *segment)
{
    struct stat found;

    if (fstat(segment->fd, &found) != 0)
        return say(segment, SEGMENT_ERROR, "fstat: %s", strerror(errno));
    segment->object_size = (uint64_t)found.st_size;
    if (!S_ISREG(found.st_mode) && (found.st_mode & S_IFMT) != 0) /* macOS: reports no type */
        return REFUSE(segment, "not a regular shared memory object; choose another name");
    if (found.st_uid != geteuid() && found.st_uid != 0)
        return REFUSE(segment, "it belongs to user %lu, not to you or root; run both as one user",
                      (unsigned long)found.st_uid);
    if (segment->object_size == 0)
        return say(segment, SEGMENT_STARTING, "its host has not finished starting (size 0)");
    if (segment->object_size < SHM_HEADER_SIZE)
        return REFUSE(segment, "%" PRIu64 " bytes, the header alone has %u; not made by host.py",
                      segment->object_size, SHM_HEADER_SIZE);
    return SEGMENT_OK;
}

/* The header at first; once that is checked, all of it. */
static enum segment_result map_object(struct segment *segment)
{
    const size_t size = segment->header.total_size ? segment->header.total_size : SHM_HEADER_SIZE;

    unmap(segment);
    void *base =
        mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, segment->fd, 0);
    if (base == MAP_FAILED)
        return say(segment, SEGMENT_ERROR, "mmap of %zu bytes: %s", size, strerror(errno));
    segment->base = base;
    segment->size = size;
    segment->status = (void *)((char *)segment->base + SHM_STATUS_AT);
    guarded_lost = 0;
    guarded_size = size;
    guarded_base = segment->base;
    return SEGMENT_OK;
}

enum segment_result segment_check(struct segment *segment)
{
    struct shm_header *header = &segment->header;
    static const uint8_t none[8];

    memcpy(header, segment->base, sizeof *header); /* once: it may change under us */
    const uint32_t state = atomic_load_explicit(&segment->status->state, memory_order_acquire);
    const bool blank = state == SHM_STARTING && memcmp(header->magic, none, sizeof none) == 0;
    if (!blank && memcmp(header->magic, SHM_MAGIC, sizeof header->magic) != 0)
        return REFUSE(segment, "not made by host.py (no %s at its begin); choose another name",
                      SHM_MAGIC);
    if (state == SHM_STARTING)
        return say(segment, SEGMENT_STARTING, "its host has not finished starting");
    if (header->version == __builtin_bswap32(SHM_VERSION))
        return REFUSE(segment,
                      "made by a machine of the other byte order; run both on one machine");
    if (header->version != SHM_VERSION)
        return REFUSE(segment, "version %" PRIu32 ", this client reads %u; update the older side",
                      header->version, SHM_VERSION);

    const uint32_t slots = header->slot_count, stride = header->slot_stride;
    const uint32_t capacity = header->payload_capacity, kind = header->payload_kind;
    const bool a_power = (slots & (slots - 1)) == 0;
    const bool fits = kind == SHM_RAW || capacity >= sizeof(struct shm_sample);
    const struct {
        const char *field;
        bool good;
    } rules[] = {
        /* the first that is broken is the one to name */
        {"header_size", header->header_size == SHM_HEADER_SIZE},
        {"slot_count", slots >= SHM_SLOTS_MIN && slots <= SHM_SLOTS_MAX && a_power},
        {"slot_stride", stride >= SHM_BLOCK && stride % SHM_BLOCK == 0},
        {"payload_capacity", capacity >= 1 && capacity <= stride - SHM_SLOT_HEAD},
        {"total_size", header->total_size == SHM_HEADER_SIZE + 2ull * slots * stride},
        {"flags", (header->flags & ~(SHM_FLAG_CRC | SHM_FLAG_BARRIER)) == 0},
        {"session", header->session != 0},
        {"host_pid", header->host_pid != 0 && header->host_pid <= INT32_MAX},
        {"payload_kind", kind <= SHM_SAMPLE && fits},
        {"state", state <= SHM_CLOSED},
    };
    for (size_t i = 0; i < sizeof rules / sizeof rules[0]; i++)
        if (!rules[i].good)
            return REFUSE(segment, "%s has an impossible value; restart host.py", rules[i].field);
    /* >=, never ==: macOS rounds an object up to whole pages. */
    if (segment->object_size < header->total_size)
        return REFUSE(segment, "truncated, %" PRIu64 " bytes of %" PRIu64 "; restart host.py",
                      segment->object_size, header->total_size);
    return SEGMENT_OK;
}

static bool is_near(uint64_t beat_ns, uint64_t now_ns)
{
    return now_ns - beat_ns + SHM_SILENCE_NS <= 2 * SHM_SILENCE_NS;
}

/* Is there a host behind it? A heartbeat that is not of the last second is watched for three beats:
 * if it moves, the host lives by another clock. */
static enum segment_result check_alive(struct segment *segment)
{
    const struct timespec step = {.tv_nsec = 2000000};
    uint64_t now_ns = clock_now_ns();
    const uint64_t end_ns = now_ns + 3 * SHM_HEARTBEAT_NS;
    enum segment_result result;

    segment->heartbeat_ns =
        atomic_load_explicit(&segment->status->heartbeat_ns, memory_order_relaxed);
    segment->looked_ns = now_ns;
    segment->moved_ns = is_near(segment->heartbeat_ns, now_ns) ? now_ns : now_ns - SHM_SILENCE_NS;
    while ((result = segment_host(segment, now_ns)) != SEGMENT_OK && result != SEGMENT_CLOSED &&
           now_ns < end_ns) {
        nanosleep(&step, NULL);
        now_ns = clock_now_ns();
    }
    return result;
}

enum segment_result segment_attach(struct segment *segment, const char *name)
{
    static const struct {
        enum segment_result (*run)(struct segment *);
        enum segment_step step;
    } steps[] = {{open_object, STEP_OPEN},    {stat_object, STEP_STAT}, {map_object, STEP_MAP},
                 {segment_check, STEP_CHECK}, {map_object, STEP_MAP},   {check_alive, STEP_CHECK}};
    enum segment_result result = SEGMENT_OK;
    uint64_t begin_ns = clock_now_ns();

    *segment = (struct segment){.fd = -1};
    memcpy(segment->name, name, strlen(name) + 1);
    for (size_t i = 0; i < sizeof steps / sizeof steps[0] && result == SEGMENT_OK; i++) {
        result = steps[i].run(segment);
        const uint64_t now_ns = clock_now_ns();
        segment->step_ns[steps[i].step] += now_ns - begin_ns;
        begin_ns = now_ns;
    }
    if (result != SEGMENT_OK)
        segment_detach(segment);
    return result;
}

/* ---- once attached ---- */

enum segment_result segment_host(struct segment *segment, uint64_t now_ns)
{
    if (guarded_lost)
        return REFUSE(segment, "truncated under this client; restart host.py");
    if (atomic_load_explicit(&segment->status->state, memory_order_acquire) == SHM_CLOSED)
        return say(segment, SEGMENT_CLOSED, "its host has just ended; start host.py again");
    const uint64_t beat_ns =
        atomic_load_explicit(&segment->status->heartbeat_ns, memory_order_relaxed);
    const uint64_t since_look_ns = now_ns - segment->looked_ns;
    segment->looked_ns = now_ns;
    if (beat_ns != segment->heartbeat_ns) {
        /* It moved since the last look: no older than that, or by another clock. */
        segment->foreign_clock |= since_look_ns < SHM_SILENCE_NS / 2 && !is_near(beat_ns, now_ns);
        segment->heartbeat_ns = beat_ns;
        segment->moved_ns = now_ns;
    }
    if (now_ns - segment->moved_ns < SHM_SILENCE_NS)
        return SEGMENT_OK;
    struct stat found; /* cut off behind the pages that are looked at while nothing comes? */
    if (fstat(segment->fd, &found) == 0 && (uint64_t)found.st_size < segment->size)
        return REFUSE(segment, "truncated under this client; restart host.py");
    const bool gone = process_is_gone(segment->header.host_pid);
    return say(segment, gone ? SEGMENT_DIED : SEGMENT_STALLED, "its host (pid %" PRIu64 ") %s",
               segment->header.host_pid,
               gone ? "died and left it behind; start host.py again, it replaces it"
                    : "is stalled: silent for over a second; continue or restart it");
}

/* A truncated segment: put zeros where its pages were and set a flag. mmap is a bare system call,
 * safe in a handler; to return without new pages would only raise the signal again. */
static void on_bus_error(int signal_number, siginfo_t *info, void *context)
{
    const char *base = guarded_base, *at = info->si_addr;

    (void)context;
    if (base != NULL && at >= base && at < base + guarded_size &&
        mmap(guarded_base, guarded_size, PROT_READ | PROT_WRITE,
             MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) != MAP_FAILED)
        guarded_lost = 1;
    else
        signal(signal_number, SIG_DFL);
}

void segment_guard(void)
{
    struct sigaction action = {.sa_sigaction = on_bus_error, .sa_flags = SA_SIGINFO};

    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, NULL);
}

void segment_detach(struct segment *segment)
{
    unmap(segment);
    if (segment->fd >= 0)
        close(segment->fd);
    segment->fd = -1;
}
