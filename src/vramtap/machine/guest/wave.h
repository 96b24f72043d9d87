/* Smooth wave without floating point: two parabolas, 256 steps a period. */
#ifndef WAVE_H
#define WAVE_H

#define WAVE_HEIGHT 64

/* Return a value in -WAVE_HEIGHT..WAVE_HEIGHT. */
static inline int wave(int step)
{
    int at = step & 127, arch = at * (128 - at) / 64;
    return step & 128 ? -arch : arch;
}

#endif
