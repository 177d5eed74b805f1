#include "shm_name.h"

#include <string.h>

enum shm_name_result shm_name_normalise(enum shm_os os, const char *in, size_t length,
                                        char out[SHM_NAME_SIZE])
{
    const size_t limit = os == SHM_OS_MACOS ? SHM_NAME_MAX_MACOS : SHM_NAME_MAX_LINUX;
    const size_t slash = length > 0 && in[0] == '/';
    const char *bare = in + slash;

    out[0] = '\0';
    length -= slash;
    if (length == 0)
        return slash ? SHM_NAME_ONLY_SLASH : SHM_NAME_EMPTY;
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)bare[i];
        if (c < 0x20 || c == 0x7f)
            return SHM_NAME_CONTROL;
        if (c == '/')
            return SHM_NAME_SLASH_INSIDE;
    }
    if (bare[0] == '.' && (length == 1 || (length == 2 && bare[1] == '.')))
        return SHM_NAME_DOTS;
    if (length + 1 > limit)
        return SHM_NAME_TOO_LONG;
    out[0] = '/';
    memcpy(out + 1, bare, length);
    out[1 + length] = '\0';
    return SHM_NAME_OK;
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
