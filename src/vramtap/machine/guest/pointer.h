/* Mouse pointer: one pixel a count, kept inside the screen. */
#ifndef POINTER_H
#define POINTER_H

#include "screen.h"

void pointer_place(int x, int y);
void pointer_move(int right, int down);
int pointer_x(void);
int pointer_y(void);

/* If the pointer has moved since the last call, call back for its old and its new area. */
void pointer_changes(void (*changed)(struct rect));
void pointer_paint(void);

#endif
