/* Desktop: a backdrop, a bar with a clock, a console, a window that can be dragged, a mouse pointer. */
#ifndef DESKTOP_H
#define DESKTOP_H

#include <stdbool.h>

#include "rtc.h"
#include "screen.h"

/* Start a fresh desktop in the current mode, with the pointer at (width / 2, height / 2). */
void desktop_start(void);

/* Draw what has changed; return whether anything had. */
bool desktop_show(void);

/* Process input from keyboard and mouse; return whether there was any. */
bool desktop_input(void);

void desktop_blink(void);
void desktop_clock(struct time now);
void desktop_type(char character);
void desktop_print(const char *text);

/* The window that can be dragged: the range of its top-left corner, and moving it with the pointer on its
 * title bar. */
struct rect desktop_drag_range(void);
void desktop_drag_to(int x, int y);

#endif
