/* A window's frame: title bar, edge and shadow around what is inside. */
#ifndef WINDOW_H
#define WINDOW_H

#include "screen.h"

struct window {
    const char *title;
    struct rect outside, inside;
};

/* Its left upper corner, and the size of what is inside. */
void window_place(struct window *window, const char *title, int x, int y, int width, int height);
void window_move(struct window *window, int x, int y);

/* Where it can be taken hold of. */
struct rect window_title(const struct window *window);

/* With its shadow: all that changes when it goes. */
struct rect window_reach(const struct window *window);

/* All but what is inside. */
void window_paint_frame(const struct window *window);

#endif
