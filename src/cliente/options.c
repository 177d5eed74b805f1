#define _GNU_SOURCE
#include "client.h"

#include <getopt.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#define VERSION "2.0.0"

const char *const wait_mode_names[] = {"adaptive", "spin", "block", NULL};

static const char usage_text[] =
    "usage: cliente_c [options] [NAME]                                (/shmprueba)\n"
    "\n"
    "  -n, --count N        stop after N messages; 0: never   (5000; 0 with -o, -s)\n"
    "  -t, --timeout S      longest wait for a host, or the next message      (5)\n"
    "  -w, --wait MODE      adaptive | spin | block                    (adaptive)\n"
    "  -l, --lossless       the host waits for this client; one such client a host\n"
    "  -N, --newest         only the newest message each time; skip the others\n"
    "  -r, --reconnect      after the host has ended, wait for the next and go on\n"
    "  -e, --echo           send each message back on the up lane; lossless\n"
    "  -o, --output FILE    write the payloads to FILE ('-': standard output)\n"
    "  -s, --source FILE    publish FILE ('-': standard input) on the up lane\n"
    "  -f, --format F       of --output: raw | ndjson                       (raw)\n"
    "  -v, --verify         check every byte against the known pattern\n"
    "      --layout         print the segment's layout, and exit\n"
    "  -j, --json           one JSON object on standard output at the end\n"
    "  -q, --quiet    -h, --help    --version\n"
    "\n"
    "exit: 0 done, 1 system error, 2 usage, 3 no host, 4 host died, 5 refused,\n"
    "      6 data lost or damaged where the run promised otherwise\n";

enum { LAYOUT = 'z' + 1, VERSION_ASKED, END };
static const struct option longs[] = {
    {"count", required_argument, NULL, 'n'},
    {"timeout", required_argument, NULL, 't'},
    {"wait", required_argument, NULL, 'w'},
    {"lossless", no_argument, NULL, 'l'},
    {"newest", no_argument, NULL, 'N'},
    {"reconnect", no_argument, NULL, 'r'},
    {"echo", no_argument, NULL, 'e'},
    {"output", required_argument, NULL, 'o'},
    {"source", required_argument, NULL, 's'},
    {"format", required_argument, NULL, 'f'},
    {"verify", no_argument, NULL, 'v'},
    {"layout", no_argument, NULL, LAYOUT},
    {"json", no_argument, NULL, 'j'},
    {"quiet", no_argument, NULL, 'q'},
    {"help", no_argument, NULL, 'h'},
    {"version", no_argument, NULL, VERSION_ASKED},
    {NULL, 0, NULL, 0},
};
static const char shorts[] = ":n:t:w:lNreo:s:f:vjqh";

__attribute__((format(printf, 1, 2), noreturn)) static void usage_error(const char *format, ...)
{
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    for (char *c = text; *c != '\0'; c++) /* one line, whatever was typed */
        if ((unsigned char)*c < ' ')
            *c = '?';
    fprintf(stderr, "cliente_c: %s; see cliente_c --help\n", text);
    exit(EXIT_USAGE);
}

/* digits: the characters allowed; strtod alone would accept 0x5, nan, or a leading blank. Whole
 * numbers up to 2^53 are exact. */
static double parse_number(const char *option, const char *text, const char *digits, double most)
{
    char *end;
    const double value = strtod(text, &end);

    if (text[strspn(text, digits)] || end == text || *end || !(value >= 0 && value <= most))
        usage_error("%s %s: not a %snumber from 0 to %.0f", option, text,
                    strchr(digits, '.') ? "" : "whole ", most);
    return value;
}

/* @return its index in names */
static unsigned parse_choice(const char *option, const char *given, const char *const *names)
{
    char buffer[128] = "";
    struct text list = {.buffer = buffer, .room = sizeof buffer};

    for (unsigned i = 0; names[i] != NULL; i++) {
        if (strcmp(given, names[i]) == 0)
            return i;
        text_add(&list, " %s", names[i]);
    }
    usage_error("%s %s: no such choice; there are:%s", option, given, buffer);
}

static void parse_name(const char *name, struct options *o)
{
    const char *wrong = shm_name_normalise(SHM_ON_MACOS, name, strlen(name), o->name);

    if (wrong != NULL)
        usage_error("segment name '%.255s' %s", name, wrong);
    if (strlen(o->name) > SHM_NAME_MAX_MACOS && !o->quiet)
        fprintf(stderr,
                "cliente_c: %s: this name is too long for macOS (%u bytes with the slash)\n",
                o->name, SHM_NAME_MAX_MACOS);
}

__attribute__((noreturn)) static void print_and_exit(int option)
{
    if (option == 'h')
        fputs(usage_text, stdout);
    else if (option == VERSION_ASKED)
        printf("cliente_c %s (segment version %u)\n", VERSION, SHM_VERSION);
    else
        report_layout();
    if (fflush(stdout) == 0 && !ferror(stdout))
        exit(EXIT_DONE);
    perror("cliente_c: standard output");
    exit(EXIT_SYSTEM);
}

static void refuse_contradictions(const struct options *o, bool lossless, bool format)
{
    if (o->source && (o->output || o->echo || o->verify || lossless || o->newest || o->reconnect))
        usage_error("--source: sends, goes with none of -o, -e, -v, -l, -N, -r");
    if (o->newest && o->lossless)
        usage_error("--newest: skips messages, goes with neither --lossless nor --echo");
    if (o->reconnect && o->echo)
        usage_error("--reconnect: does not go with --echo");
    if (format && !o->output)
        usage_error("--format: tells how --output writes; give --output FILE, or '-'");
    if (o->json && o->output && strcmp(o->path, "-") == 0)
        usage_error("--json: standard output is taken by --output -");
}

struct options options_parse(int argc, char **argv)
{
    static const char *const formats[] = {"raw", "ndjson", NULL};
    const char *given[END] = {['t'] = "5", ['w'] = "adaptive"}; /* by option: its value, or "" */
    int option;

    opterr = 0; /* one line of ours, not getopt's */
    while ((option = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (option == '?' && optopt > 0 && optopt <= 'z' && strchr(shorts, optopt) == NULL)
            usage_error("-%c: unknown option", optopt);
        if (option == '?' || option == ':')
            usage_error("%s: unknown option, or its value is missing, or it takes none",
                        argv[optind - 1]);
        if (option == 'h' || option == VERSION_ASKED || option == LAYOUT)
            print_and_exit(option);
        given[option] = optarg != NULL ? optarg : "";
    }
    if (given['n'] == NULL)
        given['n'] = given['o'] || given['s'] ? "0" : "5000";
    struct options o = {
        .count = (uint64_t)parse_number("--count", given['n'], "0123456789", 1e15),
        .timeout_ns =
            (uint64_t)(1e9 * parse_number("--timeout", given['t'], "0123456789.e+-", 1e6)),
        .wait = (enum shm_wait_mode)parse_choice("--wait", given['w'], wait_mode_names),
        .lossless = given['l'] || given['e'],
        .newest = given['N'],
        .reconnect = given['r'],
        .echo = given['e'],
        .verify = given['v'],
        .json = given['j'],
        .quiet = given['q'],
        .ndjson = parse_choice("--format", given['f'] ? given['f'] : "raw", formats),
        .output = given['o'],
        .source = given['s'],
        .path = given['o'] ? given['o'] : given['s'],
    };
    if (optind + 1 < argc)
        usage_error("%s: one NAME is enough", argv[optind + 1]);
    refuse_contradictions(&o, given['l'], given['f']);
    parse_name(optind < argc ? argv[optind] : SHM_DEFAULT_NAME, &o);
    return o;
}
