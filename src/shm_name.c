#include "shm_name.h"

#include <string.h>

static enum shm_name_result check(enum shm_os os, const char *bare, size_t length, int had_slash)
{
    const size_t limit = os == SHM_OS_MACOS ? SHM_NAME_MAX_MACOS : SHM_NAME_MAX_LINUX;

    if (length == 0)
        return had_slash ? SHM_NAME_ONLY_SLASH : SHM_NAME_EMPTY;
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)bare[i];
        if (c < 0x20 || c == 0x7f)
            return SHM_NAME_CONTROL;
        if (c == '/')
            return SHM_NAME_SLASH_INSIDE;
    }
    if (bare[0] == '.' && (length == 1 || (length == 2 && bare[1] == '.')))
        return SHM_NAME_DOTS;
    return length + 1 > limit ? SHM_NAME_TOO_LONG : SHM_NAME_OK;
}

enum shm_name_result shm_name_normalise(enum shm_os os, const char *in, size_t length,
                                        char out[SHM_NAME_SIZE])
{
    const size_t slash = length > 0 && in[0] == '/';
    const enum shm_name_result result = check(os, in + slash, length - slash, slash != 0);

    out[0] = '\0';
    if (result == SHM_NAME_OK) {
        out[0] = '/';
        memcpy(out + 1, in + slash, length - slash);
        out[1 + length - slash] = '\0';
    }
    return result;
}

const char *shm_name_error(enum shm_name_result result)
{
    switch (result) {
    case SHM_NAME_OK: return "is a good name";
    case SHM_NAME_EMPTY: return "is empty";
    case SHM_NAME_ONLY_SLASH: return "is only a slash";
    case SHM_NAME_SLASH_INSIDE: return "has a slash inside";
    case SHM_NAME_DOTS: return "is a folder, not a name";
    case SHM_NAME_CONTROL: return "has a NUL or control character";
    case SHM_NAME_TOO_LONG:
        return "is too long (Linux: 255 bytes after the slash, macOS: 31 with it)";
    }
    return "is bad";
}
