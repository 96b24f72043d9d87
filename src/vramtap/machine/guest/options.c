/* Command line: key=value words. Every key is known and every value is bounded. */
#include "options.h"

#include <stddef.h>

#include "boot.h"
#include "debug.h"
#include "workloads.h"

#define DEFAULT_WIDTH 1024
#define DEFAULT_HEIGHT 768
#define DEFAULT_HZ 64
#define MAX_HZ 1024
#define UNSET UINT32_MAX

struct options options;

/* The current word, and the rest of it. A word ends at a space or at the end of the line. */
static const char *word, *cursor;

static bool at_end(void)
{
    return *cursor == 0 || *cursor == ' ';
}

static bool take(const char *text)
{
    const char *at = cursor;
    for (; *text; text++, at++)
        if (*at != *text)
            return false;
    cursor = at;
    return true;
}

static bool take_all(const char *text)
{
    const char *before = cursor;
    if (take(text) && at_end())
        return true;
    cursor = before;
    return false;
}

static uint64_t take_number(uint64_t most)
{
    if (*cursor < '0' || *cursor > '9')
        die("command line: a number is missing", word);
    uint64_t number = 0;
    for (; *cursor >= '0' && *cursor <= '9'; cursor++) {
        uint64_t digit = (uint64_t)(*cursor - '0');
        if (number > (most - digit) / 10)
            die("command line: the number is too large", word);
        number = number * 10 + digit;
    }
    return number;
}

static void parse_workload(void)
{
    for (const struct workload *known = workloads; known->name; known++)
        if (take_all(known->name)) {
            options.workload = known;
            return;
        }
    die("command line: no such workload", word);
}

static void parse_fault(void)
{
    static const char *const names[] = {
        [FAULT_UD] = "ud",         [FAULT_PF] = "pf",     [FAULT_DIV] = "div",
        [FAULT_TRIPLE] = "triple", [FAULT_LOOP] = "loop", [FAULT_HOLE] = "hole",
    };
    for (int i = FAULT_UD; i <= FAULT_HOLE; i++)
        if (take_all(names[i])) {
            options.fault = (enum fault)i;
            return;
        }
    die("command line: no such fault", word);
}

static void parse_mode(void)
{
    options.width = (uint32_t)take_number(UINT32_MAX);
    if (!take("x"))
        die("command line: a mode is WIDTHxHEIGHT", word);
    options.height = (uint32_t)take_number(UINT32_MAX);
    bool wide = options.width >= MODE_MIN_WIDTH && options.width <= MODE_MAX_WIDTH;
    bool high = options.height >= MODE_MIN_HEIGHT && options.height <= MODE_MAX_HEIGHT;
    if (!wide || !high)
        die("command line: a mode is 320x200 to 2560x1600", word);
    if (options.width % 8)
        die("command line: a mode's width is a multiple of 8", word);
}

static void parse_hz(void)
{
    options.hz = (uint32_t)take_number(UINT32_MAX - 1);
    bool power = (options.hz & (options.hz - 1)) == 0;
    if (options.hz && (!power || options.hz < 2 || options.hz > MAX_HZ))
        die("command line: hz is 0 or a power of two in 2..1024", word);
}

static void parse_word(void)
{
    if (take("workload="))
        parse_workload();
    else if (take("program=")) {
        if (!take("random"))
            die("command line: no such program", word);
        options.workload = &random_program;
    } else if (take("seed="))
        options.seed = take_number(UINT64_MAX);
    else if (take("hz="))
        parse_hz();
    else if (take("frames="))
        options.frames = (uint32_t)take_number(UINT32_MAX);
    else if (take("mode="))
        parse_mode();
    else if (take("fault="))
        parse_fault();
    else if (take("dispi=")) {
        if (!take("garbage"))
            die("command line: dispi must be garbage", word);
        options.dispi_garbage = true;
    } else
        die("command line: not understood", word);
    if (!at_end())
        die("command line: not understood", word);
}

void options_parse(const char *line)
{
    static char copy[COMMAND_LINE_BYTES];
    size_t length = 0;
    while (length < sizeof copy && line[length]) {
        copy[length] = line[length];
        length++;
    }
    if (length == sizeof copy)
        die("command line: does not end", NULL);
    options = (struct options){
        .workload = workloads, .hz = UNSET, .width = DEFAULT_WIDTH, .height = DEFAULT_HEIGHT};
    for (cursor = copy; *cursor;) {
        if (*cursor == ' ') {
            cursor++;
            continue;
        }
        word = cursor;
        parse_word();
    }
    if (options.hz == UNSET)
        options.hz = options.workload->default_hz ? options.workload->default_hz : DEFAULT_HZ;
}
