/* Frame of a window: title bar, edge and shadow around its content. */
#ifndef WINDOW_H
#define WINDOW_H

#include "screen.h"

struct window {
    const char *title;
    struct rect outside, inside;
};

/* Place a window by its top-left corner and the size of its content. */
void window_place(struct window *window, const char *title, int x, int y, int width, int height);
void window_move(struct window *window, int x, int y);

/* Return the title bar, by which the window can be dragged. */
struct rect window_title(const struct window *window);

/* Return the area of the window and its shadow: all that changes when it moves. */
struct rect window_reach(const struct window *window);

/* Paint everything but the content. */
void window_paint_frame(const struct window *window);

#endif
