#include "client.h"

#include <getopt.h>

static const char usage_text[] =
    "usage: cliente_c [options] [NAME]                                (/shmprueba)\n\n"
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
    "  -q, --quiet    -h, --help    --version\n\n"
    "exit: 0 done, 1 system error, 2 usage, 3 no host, 4 host died, 5 refused,\n"
    "      6 data lost or damaged where the run promised otherwise\n";

enum { LAYOUT = 1, VERSION_ASKED }; /* they have no letter */
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

#define refuse(c, ...) client_say(c, EXIT_USAGE, __VA_ARGS__)

/* digits: the characters allowed; strtod alone would accept 0x5, nan, or a leading blank. Whole
 * numbers up to 2^53 are exact. */
static double parse_number(struct client *c, const char *option, const char *text,
                           const char *digits, double most)
{
    char *end;
    const double value = strtod(text, &end);

    if (text[strspn(text, digits)] == '\0' && end > text && *end == '\0' && value >= 0 &&
        value <= most)
        return value;
    refuse(c, "%s %s: not a %snumber from 0 to %.0f", option, text,
           strchr(digits, '.') ? "" : "whole ", most);
    return 0;
}

/* @return which of the choices, words between blanks, it is */
static unsigned parse_choice(struct client *c, const char *option, const char *given,
                             const char *choices)
{
    unsigned index = 0;

    for (const char *at = choices; *at != '\0'; index++) {
        const size_t length = strcspn(at, " ");
        if (strlen(given) == length && strncmp(at, given, length) == 0)
            return index;
        at += length + (at[length] == ' ');
    }
    refuse(c, "%s %s: no such choice; there are: %s", option, given, choices);
    return 0;
}

static void parse_name(struct client *c, const char *name)
{
    char *out = c->options.name;
    const char *wrong = shm_name_normalise(SHM_ON_MACOS, name, strlen(name), out);

    if (wrong != NULL)
        refuse(c, "segment name '%.255s' %s", name, wrong);
    if (strlen(out) > SHM_NAME_MAX_MACOS && !c->options.quiet)
        client_say(c, EXIT_DONE, "this name is too long for macOS (%u bytes with the slash)",
                   SHM_NAME_MAX_MACOS);
}

bool options_parse(struct client *c, int argc, char **argv)
{
    const char *given[128] = {['t'] = "5", ['w'] = "adaptive"}; /* by option: its value, or "" */
    struct options *o = &c->options;
    int option;

    opterr = 0; /* one line of ours, not getopt's */
    while ((option = getopt_long(argc, argv, shorts, longs, NULL)) != -1) {
        if (option == '?' && optopt != 0 && strchr(shorts, optopt) == NULL)
            refuse(c, "-%c: unknown option", optopt < ' ' ? '?' : optopt); /* a byte of UTF-8 */
        else if (option == '?' || option == ':')
            refuse(c, "%s: unknown, or its value is missing, or it takes none", argv[optind - 1]);
        given[option] = optarg != NULL ? optarg : "";
    }
    if (given['h'])
        fputs(usage_text, stdout);
    if (given[VERSION_ASKED])
        printf("cliente_c 2.0.0 (segment version %u)\n", SHM_VERSION);
    if (given[LAYOUT])
        report_layout();
    if (given['h'] || given[VERSION_ASKED] || given[LAYOUT])
        return false;
    if (given['n'] == NULL)
        given['n'] = given['o'] || given['s'] ? "0" : "5000";
    *o = (struct options){
        .count = (uint64_t)parse_number(c, "--count", given['n'], "0123456789", 1e15),
        .timeout_ns =
            (uint64_t)(1e9 * parse_number(c, "--timeout", given['t'], "0123456789.e+-", 1e6)),
        .wait = (enum shm_wait_mode)parse_choice(c, "--wait", given['w'], "adaptive spin block"),
        .wait_name = given['w'],
        .lossless = given['l'] || given['e'],
        .newest = given['N'],
        .reconnect = given['r'],
        .echo = given['e'],
        .verify = given['v'],
        .json = given['j'],
        .quiet = given['q'],
        .ndjson = parse_choice(c, "--format", given['f'] ? given['f'] : "raw", "raw ndjson"),
        .output = given['o'],
        .source = given['s'],
        .path = given['o'] ? given['o'] : given['s'],
    };
    if (optind + 1 < argc)
        refuse(c, "%s: one NAME is enough", argv[optind + 1]);
    if (o->source && (o->output || o->echo || o->verify || given['l'] || o->newest || o->reconnect))
        refuse(c, "--source: sends, goes with none of -o, -e, -v, -l, -N, -r");
    if (o->newest && o->lossless)
        refuse(c, "--newest: skips messages, goes with neither --lossless nor --echo");
    if (o->reconnect && o->echo)
        refuse(c, "--reconnect: does not go with --echo");
    if (given['f'] && !o->output)
        refuse(c, "--format: tells how --output writes; give --output FILE, or '-'");
    if ((o->output || o->source) && *o->path == '\0')
        refuse(c, "--output, --source: the name of FILE is empty");
    if (o->output && strcmp(o->path, "-") == 0)
        c->text = stderr;
    if (o->json && c->text == stderr)
        refuse(c, "--json: standard output is taken by --output -");
    parse_name(c, optind < argc ? argv[optind] : SHM_DEFAULT_NAME);
    return c->exit_code == EXIT_DONE;
}
