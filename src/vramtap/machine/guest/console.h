/* A grid of characters with a caret, that knows which of its cells look different from before. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdbool.h>

#include "screen.h"

#define CONSOLE_MAX_COLUMNS 80
#define CONSOLE_MAX_ROWS 25
#define CONSOLE_PAPER 0x10171F

/* Empty, at this place on the screen. */
void console_start(int x, int y, int columns, int rows);

/* A character of output: printable, '\n' or '\t'. Wraps and scrolls. */
void console_put(char character);
void console_print(const char *text);

/* A character somebody typed: '\b' takes one back, '\n' gives a new prompt. */
void console_type(char character);

void console_show_caret(bool shown);
bool console_caret_is_shown(void);

/* Calls for each rectangle of cells that look different from the last call. */
void console_changes(void (*changed)(struct rect));

/* The part of it inside the canvas's clip. */
void console_paint(void);

#endif
