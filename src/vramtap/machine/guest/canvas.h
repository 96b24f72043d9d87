/* Canvas: a picture in RAM where the desktop is composed. Only changed pixels are copied to the screen. */
#ifndef CANVAS_H
#define CANVAS_H

#include <stdbool.h>
#include <stdint.h>

#include "screen.h"

#define CANVAS 0x1000000u

/* Return the intersection, which may be empty. */
struct rect rect_within(struct rect one, struct rect other);
bool rect_empty(struct rect area);
bool rect_has(struct rect area, int x, int y);

/* Limit all drawing to this area. */
void canvas_clip(struct rect area);
struct rect canvas_clipped(void);

void canvas_fill(struct rect area, uint32_t colour);
/* Halve the brightness. */
void canvas_shade(struct rect area);
void canvas_glyph(int x, int y, char character, uint32_t colour);
void canvas_text(int x, int y, const char *text, uint32_t colour);
/* Copy (x1 - x0) * (y1 - y0) pixels, row by row. */
void canvas_picture(struct rect area, const uint32_t *pixels);

/* Mix two colours: step of steps on the way from one to the other. */
uint32_t colour_between(uint32_t from, uint32_t to, uint32_t step, uint32_t steps);

/* Copy the changed pixels of this area to the framebuffer; equal pixels are not written. */
void canvas_present(struct rect area);

#endif
