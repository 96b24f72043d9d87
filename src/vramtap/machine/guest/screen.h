/* Display: sets modes by the Bochs DISPI registers, and draws into the video RAM. */
#ifndef SCREEN_H
#define SCREEN_H

#include <stdbool.h>
#include <stdint.h>

struct rect {
    int x0, y0, x1, y1; /* half-open */
};

struct screen {
    int width, height;
    uint32_t stride;     /* pixels from one line to the next */
    uint32_t draw_first; /* line of the video RAM where drawing begins */
};

extern struct screen screen;

void screen_start(uint64_t vram_bytes, uint64_t ram_bytes);

/* Set a mode of 32 bits a pixel; die if the display refuses it. */
void screen_mode(uint32_t width, uint32_t height, bool clear);

/* Return whether video RAM and canvas have room for this mode. */
bool screen_fits(uint32_t width, uint32_t height, uint32_t pages);

/* Show the video RAM from this line on. */
void screen_pan(uint32_t first_line);

/* Return the first pixel of line y, at the framebuffer's current address. */
uint32_t *screen_line(int y);

/* Fill the part of an area that lies on the screen, directly in the framebuffer. */
void screen_fill(struct rect area, uint32_t colour);

/* Write random values to the registers; n is the frame. */
void screen_garbage(uint32_t n);

#endif
