/* Workloads that change the mapping of the framebuffer while they draw. */
#include "options.h"
#include "paging.h"
#include "random.h"
#include "screen.h"
#include "workloads.h"

#define ALIAS_CYCLE 16
#define ALIAS_MOST 64
#define MOVE_FRAMES 6
#define FIRST_MOVE 2 /* early, so that a run of a few frames includes one */
#define LARGE_CYCLE 16

/* Map some of the shown frames a second time. */
static void map_some(uint32_t cycle)
{
    struct random random = random_of(options.seed ^ 0x7361696C61ull, cycle);
    uint32_t shown = screen.stride * (uint32_t)screen.height * 4 / PAGE;
    uint32_t pages = 1 + random_below(&random, shown < ALIAS_MOST ? shown : ALIAS_MOST);
    uint32_t first = random_below(&random, shown - pages + 1);
    map_alias(framebuffer_physical((uint64_t)first * PAGE), pages);
}

static void write_alias(uint32_t n)
{
    struct random random = random_of(options.seed ^ 0x6574697277ull, n);
    for (uint32_t page = 0; page < alias_pages(); page++) {
        uint32_t *words = (uint32_t *)(ALIAS_HOME + (uint64_t)page * PAGE);
        if (random_below(&random, 4))
            for (uint32_t i = random_below(&random, 512), end = i + 64; i < end; i++)
                words[i] = (uint32_t)random_next(&random) & 0xFFFFFF;
    }
}

/* Frames 0 to 3 of a cycle map, write, write and unmap an alias. Frames 10 and 11 do all three. Frame 12 maps
 * and writes, 13 writes and unmaps. Every frame also writes through the usual mapping. */
void frame_alias(uint32_t n)
{
    uint32_t cycle = n / ALIAS_CYCLE, phase = n % ALIAS_CYCLE;
    bool within = phase == 10 || phase == 11;
    if (phase == 0 || phase == 12 || within)
        map_some(within ? n : cycle);
    if (phase == 1 || phase == 2 || phase == 12 || phase == 13 || within)
        write_alias(n);
    if (phase == 3 || phase == 13 || within)
        unmap_alias();
    frame_random(n);
}

/* Move the framebuffer every few frames: alternately with the same tables and with new, clean ones. */
void frame_remap(uint32_t n)
{
    if (n % MOVE_FRAMES == FIRST_MOVE) {
        struct random random = random_of(options.seed, n);
        uint64_t at = (uint64_t)framebuffer - FRAMEBUFFER_HOME;
        uint32_t step = 1 + random_below(&random, FRAMEBUFFER_PLACES - 1);
        frame_random(~n); /* sets dirty bits that no tracker has read yet */
        framebuffer_move((uint32_t)(at / FRAMEBUFFER_STEP) + step, n / MOVE_FRAMES % 2);
    }
    frame_random(n);
}

void frame_large(uint32_t n)
{
    uint32_t phase = n % LARGE_CYCLE;
    if (phase == LARGE_CYCLE / 4)
        framebuffer_large(true);
    if (phase == LARGE_CYCLE * 3 / 4)
        framebuffer_large(false);
    frame_random(n);
}
