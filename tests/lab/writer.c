/*
 * Storms memory with writes from several threads: whoever watches must see every one of them.
 *
 *   writer SIZE_BYTES THREADS WRITES SEED PAUSE_EVERY VISIT [PATH]
 *
 * Maps PATH shared (created or grown if need be; /proc/PID/fd/N for a memfd), or anonymous memory
 * without it, prints `READY ADDRESS`, and then obeys lines on standard input:
 *   run          all threads write their share; answers `DONE WRITES`
 *   forever      the same without end, until the process is killed; answers `RUNNING`
 *   dump PATH    writes the memory to a file, the truth for anonymous memory; answers `DUMPED`
 * The end of standard input ends it. Every PAUSE_EVERY writes (0: never) a thread pauses for 50 us, so
 * that whoever watches sees quiet moments and beginnings, not one long flood. With VISIT writes a thread
 * stays in a few pages for so many, then goes to others (0: all of the memory, all the time): what is
 * written everywhere until the end heals whatever is missed before.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <pthread.h>
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
static uint64_t size_bytes, pause_every, visit;

struct share {
    pthread_t thread;
    uint64_t writes; /* 0: without end */
    uint64_t random_state;
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

/* Bytes and words anywhere; now and then a run of words that crosses pages. */
static void *write_share(void *argument)
{
    struct share *share = argument;
    const struct timespec pause = {0, 50000};
    uint64_t state = share->random_state;
    uint64_t first = 0, span_bytes = size_bytes;

    for (uint64_t done = 0; !share->writes || done < share->writes; done++) {
        if (visit && done % visit == 0) {
            first = next_random(&state) % (size_bytes / PAGE_BYTES) * PAGE_BYTES;
            span_bytes = VISITED_PAGES * PAGE_BYTES;
            if (span_bytes > size_bytes - first)
                span_bytes = size_bytes - first;
        }
        uint64_t value = next_random(&state);
        uint64_t at = first + next_random(&state) % span_bytes;

        if (pause_every && done % pause_every == 0)
            nanosleep(&pause, NULL);
        switch (value >> 60) {
        case 0:
        case 1:
        case 2:
        case 3:
            memory[at] = (uint8_t)value;
            break;
        case 4:
            for (uint64_t word = at & ~(uint64_t)3; word < (at & ~(uint64_t)3) + 256 && word + 4 <= size_bytes; word += 4)
                *(volatile uint32_t *)(memory + word) = (uint32_t)value;
            break;
        default:
            *(volatile uint32_t *)(memory + (at & ~(uint64_t)3)) = (uint32_t)value;
        }
    }
    share->random_state = state;
    return NULL;
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

    if (argc != 7 && argc != 8) {
        fputs("usage: writer SIZE_BYTES THREADS WRITES SEED PAUSE_EVERY VISIT [PATH]\n", stderr);
        return 2;
    }
    size_bytes = number(argv[1], "size", 4096, (uint64_t)1 << 32) & ~(uint64_t)4095;
    uint64_t threads = number(argv[2], "threads", 1, MAX_THREADS);
    uint64_t writes = number(argv[3], "writes", threads, UINT64_MAX / 2);
    uint64_t seed = number(argv[4], "seed", 0, UINT64_MAX);

    pause_every = number(argv[5], "pause", 0, UINT64_MAX);
    visit = number(argv[6], "visit", 0, UINT64_MAX);
    if (argc == 8) {
        struct stat status;
        int fd = open(argv[7], O_RDWR | O_CREAT | O_CLOEXEC, 0600);

        if (fd < 0 || fstat(fd, &status))
            die(argv[7]);
        if ((uint64_t)status.st_size < size_bytes && ftruncate(fd, (off_t)size_bytes))
            die(argv[7]);
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
            for (uint64_t i = 0; i < threads; i++) {
                shares[i].writes = endless ? 0 : writes / threads + (i < writes % threads);
                if (pthread_create(&shares[i].thread, NULL, write_share, &shares[i]))
                    die("pthread_create");
            }
            if (endless) {
                puts("RUNNING");
                fflush(stdout);
            }
            for (uint64_t i = 0; i < threads; i++)
                pthread_join(shares[i].thread, NULL);
            printf("DONE %" PRIu64 "\n", writes);
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
