/* The desktop: a backdrop, a bar with a clock, a console, a window that can be dragged, a mouse pointer. */
#ifndef DESKTOP_H
#define DESKTOP_H

#include <stdbool.h>

#include "rtc.h"
#include "screen.h"

/* As after booting, for the mode that is set: the pointer at (width / 2, height / 2). */
void desktop_start(void);

/* Bring what has changed to the screen; whether there was anything. */
bool desktop_show(void);

/* Take what keyboard and mouse have to say; whether they had anything. */
bool desktop_input(void);

void desktop_blink(void);
void desktop_clock(struct time now);
void desktop_type(char character);
void desktop_print(const char *text);

/* The window that can be dragged: how far its left upper corner can go, where it is, and moving it, with
 * the pointer on its title bar. */
struct rect desktop_drag_range(void);
void desktop_drag_to(int x, int y);

#endif
