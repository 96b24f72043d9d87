/* Picture in the window that can be dragged: the sun behind two ranges of hills. */
#ifndef PICTURE_H
#define PICTURE_H

#include <stdint.h>

#define PICTURE_MAX_WIDTH 320
#define PICTURE_MAX_HEIGHT 200

/* Return the pixels row by row. The size must be within the maxima. */
const uint32_t *picture(int width, int height);

#endif
