/* Display: sets modes by the Bochs DISPI registers, and draws into the video RAM. */
#include "screen.h"

#include <stddef.h>

#include "boot.h"
#include "canvas.h"
#include "debug.h"
#include "io.h"
#include "options.h"
#include "paging.h"
#include "random.h"

/* Bochs: iodev/display/vga.h; QEMU: include/hw/display/bochs-vbe.h. */
enum dispi {
    DISPI_ID,
    DISPI_XRES,
    DISPI_YRES,
    DISPI_BPP,
    DISPI_ENABLE,
    DISPI_BANK,
    DISPI_VIRT_WIDTH,
    DISPI_VIRT_HEIGHT,
    DISPI_X_OFFSET,
    DISPI_Y_OFFSET,
};
#define ID_LOWEST 0xB0C0u
#define ID_HIGHEST 0xB0C5u
#define ID_LFB 0xB0C2u /* the first version with a linear framebuffer and 32 bits a pixel */
#define ENABLED 0x01u
#define LFB 0x40u
#define NO_CLEAR 0x80u
#define BYTES_PER_PIXEL 4u
#define GARBAGE_WRITES 12

struct screen screen;
static uint64_t vram_size, canvas_room;

static void dispi_write(uint16_t index, uint16_t value)
{
    outw(PORT_DISPI_INDEX, index);
    outw(PORT_DISPI_DATA, value);
}

static uint16_t dispi_read(uint16_t index)
{
    outw(PORT_DISPI_INDEX, index);
    return inw(PORT_DISPI_DATA);
}

void screen_start(uint64_t vram_bytes, uint64_t ram_bytes)
{
    vram_size = vram_bytes;
    canvas_room = ram_bytes - CANVAS;
    dispi_write(DISPI_ID, ID_HIGHEST);
    uint16_t id = dispi_read(DISPI_ID);
    if (id < ID_LFB || id > ID_HIGHEST)
        die("no DISPI display with a linear framebuffer", NULL);
}

bool screen_fits(uint32_t width, uint32_t height, uint32_t pages)
{
    uint64_t bytes = (uint64_t)width * height * BYTES_PER_PIXEL;
    return bytes * pages <= vram_size && bytes <= canvas_room;
}

void screen_mode(uint32_t width, uint32_t height, bool clear)
{
    if (!screen_fits(width, height, 1))
        die("the mode is larger than the video RAM", NULL);
    dispi_write(DISPI_ENABLE, 0);
    dispi_write(DISPI_XRES, (uint16_t)width);
    dispi_write(DISPI_YRES, (uint16_t)height);
    dispi_write(DISPI_BPP, 8 * BYTES_PER_PIXEL);
    dispi_write(DISPI_ENABLE, clear ? ENABLED | LFB : ENABLED | LFB | NO_CLEAR);
    dispi_write(DISPI_VIRT_WIDTH, (uint16_t)width);
    dispi_write(DISPI_X_OFFSET, 0);
    dispi_write(DISPI_Y_OFFSET, 0);
    bool taken = dispi_read(DISPI_XRES) == width && dispi_read(DISPI_YRES) == height &&
                 dispi_read(DISPI_BPP) == 8 * BYTES_PER_PIXEL && dispi_read(DISPI_VIRT_WIDTH) == width;
    if (!taken)
        die("the display refuses the mode", NULL);
    screen = (struct screen){(int)width, (int)height, width, 0};
}

void screen_pan(uint32_t first_line)
{
    dispi_write(DISPI_Y_OFFSET, (uint16_t)first_line);
    if (dispi_read(DISPI_Y_OFFSET) != first_line)
        die("the display refuses to flip", NULL);
}

uint32_t *screen_line(int y)
{
    return (uint32_t *)framebuffer + (uint64_t)(screen.draw_first + (uint32_t)y) * screen.stride;
}

void screen_fill(struct rect area, uint32_t colour)
{
    area = rect_within(area, (struct rect){0, 0, screen.width, screen.height});
    for (int y = area.y0; y < area.y1; y++) {
        uint32_t *line = screen_line(y);
        for (int x = area.x0; x < area.x1; x++)
            line[x] = colour;
    }
}

void screen_garbage(uint32_t n)
{
    struct random random = random_of(options.seed ^ 0x6172616762ull, n);
    for (int i = 0; i < GARBAGE_WRITES; i++) {
        uint64_t number = random_next(&random);
        uint16_t index = number >> 60 ? (number >> 16) & 15 : (uint16_t)(number >> 32);
        dispi_write(index, (uint16_t)number);
        dispi_read(index);
    }
}
