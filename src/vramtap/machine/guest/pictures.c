/* Workloads that draw and leave the mapping alone. */
#include <stddef.h>

#include "canvas.h"
#include "debug.h"
#include "desktop.h"
#include "options.h"
#include "paging.h"
#include "random.h"
#include "wave.h"
#include "workloads.h"

#define VIDEO_WIDTH 640
#define VIDEO_HEIGHT 360
#define VIDEO_BLOCK 4 /* pixels of one colour in a line: two stores */
#define RANDOM_RECTS 24
#define RANDOM_SIDE 48
#define FLIP_BOX 64
#define FLIP_STEP 12
#define MODE_FRAMES 4
#define SMALL_MODE (400 * 300)

static const char *const words[] = {
    "page",  "frame", "dirty", "bit",  "guest", "write", "fault", "table", "walk", "screen", "pixel",
    "store", "clean", "log",   "scan", "armed", "ring",  "alias", "flush", "line", "damage", "extent",
};
#define WORDS (sizeof words / sizeof words[0])

void frame_caret(uint32_t n)
{
    (void)n;
    desktop_blink();
    desktop_show();
}

/* Return character n of an endless text, in which each word takes 8 characters. */
static char letter(uint32_t n)
{
    struct random random = random_of(options.seed, n / 8);
    const char *word = words[random_below(&random, WORDS)];
    bool line_ends = random_below(&random, 8) == 0;
    for (uint32_t i = 0; i < n % 8; i++)
        if (*word)
            word++;
    if (*word)
        return *word;
    return n % 8 == 7 && line_ends ? '\n' : ' ';
}

void frame_typing(uint32_t n)
{
    desktop_type(letter(n - 1));
    desktop_show();
}

void frame_scroll(uint32_t n)
{
    struct random random = random_of(options.seed, n);
    uint32_t count = 3 + random_below(&random, 6);
    for (uint32_t i = 0; i < count; i++) {
        desktop_print(words[random_below(&random, WORDS)]);
        desktop_print(i + 1 < count ? " " : "\n");
    }
    desktop_show();
}

/* Move back and forth between 0 and length. */
static int bounce(uint32_t way, int length)
{
    uint32_t at = way % (2 * (uint32_t)length);
    return (int)(at < (uint32_t)length ? at : 2 * (uint32_t)length - at);
}

void frame_drag(uint32_t n)
{
    struct random random = random_of(options.seed, 0);
    uint32_t from_x = random_below(&random, 4096), from_y = random_below(&random, 4096);
    uint32_t right = 3 + random_below(&random, 6), down = 2 + random_below(&random, 5);
    struct rect range = desktop_drag_range();
    desktop_drag_to(range.x0 + bounce(from_x + n * right, range.x1 - range.x0 - 1),
                    range.y0 + bounce(from_y + n * down, range.y1 - range.y0 - 1));
    desktop_show();
}

/* Draw three overlaid waves as colours. Every frame writes every page of the area. */
static void video(struct rect area, uint32_t n)
{
    struct random random = random_of(options.seed, 0);
    uint32_t from = (uint32_t)random_next(&random) & 0x7F7F7F, to = (uint32_t)random_next(&random) | 0x808080;
    uint64_t colours[256];
    for (uint32_t i = 0; i < 256; i++) {
        uint32_t colour = colour_between(from, to & 0xFFFFFF, i < 128 ? i : 255 - i, 128);
        colours[i] = (uint64_t)colour << 32 | colour;
    }
    int at = (int)(n & 0xFFFF);
    for (int y = area.y0; y < area.y1; y++) {
        uint64_t *line = (uint64_t *)(screen_line(y) + area.x0);
        int down = wave(y + 3 * at);
        for (int x = area.x0; x < area.x1; x += VIDEO_BLOCK) {
            uint64_t colour = colours[(wave(x / 2 + 2 * at) + down + wave((x + y) / 2 - at) + 4 * at) & 0xFF];
            *line++ = colour;
            *line++ = colour;
        }
    }
}

void frame_video_window(uint32_t n)
{
    int width = screen.width < VIDEO_WIDTH ? screen.width : VIDEO_WIDTH;
    int height = screen.height < VIDEO_HEIGHT ? screen.height : VIDEO_HEIGHT;
    int x = (screen.width - width) / 2 & ~(VIDEO_BLOCK - 1), y = (screen.height - height) / 2;
    video((struct rect){x, y, x + width, y + height}, n);
}

void frame_video_full(uint32_t n)
{
    video((struct rect){0, 0, screen.width, screen.height}, n);
}

void frame_random(uint32_t n)
{
    struct random random = random_of(options.seed, n);
    for (uint32_t i = random_below(&random, RANDOM_RECTS); i < RANDOM_RECTS; i++) {
        int x = (int)random_below(&random, (uint32_t)screen.width);
        int y = (int)random_below(&random, (uint32_t)screen.height);
        int width = 1 + (int)random_below(&random, RANDOM_SIDE);
        int height = 1 + (int)random_below(&random, RANDOM_SIDE);
        screen_fill((struct rect){x, y, x + width, y + height}, (uint32_t)random_next(&random) & 0xFFFFFF);
    }
}

static struct rect flip_box(uint32_t n)
{
    struct random random = random_of(options.seed, 0);
    int x = bounce(random_below(&random, 4096) + n * FLIP_STEP, screen.width - FLIP_BOX);
    int y = bounce(random_below(&random, 4096) + n * (FLIP_STEP / 2), screen.height - FLIP_BOX);
    return (struct rect){x, y, x + FLIP_BOX, y + FLIP_BOX};
}

/* Draw on the hidden one of two pages, then show it. */
void frame_flip(uint32_t n)
{
    if (!screen_fits((uint32_t)screen.width, (uint32_t)screen.height, 2))
        die("flip: two pages of this mode are larger than the video RAM", NULL);
    struct random random = random_of(options.seed, 0);
    uint32_t paper = (uint32_t)random_next(&random) & 0x3F3F3F, box = paper ^ 0xE0B070;
    screen.draw_first = n & 1 ? (uint32_t)screen.height : 0;
    if (n <= 2)
        screen_fill((struct rect){0, 0, screen.width, screen.height}, n == 1 ? paper : paper + 0x101010);
    else
        screen_fill(flip_box(n - 2), n & 1 ? paper : paper + 0x101010);
    screen_fill(flip_box(n), box);
    screen_pan(screen.draw_first);
}

static const struct {
    uint16_t width, height;
} modes[] = {{320, 200}, {400, 300}, {512, 384}, {640, 480}, {800, 600}, {1024, 768}, {1280, 800}};
#define MODES (sizeof modes / sizeof modes[0])

/* Set another mode every few frames. None has more pixels than options.width x height, unless that is tiny. */
void frame_modes(uint32_t n)
{
    if (n % MODE_FRAMES == 0) {
        uint32_t most = options.width * options.height;
        struct random random = random_of(options.seed, n);
        uint32_t usable = 0;
        while (usable < MODES) {
            uint32_t area = (uint32_t)modes[usable].width * modes[usable].height;
            if (area > SMALL_MODE && area > most)
                break;
            usable++;
        }
        uint32_t next = random_below(&random, usable);
        if (modes[next].width == screen.width && modes[next].height == screen.height)
            next = (next + 1) % usable;
        screen_mode(modes[next].width, modes[next].height, random_below(&random, 3) != 0);
        desktop_start();
    }
    desktop_type(letter(n - 1));
    desktop_show();
}
