/* The picture in the window that can be dragged: the sun behind two ranges of hills. */
#ifndef PICTURE_H
#define PICTURE_H

#include <stdint.h>

#define PICTURE_MAX_PIXELS (320 * 240)

/* Once for a size; width * height is at most PICTURE_MAX_PIXELS. */
const uint32_t *picture(int width, int height);

#endif
