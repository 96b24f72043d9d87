/* Console: a grid of characters with a caret, which knows which cells have changed. */
#ifndef CONSOLE_H
#define CONSOLE_H

#include <stdbool.h>

#include "screen.h"

#define CONSOLE_MAX_COLUMNS 80
#define CONSOLE_MAX_ROWS 25
#define CONSOLE_PAPER 0x10171F

/* Start an empty console at this place on the screen. */
void console_start(int x, int y, int columns, int rows);

/* Print a character: printable, '\n' or '\t'. Wraps and scrolls. */
void console_put(char character);
void console_print(const char *text);

/* Echo a typed character: '\b' deletes one, '\n' prints a new prompt. */
void console_type(char character);

void console_show_caret(bool shown);
bool console_caret_is_shown(void);

/* Call back for each rectangle of cells that has changed since the last call. */
void console_changes(void (*changed)(struct rect));

/* Paint the part inside the canvas's clip. */
void console_paint(void);

#endif
