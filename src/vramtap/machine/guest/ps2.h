/* Keyboard and mouse behind the i8042: codes in, characters and movements out. */
#ifndef PS2_H
#define PS2_H

#include <stdbool.h>

enum ps2_kind { PS2_NOTHING, PS2_CHARACTER, PS2_MOUSE };

struct ps2_event {
    enum ps2_kind kind;
    char character;  /* printable, '\n', '\b' or '\t' */
    int right, down; /* pixels, as the mouse says, without acceleration */
    bool left_button;
};

void ps2_start(void);

/* The next thing that happened; PS2_NOTHING when the controller has no more bytes. */
struct ps2_event ps2_next(void);

#endif
