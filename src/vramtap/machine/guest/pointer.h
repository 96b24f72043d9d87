/* The mouse pointer: moved pixel by pixel, stopped at the edges. */
#ifndef POINTER_H
#define POINTER_H

#include "screen.h"

void pointer_place(int x, int y);
void pointer_move(int right, int down);
int pointer_x(void);
int pointer_y(void);

/* Calls for where it was and where it is, if it has moved since the last call. */
void pointer_changes(void (*changed)(struct rect));
void pointer_paint(void);

#endif
