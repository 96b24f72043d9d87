/*
 * Writes to memory from several threads. A tracker must find every write.
 *
 *   writer SIZE_BYTES THREADS WRITES SEED PAUSE_EVERY VISIT REST_US [PATH]
 *
 * With PATH it maps that file shared (/proc/PID/fd/N for a memfd) and creates or grows it. Without PATH it
 * maps anonymous memory. It prints `READY ADDRESS`, and then obeys lines on standard input:
 *   run          all threads write their share; answers `DONE WRITES`
 *   forever      all threads write until the process is killed; answers `RUNNING`
 *   steady       all threads write until `halt`, each in its own part of the memory. Every write goes into a
 *                record too, which is not tracked; answers `RUNNING`
 *   advance      waits until each thread has started and ended a visit; answers `ADVANCED`
 *   halt         lets each thread end its visit, and compares the memory with the record; answers
 *                `HALTED WRITES`, or `DIFFERS OFFSET`
 *   dump PATH    writes the memory to a file, the ground truth for anonymous memory; answers `DUMPED`
 * The process ends at the end of standard input. Every PAUSE_EVERY writes (0: never) a thread pauses for
 * 50 us, so that the tracker meets quiet moments and first writes, not only a flood. A thread makes VISIT
 * writes in a few pages, then moves to other pages (0: each write anywhere). Otherwise later writes to the
 * same pages would hide a missed write. Between two visits a thread rests for a random time up to REST_US.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

enum { MAX_THREADS = 64, PAGE_BYTES = 4096, VISITED_PAGES = 4 };

static volatile uint8_t *memory;
static uint8_t *record; /* NULL unless `steady` */
static uint64_t size_bytes, pause_every, visit, rest_us;
static atomic_bool halting;

struct share {
    pthread_t thread;
    uint64_t writes; /* 0: without end */
    uint64_t random_state;
    uint64_t lowest, limit; /* the part of the memory it writes */
    uint64_t done;
    atomic_uint_fast64_t visits; /* ended */
};

static void die(const char *what)
{
    fprintf(stderr, "writer: %s: %s\n", what, strerror(errno));
    exit(1);
}

/* Marsaglia's xorshift64*. */
static uint64_t next_random(uint64_t *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545F4914F6CDD1Du;
}

static void write_byte(uint64_t at, uint8_t value)
{
    memory[at] = value;
    if (record)
        record[at] = value;
}

static void write_word(uint64_t at, uint32_t value)
{
    *(volatile uint32_t *)(memory + at) = value;
    if (record)
        *(uint32_t *)(record + at) = value;
}

static void nap(uint64_t us)
{
    const struct timespec time = {(time_t)(us / 1000000), (long)(us % 1000000) * 1000};

    nanosleep(&time, NULL);
}

/* Writes random bytes and words, and sometimes a run of words across pages. */
static void *write_share(void *argument)
{
    struct share *share = argument;
    uint64_t state = share->random_state;
    uint64_t first = share->lowest, span_bytes = share->limit - share->lowest;

    share->done = 0;
    for (; !share->writes || share->done < share->writes; share->done++) {
        if (visit && share->done % visit == 0) {
            if (share->done) {
                atomic_fetch_add(&share->visits, 1);
                if (rest_us)
                    nap(next_random(&state) % rest_us);
            }
            if (atomic_load(&halting))
                break;
            first = share->lowest
                + next_random(&state) % ((share->limit - share->lowest) / PAGE_BYTES) * PAGE_BYTES;
            span_bytes = VISITED_PAGES * PAGE_BYTES;
            if (span_bytes > share->limit - first)
                span_bytes = share->limit - first;
        }
        uint64_t value = next_random(&state);
        uint64_t at = first + next_random(&state) % span_bytes;

        if (pause_every && share->done % pause_every == 0)
            nap(50);
        switch (value >> 60) {
        case 0:
        case 1:
        case 2:
        case 3:
            write_byte(at, (uint8_t)value);
            break;
        case 4:
            for (uint64_t word = at & ~(uint64_t)3; word < (at & ~(uint64_t)3) + 256 && word + 4 <= share->limit; word += 4)
                write_word(word, (uint32_t)value);
            break;
        default:
            write_word(at & ~(uint64_t)3, (uint32_t)value);
        }
    }
    share->random_state = state;
    return NULL;
}

/* Starts all threads. With a record they write without end, each in its own part of the memory. */
static void begin(struct share *shares, uint64_t threads, uint64_t writes, int endless)
{
    const uint64_t pages = size_bytes / PAGE_BYTES;

    for (uint64_t i = 0; i < threads; i++) {
        shares[i].writes = endless ? 0 : writes / threads + (i < writes % threads);
        shares[i].lowest = record ? pages * i / threads * PAGE_BYTES : 0;
        shares[i].limit = record ? pages * (i + 1) / threads * PAGE_BYTES : size_bytes;
        if (pthread_create(&shares[i].thread, NULL, write_share, &shares[i]))
            die("pthread_create");
    }
}

/* Waits for all threads. Returns their number of writes. */
static uint64_t end(struct share *shares, uint64_t threads)
{
    uint64_t done = 0;

    for (uint64_t i = 0; i < threads; i++) {
        pthread_join(shares[i].thread, NULL);
        done += shares[i].done;
    }
    return done;
}

/* A visit may have started before this call, so two visits must end. */
static void advance(struct share *shares, uint64_t threads)
{
    uint64_t goals[MAX_THREADS];

    for (uint64_t i = 0; i < threads; i++)
        goals[i] = atomic_load(&shares[i].visits) + 2;
    for (uint64_t i = 0; i < threads; i++)
        while (atomic_load(&shares[i].visits) < goals[i])
            nap(100);
}

static void audit(uint64_t writes)
{
    for (uint64_t at = 0; at < size_bytes; at++) {
        if (memory[at] != record[at]) {
            printf("DIFFERS %#" PRIx64 "\n", at);
            return;
        }
    }
    printf("HALTED %" PRIu64 "\n", writes);
}

static void dump(const char *path)
{
    FILE *file = fopen(path, "wb");

    if (!file || fwrite((const void *)memory, 1, size_bytes, file) != size_bytes || fclose(file))
        die(path);
}

static uint64_t number(const char *text, const char *what, uint64_t low, uint64_t high)
{
    char *end;
    uint64_t value;

    errno = 0;
    value = strtoull(text, &end, 0);
    if (errno || *end || value < low || value > high) {
        fprintf(stderr, "writer: %s %s is not a number of %" PRIu64 "..%" PRIu64 "\n", what, text, low, high);
        exit(2);
    }
    return value;
}

int main(int argc, char **argv)
{
    static struct share shares[MAX_THREADS];
    char line[4096];

    if (argc != 8 && argc != 9) {
        fputs("usage: writer SIZE_BYTES THREADS WRITES SEED PAUSE_EVERY VISIT REST_US [PATH]\n", stderr);
        return 2;
    }
    size_bytes = number(argv[1], "size", 4096, (uint64_t)1 << 32) & ~(uint64_t)4095;
    uint64_t threads = number(argv[2], "threads", 1, MAX_THREADS);
    uint64_t writes = number(argv[3], "writes", threads, UINT64_MAX / 2);
    uint64_t seed = number(argv[4], "seed", 0, UINT64_MAX);

    pause_every = number(argv[5], "pause", 0, UINT64_MAX);
    visit = number(argv[6], "visit", 0, UINT64_MAX);
    rest_us = number(argv[7], "rest", 0, 60000000);
    if (argc == 9) {
        struct stat status;
        int fd = open(argv[8], O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        if (fd < 0 || fstat(fd, &status))
            die(argv[8]);
        if ((uint64_t)status.st_size < size_bytes && ftruncate(fd, (off_t)size_bytes))
            die(argv[8]);
        memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
        close(fd);
    } else {
        memory = mmap(NULL, size_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    }
    if (memory == MAP_FAILED)
        die("mmap");
    for (uint64_t i = 0; i < threads; i++)
        shares[i].random_state = (seed * MAX_THREADS + i + 1) * 0x9E3779B97F4A7C15u | 1;
    printf("READY %#" PRIxPTR "\n", (uintptr_t)memory);
    fflush(stdout);

    while (fgets(line, sizeof line, stdin)) {
        line[strcspn(line, "\n")] = 0;
        int endless = !strcmp(line, "forever");

        if (endless || !strcmp(line, "run")) {
            begin(shares, threads, writes, endless);
            if (endless) {
                puts("RUNNING");
                fflush(stdout);
            }
            printf("DONE %" PRIu64 "\n", end(shares, threads));
        } else if (!strcmp(line, "steady")) {
            if (!visit || threads > size_bytes / PAGE_BYTES) {
                fputs("writer: steady needs visits, and a page for each thread\n", stderr);
                return 2;
            }
            record = record ? record : malloc(size_bytes);
            if (!record)
                die("malloc");
            memcpy(record, (const void *)memory, size_bytes);
            atomic_store(&halting, false);
            begin(shares, threads, 0, 1);
            puts("RUNNING");
        } else if (!strcmp(line, "advance") && record) {
            advance(shares, threads);
            puts("ADVANCED");
        } else if (!strcmp(line, "halt") && record) {
            atomic_store(&halting, true);
            audit(end(shares, threads));
            free(record);
            record = NULL;
        } else if (!strncmp(line, "dump ", 5)) {
            dump(line + 5);
            puts("DUMPED");
        } else {
            fprintf(stderr, "writer: unknown command %s\n", line);
            return 2;
        }
        fflush(stdout);
    }
    return 0;
}
