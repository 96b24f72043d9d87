/*
 * Writes its own memory and times its stores: the writer whose loss is measured.
 *
 *   painter PAGES
 *
 * Maps PAGES pages of anonymous memory, touches them all, prints `READY ADDRESS`, and then obeys lines on standard
 * input. Pages are counted from 0, ranges are half-open, times are nanoseconds of CLOCK_MONOTONIC.
 *   fill FIRST LAST       writes every byte of these pages; answers `FILLED BEGAN FIRST_STORE ALL`: the time at
 *                         which it began, the duration of the first store, and the duration of all stores
 *   video DURATION ROUNDS paints frames of all pages as fast as it can until the time is over, with ROUNDS rounds of
 *                         arithmetic for every 8 bytes, like a decoder's; answers `PAINTED FRAMES TOOK CPU`, with
 *                         the elapsed time and its own CPU time
 *   replay IN HZ OUT      plays frames of page writes at a fixed rate, one store a page; answers `REPLAYED FRAMES`
 * The program ends at the end of standard input.
 *
 * IN holds 32-bit words: the number of frames, and for each frame the number of ranges and the ranges. OUT receives
 * three 64-bit words for each frame: the duration of its stores, the CPU time of this thread meanwhile, and 1 if the
 * thread slept meanwhile. The stores themselves never sleep, so a thread that slept was held by a tracker.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { PAGE_BYTES = 4096, MAX_PAGES = 1 << 20, MAX_INPUT_BYTES = 1 << 28, MAX_HZ = 1000 };

static volatile uint64_t *memory;
static uint32_t pages;
static uint64_t colour; /* changes before every fill, frame and replayed frame, so that every write is a change */

static void die(const char *what)
{
    fprintf(stderr, "painter: %s: %s\n", what, strerror(errno));
    exit(1);
}

static void fail(const char *what)
{
    fprintf(stderr, "painter: %s\n", what);
    exit(2);
}

static int64_t clock_ns(clockid_t clock)
{
    struct timespec now;

    clock_gettime(clock, &now);
    return (int64_t)now.tv_sec * 1000000000 + now.tv_nsec;
}

static volatile uint64_t *page_at(uint32_t page)
{
    return memory + (uint64_t)page * (PAGE_BYTES / 8);
}

static void fill(uint32_t first, uint32_t last)
{
    volatile uint64_t *end = page_at(last);

    colour += 0x0101010101010101u;
    int64_t began = clock_ns(CLOCK_MONOTONIC);
    *page_at(first) = colour;
    int64_t stored = clock_ns(CLOCK_MONOTONIC);
    for (volatile uint64_t *word = page_at(first); word < end; word++)
        *word = colour;
    int64_t done = clock_ns(CLOCK_MONOTONIC);
    printf("FILLED %" PRId64 " %" PRId64 " %" PRId64 "\n", began, stored - began, done - began);
}

/* Each round is a multiplication, a shift and an exclusive or: work that stays in registers. */
static void paint(uint64_t rounds)
{
    volatile uint64_t *end = page_at(pages);
    uint64_t at = ++colour * 0x9E3779B97F4A7C15u;

    for (volatile uint64_t *word = memory; word < end; word++) {
        uint64_t value = at++;
        for (uint64_t round = 0; round < rounds; round++)
            value = (value ^ value >> 29) * 0xBF58476D1CE4E5B9u;
        *word = value;
    }
}

static void video(int64_t duration_ns, uint64_t rounds)
{
    int64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID), began = clock_ns(CLOCK_MONOTONIC), now = began;
    uint64_t frames = 0;

    while (now - began < duration_ns) {
        paint(rounds);
        frames++;
        now = clock_ns(CLOCK_MONOTONIC);
    }
    cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
    printf("PAINTED %" PRIu64 " %" PRId64 " %" PRId64 "\n", frames, now - began, cpu);
}

static uint32_t *slurp(const char *path, uint64_t *words)
{
    struct stat status;
    FILE *file = fopen(path, "rb");

    if (!file || fstat(fileno(file), &status))
        die(path);
    if (status.st_size < 4 || status.st_size > MAX_INPUT_BYTES)
        fail("the frames' file is empty or too large");
    *words = (uint64_t)status.st_size / 4;
    uint32_t *content = malloc(*words * 4);
    if (!content || fread(content, 4, *words, file) != *words)
        die(path);
    fclose(file);
    return content;
}

/* Return the index of the word after this frame's ranges; exit if a range is not valid. */
static uint64_t checked(const uint32_t *in, uint64_t at, uint64_t words)
{
    if (at >= words || in[at] > (words - at - 1) / 2)
        fail("the frames' file ends early");
    uint64_t end = at + 1 + 2 * (uint64_t)in[at];
    for (at++; at < end; at += 2)
        if (in[at] >= in[at + 1] || in[at + 1] > pages)
            fail("a range is empty, reversed or past the last page");
    return end;
}

static void replay(const char *from, uint64_t hz, const char *to)
{
    uint64_t words, at = 1;
    uint32_t *in = slurp(from, &words);
    uint32_t frames = in[0];

    for (uint32_t frame = 0; frame < frames; frame++)
        at = checked(in, at, words);
    int64_t(*out)[3] = calloc(frames ? frames : 1, sizeof *out);
    if (!out)
        die("calloc");
    memset(out, 1, frames * sizeof *out); /* touch every page of it now and not while time is taken */

    int64_t due = clock_ns(CLOCK_MONOTONIC);
    at = 1;
    for (uint32_t frame = 0; frame < frames; frame++) {
        struct rusage before, after;
        struct timespec until;

        due += 1000000000 / (int64_t)hz;
        until.tv_sec = due / 1000000000;
        until.tv_nsec = due % 1000000000;
        while (clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
            ;
        const uint32_t *range = in + at + 1, *end = range + 2 * in[at];
        colour++;
        getrusage(RUSAGE_THREAD, &before);
        int64_t cpu = clock_ns(CLOCK_THREAD_CPUTIME_ID), began = clock_ns(CLOCK_MONOTONIC);
        for (; range < end; range += 2)
            for (uint32_t page = range[0]; page < range[1]; page++)
                *page_at(page) = colour;
        out[frame][0] = clock_ns(CLOCK_MONOTONIC) - began;
        out[frame][1] = clock_ns(CLOCK_THREAD_CPUTIME_ID) - cpu;
        getrusage(RUSAGE_THREAD, &after);
        out[frame][2] = after.ru_nvcsw != before.ru_nvcsw;
        at += 1 + 2 * (uint64_t)in[at];
    }
    FILE *file = fopen(to, "wb");
    if (!file || fwrite(out, sizeof *out, frames, file) != frames || fclose(file))
        die(to);
    free(out);
    free(in);
    printf("REPLAYED %" PRIu32 "\n", frames);
}

int main(int argc, char **argv)
{
    char line[9000], from[4096], to[4096];
    uint64_t a, b;
    int64_t duration;

    if (argc != 2)
        fail("usage: painter PAGES");
    long asked = strtol(argv[1], NULL, 10);
    if (asked < 1 || asked > MAX_PAGES)
        fail("PAGES is less than 1 or more than 1048576");
    pages = (uint32_t)asked;
    void *map = mmap(NULL, (size_t)pages * PAGE_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED)
        die("mmap");
    /* Small pages, whatever the system's setting: a huge page is split once, and later shots differ from the first. */
    if (madvise(map, (size_t)pages * PAGE_BYTES, MADV_NOHUGEPAGE) && errno != EINVAL)
        die("madvise");
    memset(map, 0xFF, (size_t)pages * PAGE_BYTES);
    memory = map;
    printf("READY %#" PRIxPTR "\n", (uintptr_t)map);
    fflush(stdout);

    while (fgets(line, sizeof line, stdin)) {
        if (sscanf(line, "fill %" SCNu64 " %" SCNu64, &a, &b) == 2 && a < b && b <= pages)
            fill((uint32_t)a, (uint32_t)b);
        else if (sscanf(line, "video %" SCNd64 " %" SCNu64, &duration, &a) == 2 && duration > 0)
            video(duration, a);
        else if (sscanf(line, "replay %4095s %" SCNu64 " %4095s", from, &a, to) == 3 && a && a <= MAX_HZ)
            replay(from, a, to);
        else
            fail("an unknown command or an argument out of range");
        fflush(stdout);
    }
    return 0;
}
