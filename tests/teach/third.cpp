// third NAME COUNT  reads the newest message of a segment COUNT times: plain C++17 and a file map,
// written from what `cliente_c --layout` prints, which comes on standard input. Nothing of this
// project is included. A message of the demo can be checked: it begins with its number n, and byte
// i after the sample is (n + i) % 251. In the middle of every 1,000th copy this reader naps, so
// that some are torn for certain. It prints how many were accepted, different, refused, torn among
// those, and accepted but torn.
#include <atomic>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <iostream>
#include <map>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <sys/stat.h>
#include <thread>
#include <unistd.h>
#include <vector>

static_assert(std::atomic<std::uint64_t>::is_always_lock_free);

static const std::atomic<std::uint64_t> &word(const unsigned char *at)
{
    return *reinterpret_cast<const std::atomic<std::uint64_t> *>(at);
}

static std::uint32_t number(const unsigned char *at)
{
    return reinterpret_cast<const std::atomic<std::uint32_t> *>(at)->load(
        std::memory_order_relaxed);
}

int main(int argc, char **argv)
{
    std::map<std::string, std::size_t> at;
    for (std::string line; std::getline(std::cin, line) && !line.empty();) {
        std::string block, field;
        std::size_t offset;
        if (std::istringstream(line) >> block >> field >> offset)
            at[block + "." + field] = offset;
    }
    const std::string path = std::string("/dev/shm/") + (argc == 3 ? argv[1] : "");
    const int fd = open(path.c_str(), O_RDONLY);
    struct stat found;
    if (argc != 3 || fd < 0 || fstat(fd, &found) != 0)
        return 2;
    void *map = mmap(nullptr, found.st_size, PROT_READ, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return 1;
    const auto *segment = static_cast<const unsigned char *>(map);
    const std::uint32_t slots = number(segment + at.at("shm_header.slot_count"));
    const std::uint32_t stride = number(segment + at.at("shm_header.slot_stride"));
    const std::uint32_t capacity = number(segment + at.at("shm_header.payload_capacity"));
    const auto &head = word(segment + at.at("segment.lane_down") + at.at("shm_lane_block.head"));

    std::vector<unsigned char> copy(capacity), pattern(capacity + 251);
    for (std::size_t i = 0; i < pattern.size(); i++)
        pattern[i] = i % 251;
    const std::uint64_t count = std::strtoull(argv[2], nullptr, 10);
    std::uint64_t tries = 0, accepted = 0, different = 0, refused = 0, torn = 0, wrong = 0,
                  last = 0;
    while (accepted < count) {
        const std::uint64_t n = head.load(std::memory_order_acquire);
        tries++;
        const unsigned char *slot = segment + at["segment.slots"] + n % slots * stride;
        const auto &seq = word(slot + at["shm_slot.seq"]);
        if (seq.load(std::memory_order_acquire) != 2 * n) { // it is already being overwritten
            refused++;
            continue;
        }
        const unsigned char *payload = slot + at["shm_slot.payload"];
        const std::size_t said = number(slot + at["shm_slot.length"]);
        const std::size_t length = said < capacity ? said : capacity, half = length / 2;
        std::memcpy(copy.data(), payload, half);
        if (tries % 1000 == 0)
            std::this_thread::sleep_for(std::chrono::milliseconds(1));
        std::memcpy(copy.data() + half, payload + half, length - half);
        std::atomic_thread_fence(std::memory_order_acquire);
        const bool accept = seq.load(std::memory_order_relaxed) == 2 * n; // not overwritten since
        std::uint64_t begins_with;
        std::memcpy(&begins_with, copy.data(), sizeof begins_with);
        const bool whole =
            length >= 64 && begins_with == n && // the length may be torn, too
            std::memcmp(copy.data() + 64, pattern.data() + n % 251 + 64, length - 64) == 0;
        accepted += accept;
        refused += !accept;
        torn += !accept && !whole;
        wrong += accept && !whole;
        different += accept && n != last;
        last = accept ? n : last;
    }
    std::cout << accepted << " " << different << " " << refused << " " << torn << " " << wrong
              << "\n";
}
