/* Random program for each frame: every kind of store to the framebuffer, and changes of its mapping.
 *
 * The stores are single instructions, because a compiler may split, join or widen the stores of C code.
 */
#include <stddef.h>

#include "options.h"
#include "paging.h"
#include "random.h"
#include "screen.h"
#include "workloads.h"

#define MOST_STEPS 24
#define MOST_FILL 0x4000u
#define MOST_POKES 64

/* Return a random place in the framebuffer, mostly on the screen, with room for this many bytes. */
static uint8_t *somewhere(struct random *random, uint32_t room)
{
    uint64_t shown = (uint64_t)screen.stride * (uint32_t)screen.height * 4;
    uint64_t bound = random_below(random, 4) ? shown : framebuffer_bytes;
    return framebuffer + random_below(random, (uint32_t)(bound - room));
}

static void store(uint8_t *to, uint64_t value, uint32_t log_size)
{
    switch (log_size) {
    case 0:
        __asm__ volatile("movb %b1, %0" : "=m"(*to) : "r"(value));
        break;
    case 1:
        __asm__ volatile("movw %w1, %0" : "=m"(*(uint16_t *)to) : "r"(value));
        break;
    case 2:
        __asm__ volatile("movl %k1, %0" : "=m"(*(uint32_t *)to) : "r"(value));
        break;
    default:
        __asm__ volatile("movq %1, %0" : "=m"(*(uint64_t *)to) : "r"(value));
    }
}

static void poke(struct random *random)
{
    for (uint32_t i = random_below(random, MOST_POKES); i < MOST_POKES; i++)
        store(somewhere(random, 8), random_next(random), random_below(random, 4));
}

/* Store across the end of a page. */
static void straddle(struct random *random)
{
    for (int i = 0; i < 8; i++) {
        uint32_t log_size = 1 + random_below(random, 3);
        uint64_t offset = (uint64_t)(somewhere(random, 2 * PAGE) - framebuffer) / PAGE * PAGE + PAGE;
        uint32_t before = 1 + random_below(random, (1u << log_size) - 1);
        store(framebuffer + offset - before, random_next(random), log_size);
    }
}

static void fill(struct random *random)
{
    uint64_t value = random_next(random), count = 1 + random_below(random, MOST_FILL / 8);
    uint8_t *to = somewhere(random, MOST_FILL);
    switch (random_below(random, 3)) {
    case 0:
        __asm__ volatile("rep stosb" : "+D"(to), "+c"(count) : "a"(value) : "memory");
        break;
    case 1:
        __asm__ volatile("rep stosl" : "+D"(to), "+c"(count) : "a"(value) : "memory");
        break;
    default:
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(count) : "a"(value) : "memory");
    }
}

static void fill_backwards(struct random *random)
{
    uint64_t value = random_next(random), count = 1 + random_below(random, MOST_FILL / 8);
    uint8_t *to = somewhere(random, MOST_FILL) + MOST_FILL - 8;
    __asm__ volatile("std; rep stosq; cld" : "+D"(to), "+c"(count) : "a"(value) : "memory", "cc");
}

static void copy(struct random *random)
{
    uint64_t count = 1 + random_below(random, MOST_FILL / 8);
    uint8_t *from = somewhere(random, MOST_FILL), *to = somewhere(random, MOST_FILL);
    if (random_below(random, 2))
        __asm__ volatile("rep movsq" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
    else
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

static void modify(struct random *random)
{
    for (int i = 0; i < 16; i++) {
        uint64_t value = random_next(random);
        uint8_t *at = somewhere(random, 16);
        switch (random_below(random, 6)) {
        case 0:
            __asm__ volatile("addl %k1, %0" : "+m"(*(uint32_t *)at) : "r"(value) : "cc");
            break;
        case 1:
            __asm__ volatile("xorb %b1, %0" : "+m"(*at) : "r"(value) : "cc");
            break;
        case 2:
            __asm__ volatile("notq %0" : "+m"(*(uint64_t *)at));
            break;
        case 3:
            __asm__ volatile("xchgq %1, %0" : "+m"(*(uint64_t *)at), "+r"(value));
            break;
        case 4:
            __asm__ volatile("lock xaddl %k1, %0" : "+m"(*(uint32_t *)at), "+r"(value) : : "cc");
            break;
        default: {
            /* Without a match the CPU stores the old value again: a write that changes nothing. */
            uint16_t expected = (uint16_t)(value >> 32);
            if (value >> 63)
                __builtin_memcpy(&expected, at, sizeof expected);
            __asm__ volatile("lock cmpxchgw %w2, %0"
                             : "+m"(*(uint16_t *)at), "+a"(expected)
                             : "r"(value)
                             : "cc");
        }
        }
    }
}

/* Map or unmap an alias, which usually lives for longer than a frame. */
static void change_alias(struct random *random)
{
    if (alias_pages() && random_below(random, 2)) {
        unmap_alias();
        return;
    }
    uint64_t first = (uint64_t)(somewhere(random, 32 * PAGE) - framebuffer) / PAGE * PAGE;
    map_alias(framebuffer_physical(first), 1 + random_below(random, 32));
}

static void write_alias(struct random *random)
{
    for (int i = 0; i < 8 && alias_pages(); i++) {
        uint64_t at = ALIAS_HOME + random_below(random, alias_pages() * PAGE - 8);
        store((uint8_t *)at, random_next(random), random_below(random, 4));
    }
}

static void change_mapping(struct random *random)
{
    switch (random_below(random, 4)) {
    case 0:
        framebuffer_move(random_below(random, FRAMEBUFFER_PLACES), random_below(random, 2));
        break;
    case 1:
        framebuffer_large(random_below(random, 3) == 0);
        break;
    default:
        framebuffer_retable(random_below(random, (uint32_t)(framebuffer_bytes / LARGE_PAGE)),
                            random_below(random, 2));
    }
}

/* Each kind of step, and its weight in the random choice. */
static const struct {
    uint32_t weight;
    void (*step)(struct random *random);
} steps[] = {
    {12, poke}, {8, straddle},     {10, fill},        {4, fill_backwards},
    {8, copy},  {10, modify},      {3, change_alias}, {6, write_alias},
    {2, change_mapping},
};

void frame_program(uint32_t n)
{
    struct random random = random_of(options.seed, n);
    uint32_t sum = 0;
    for (size_t i = 0; i < sizeof steps / sizeof steps[0]; i++)
        sum += steps[i].weight;
    /* One frame in eight writes nothing. */
    uint32_t count = random_below(&random, 8) ? 1 + random_below(&random, MOST_STEPS) : 0;
    for (uint32_t i = 0; i < count; i++) {
        uint32_t chosen = random_below(&random, sum);
        size_t at = 0;
        while (chosen >= steps[at].weight)
            chosen -= steps[at++].weight;
        steps[at].step(&random);
    }
}
