/* The display: modes through the Bochs DISPI registers, and where the picture lies in the video RAM. */
#ifndef SCREEN_H
#define SCREEN_H

#include <stdbool.h>
#include <stdint.h>

struct rect {
    int x0, y0, x1, y1; /* half-open */
};

struct screen {
    int width, height;
    uint32_t stride;     /* pixels from line to line */
    uint32_t draw_first; /* the line in the video RAM that drawing takes for the first */
};

extern struct screen screen;

void screen_start(uint64_t vram_bytes, uint64_t ram_bytes);

/* Set a mode of 32 bits a pixel; dies when the display does not take it. */
void screen_mode(uint32_t width, uint32_t height, bool clear);

/* Whether video RAM and canvas have room for it. */
bool screen_fits(uint32_t width, uint32_t height, uint32_t pages);

/* Show the video RAM from this line on. */
void screen_pan(uint32_t first_line);

/* Pixel x = 0 of line y, in the framebuffer as it is mapped now. */
uint32_t *screen_line(int y);

/* Straight into the framebuffer; the part of it that lies on the screen. */
void screen_fill(struct rect area, uint32_t colour);

/* Nonsense into the registers, after this frame. */
void screen_garbage(uint32_t n);

#endif
