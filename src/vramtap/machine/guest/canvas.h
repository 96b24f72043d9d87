/* A picture in RAM that the desktop is composed in, and its way to the framebuffer: only what differs. */
#ifndef CANVAS_H
#define CANVAS_H

#include <stdbool.h>
#include <stdint.h>

#include "screen.h"

#define CANVAS 0x1000000u

/* Empty when they do not meet. */
struct rect rect_within(struct rect one, struct rect other);
bool rect_empty(struct rect area);
bool rect_has(struct rect area, int x, int y);

/* From here on nothing outside is touched. */
void canvas_clip(struct rect area);
struct rect canvas_clipped(void);

void canvas_fill(struct rect area, uint32_t colour);
/* Half as bright. */
void canvas_shade(struct rect area);
void canvas_glyph(int x, int y, char character, uint32_t colour);
void canvas_text(int x, int y, const char *text, uint32_t colour);
/* pixels: (x1 - x0) * (y1 - y0) of them. */
void canvas_picture(struct rect area, const uint32_t *pixels);

/* Colours from one to the other: step of steps. */
uint32_t colour_between(uint32_t from, uint32_t to, uint32_t step, uint32_t steps);

/* This part of the canvas goes to the framebuffer; pixels that are as they should be are not touched. */
void canvas_present(struct rect area);

#endif
