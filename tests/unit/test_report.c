/* src/cliente/report.c: what stays on a terminal fits into 80 columns, however long the run was. */
#include "client.h"

#include "unit.h"

/* @return the length of the longest line */
static size_t longest_line(const char *text)
{
    size_t longest = 0;

    for (size_t length; *text != '\0'; text += length + (text[length] == '\n')) {
        length = strcspn(text, "\n");
        longest = length > longest ? length : longest;
    }
    return longest;
}

/* A run of half a year, at a million messages a second, in which everything happened. */
static struct client long_run(void)
{
    const uint64_t many = UINT64_C(15000000000000), end_ns = UINT64_C(15000000) * 1000000000u;
    static struct client c;

    c.options = (struct options){.wait_name = "adaptive", .newest = true};
    c.down.lost = c.down.skipped = many;
    c.figures.messages = 3 * many;
    c.figures.last_seen_ns = c.figures.end_ns = end_ns;
    c.waiter.found_spinning = c.waiter.found_sleeping = many;
    for (uint64_t ns = 1; ns <= end_ns; ns *= 10) {
        histogram_record(&c.figures.seen, ns);
        histogram_record(&c.figures.due, ns);
    }
    memset(c.first, 'x', sizeof c.first - 1);
    c.first[5] = ' ';
    return c;
}

int main(void)
{
    struct client c = long_run();
    char *text = NULL;
    size_t size = 0;

    unit_begin();
    for (int foreign = 0; foreign < 2; foreign++) {
        c.text = open_memstream(&text, &size);
        c.next_live_ns = UINT64_MAX;
        c.figures.foreign_clock = foreign;
        report_text(&c);
        fclose(c.text);
        CHECK(longest_line(text) <= 79 && strstr(text, "45000000000000 in 15000000.00 s") != NULL);
        CHECK(strstr(text, "skipped        15000000000000\n") != NULL);
        CHECK((strstr(text, "p99.9") != NULL) == !foreign);
        if (longest_line(text) > 79)
            fputs(text, stderr);
        free(text);
    }
    return unit_end();
}
