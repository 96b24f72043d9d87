/* Canvas: a picture in RAM where the desktop is composed. Only changed pixels are copied to the screen. */
#include "canvas.h"

#include "font.h"

static struct rect clip;

static uint32_t *canvas_line(int y)
{
    return (uint32_t *)(uintptr_t)CANVAS + (uint64_t)(uint32_t)y * (uint32_t)screen.width;
}

struct rect rect_within(struct rect one, struct rect other)
{
    return (struct rect){
        one.x0 > other.x0 ? one.x0 : other.x0,
        one.y0 > other.y0 ? one.y0 : other.y0,
        one.x1 < other.x1 ? one.x1 : other.x1,
        one.y1 < other.y1 ? one.y1 : other.y1,
    };
}

bool rect_empty(struct rect area)
{
    return area.x0 >= area.x1 || area.y0 >= area.y1;
}

bool rect_has(struct rect area, int x, int y)
{
    return x >= area.x0 && x < area.x1 && y >= area.y0 && y < area.y1;
}

void canvas_clip(struct rect area)
{
    clip = rect_within(area, (struct rect){0, 0, screen.width, screen.height});
}

struct rect canvas_clipped(void)
{
    return clip;
}

void canvas_fill(struct rect area, uint32_t colour)
{
    uint64_t both = (uint64_t)colour << 32 | colour;
    area = rect_within(area, clip);
    for (int y = area.y0; y < area.y1; y++) {
        uint32_t *line = canvas_line(y) + area.x0;
        int pixels = area.x1 - area.x0, x = 0;
        for (; x + 1 < pixels; x += 2)
            *(uint64_t *)(line + x) = both;
        if (x < pixels)
            line[x] = colour;
    }
}

void canvas_shade(struct rect area)
{
    area = rect_within(area, clip);
    for (int y = area.y0; y < area.y1; y++) {
        uint32_t *line = canvas_line(y);
        for (int x = area.x0; x < area.x1; x++)
            line[x] = (line[x] >> 1) & 0x7F7F7F;
    }
}

void canvas_glyph(int x, int y, char character, uint32_t colour)
{
    struct rect cell = {x, y, x + FONT_WIDTH, y + FONT_HEIGHT};
    struct rect part = rect_within(cell, clip);
    const uint8_t *rows = font_glyph(character);
    for (int at_y = part.y0; at_y < part.y1; at_y++) {
        uint32_t *line = canvas_line(at_y);
        uint32_t row = (uint32_t)rows[at_y - y] << (part.x0 - x);
        for (int at_x = part.x0; row && at_x < part.x1; at_x++, row <<= 1)
            if (row & 0x80)
                line[at_x] = colour;
    }
}

void canvas_text(int x, int y, const char *text, uint32_t colour)
{
    for (; *text; text++, x += FONT_WIDTH)
        canvas_glyph(x, y, *text, colour);
}

void canvas_picture(struct rect area, const uint32_t *pixels)
{
    struct rect part = rect_within(area, clip);
    for (int y = part.y0; y < part.y1; y++) {
        uint32_t *line = canvas_line(y);
        const uint32_t *from = pixels + (y - area.y0) * (area.x1 - area.x0) - area.x0;
        for (int x = part.x0; x < part.x1; x++)
            line[x] = from[x];
    }
}

uint32_t colour_between(uint32_t from, uint32_t to, uint32_t step, uint32_t steps)
{
    uint32_t mixed = 0;
    for (int shift = 0; shift < 24; shift += 8) {
        uint32_t a = (from >> shift) & 0xFF, b = (to >> shift) & 0xFF;
        mixed |= ((a * (steps - step) + b * step) / steps) << shift;
    }
    return mixed;
}

/* Compare two pixels, and store those that differ. */
static void store_changed(uint32_t *to, const uint32_t *from)
{
    uint64_t pixels = *(const uint64_t *)from, differ = *(const uint64_t *)to ^ pixels;
    if (!differ)
        return;
    if (!(uint32_t)differ)
        to[1] = (uint32_t)(pixels >> 32);
    else if (!(differ >> 32))
        to[0] = (uint32_t)pixels;
    else
        *(uint64_t *)to = pixels;
}

void canvas_present(struct rect area)
{
    area = rect_within(area, (struct rect){0, 0, screen.width, screen.height});
    for (int y = area.y0; y < area.y1; y++) {
        const uint32_t *from = canvas_line(y) + area.x0, *end = from + (area.x1 - area.x0);
        uint32_t *to = screen_line(y) + area.x0;
        for (; from + 1 < end; from += 2, to += 2)
            store_changed(to, from);
        if (from < end && *to != *from)
            *to = *from;
    }
}
