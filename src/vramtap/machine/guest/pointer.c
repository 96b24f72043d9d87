/* Mouse pointer: one pixel a count, kept inside the screen. */
#include "pointer.h"

#include "canvas.h"

#define WIDTH 11
#define HEIGHT 17
#define OUTLINE 0x05080B
#define BODY 0xFFFFFF

/* The tip is in the top-left corner. */
static const char shape[HEIGHT][WIDTH + 1] = {
    "#          ", "##         ", "#.#        ", "#..#       ", "#...#      ", "#....#     ",
    "#.....#    ", "#......#   ", "#.......#  ", "#........# ", "#.........#", "#.....#####",
    "#..#..#    ", "#.# #..#   ", "##  #..#   ", "#    #..#  ", "     ###   ",
};

static int x, y, shown_x, shown_y;

static int clamped(int value, int bound)
{
    return value < 0 ? 0 : value >= bound ? bound - 1 : value;
}

void pointer_place(int to_x, int to_y)
{
    x = clamped(to_x, screen.width);
    y = clamped(to_y, screen.height);
}

void pointer_move(int right, int down)
{
    pointer_place(x + right, y + down);
}

int pointer_x(void)
{
    return x;
}

int pointer_y(void)
{
    return y;
}

static struct rect area_at(int at_x, int at_y)
{
    return (struct rect){at_x, at_y, at_x + WIDTH, at_y + HEIGHT};
}

void pointer_changes(void (*changed)(struct rect))
{
    if (x == shown_x && y == shown_y)
        return;
    changed(area_at(shown_x, shown_y));
    changed(area_at(x, y));
    shown_x = x;
    shown_y = y;
}

void pointer_paint(void)
{
    struct rect part = rect_within(area_at(x, y), canvas_clipped());
    for (int at_y = part.y0; at_y < part.y1; at_y++)
        for (int at_x = part.x0; at_x < part.x1; at_x++) {
            char pixel = shape[at_y - y][at_x - x];
            if (pixel != ' ')
                canvas_fill((struct rect){at_x, at_y, at_x + 1, at_y + 1}, pixel == '#' ? OUTLINE : BODY);
        }
}
