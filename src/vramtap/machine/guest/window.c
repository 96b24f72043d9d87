/* Frame of a window: title bar, edge and shadow around its content. */
#include "window.h"

#include "canvas.h"
#include "font.h"

#define TITLE_HEIGHT 22
#define EDGE 1
#define SHADOW 6
#define EDGE_COLOUR 0x4A5C6B
#define TITLE_TOP 0x33424F
#define TITLE_BOTTOM 0x263240
#define TITLE_INK 0xE6EDF2
#define BUTTON_STEP 16
#define BUTTON 8

static const uint32_t button_colours[] = {0xE0605E, 0xF2B950, 0x5FC9A5};

void window_place(struct window *window, const char *title, int x, int y, int width, int height)
{
    window->title = title;
    window->outside = (struct rect){x, y, x + width + 2 * EDGE, y + height + TITLE_HEIGHT + 2 * EDGE};
    window->inside = (struct rect){x + EDGE, y + EDGE + TITLE_HEIGHT, x + EDGE + width,
                                   y + EDGE + TITLE_HEIGHT + height};
}

void window_move(struct window *window, int x, int y)
{
    struct rect inside = window->inside;
    window_place(window, window->title, x, y, inside.x1 - inside.x0, inside.y1 - inside.y0);
}

struct rect window_title(const struct window *window)
{
    struct rect outside = window->outside;
    return (struct rect){outside.x0, outside.y0, outside.x1, window->inside.y0};
}

struct rect window_reach(const struct window *window)
{
    struct rect outside = window->outside;
    return (struct rect){outside.x0, outside.y0, outside.x1 + SHADOW, outside.y1 + SHADOW};
}

void window_paint_frame(const struct window *window)
{
    if (rect_empty(rect_within(window_reach(window), canvas_clipped())))
        return;
    struct rect out = window->outside, in = window->inside;
    canvas_shade((struct rect){out.x1, out.y0 + SHADOW, out.x1 + SHADOW, out.y1 + SHADOW});
    canvas_shade((struct rect){out.x0 + SHADOW, out.y1, out.x1, out.y1 + SHADOW});
    canvas_fill((struct rect){out.x0, out.y0, out.x1, out.y0 + EDGE}, EDGE_COLOUR);
    canvas_fill((struct rect){out.x0, out.y1 - EDGE, out.x1, out.y1}, EDGE_COLOUR);
    canvas_fill((struct rect){out.x0, out.y0, out.x0 + EDGE, out.y1}, EDGE_COLOUR);
    canvas_fill((struct rect){out.x1 - EDGE, out.y0, out.x1, out.y1}, EDGE_COLOUR);
    for (int i = 0; i < TITLE_HEIGHT; i++) {
        uint32_t colour = colour_between(TITLE_TOP, TITLE_BOTTOM, (uint32_t)i, TITLE_HEIGHT);
        canvas_fill((struct rect){in.x0, out.y0 + EDGE + i, in.x1, out.y0 + EDGE + i + 1}, colour);
    }
    canvas_text(in.x0 + 8, out.y0 + EDGE + (TITLE_HEIGHT - FONT_HEIGHT) / 2, window->title, TITLE_INK);
    for (int i = 0; i < 3; i++) {
        int x = in.x1 - (3 - i) * BUTTON_STEP, y = out.y0 + EDGE + (TITLE_HEIGHT - BUTTON) / 2;
        canvas_fill((struct rect){x, y + 1, x + BUTTON, y + BUTTON - 1}, button_colours[i]);
        canvas_fill((struct rect){x + 1, y, x + BUTTON - 1, y + BUTTON}, button_colours[i]);
    }
}
