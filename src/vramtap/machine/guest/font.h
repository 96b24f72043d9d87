/* Font: printable ASCII, 8 by 16. */
#ifndef FONT_H
#define FONT_H

#include <stdint.h>

#define FONT_WIDTH 8
#define FONT_HEIGHT 16

/* Return one byte for each row from the top, leftmost pixel in bit 7. Not printable: a blank. */
const uint8_t *font_glyph(char character);

#endif
