/* Keyboard and mouse behind the i8042: turns scan codes into characters and motions. */
#ifndef PS2_H
#define PS2_H

#include <stdbool.h>

enum ps2_kind { PS2_NOTHING, PS2_CHARACTER, PS2_MOUSE };

struct ps2_event {
    enum ps2_kind kind;
    char character;  /* printable, '\n', '\b' or '\t' */
    int right, down; /* pixels, without acceleration */
    bool left_button;
};

void ps2_start(void);

/* Return the next event; PS2_NOTHING if the controller has no more bytes. */
struct ps2_event ps2_next(void);

#endif
