#include "shm_segment.h"

#include <string.h>

const char *shm_name_normalise(bool macos, const char *in, size_t length, char out[SHM_NAME_SIZE])
{
    const size_t slash = length > 0 && in[0] == '/';
    const char *bare = in + slash;

    out[0] = '\0';
    length -= slash;
    if (length == 0)
        return slash ? "is only a slash" : "is empty";
    if (bare[0] == '.' && (length == 1 || (length == 2 && bare[1] == '.')))
        return "is a folder, not a name";
    for (size_t i = 0; i < length; i++) {
        const unsigned char c = (unsigned char)bare[i];
        if (c == '/')
            return "has a slash inside";
        if (c == ':') /* Python's resource tracker takes it for the end of the name */
            return "has a colon";
        if (c < ' ' || c > '~')
            return "has a character other than printable ASCII";
    }
    if (length + 1 > (macos ? SHM_NAME_MAX_MACOS : SHM_NAME_MAX_LINUX))
        return "is too long (Linux: 255 bytes after the slash, macOS: 31 with it)";
    out[0] = '/';
    memcpy(out + 1, bare, length);
    out[1 + length] = '\0';
    return NULL;
}
