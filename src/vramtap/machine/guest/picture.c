/* The picture in the window that can be dragged: the sun behind two ranges of hills. */
#include "picture.h"

#include "canvas.h"
#include "wave.h"

#define SKY_TOP 0x27356B
#define SKY_BOTTOM 0xF3A66B
#define SUN 0xFFF0C4
#define GLOW 0xFFC98A
#define FAR_HILLS 0x6A4A74
#define NEAR_HILLS 0x2C2745
#define DETAIL 240
#define FADE 1024u

static uint32_t pixels[PICTURE_MAX_PIXELS];

/* Lines below the top where a range of hills begins at column x. */
static int ridge(int x, int width, int height, int level, int roughness, int phase)
{
    int at = x * DETAIL / width + phase;
    int rise = wave(at) + wave(at * 3 + 40) / 2 + wave(at * 7 + 90) / 5;
    return height * level / 100 - rise * height * roughness / (100 * WAVE_HEIGHT);
}

static uint32_t sky(int x, int y, int width, int height)
{
    int radius = height / 6, right = x - width * 3 / 5, down = y - height * 11 / 25;
    int distance = right * right + down * down, reach = 12 * radius * radius;
    if (distance <= radius * radius)
        return SUN;
    uint32_t colour = colour_between(SKY_TOP, SKY_BOTTOM, (uint32_t)y, (uint32_t)height);
    if (distance >= reach)
        return colour;
    /* Fades with the square, so that no edge is seen where it ends. */
    uint32_t glow = (uint32_t)(reach - distance) * FADE / (uint32_t)reach;
    return colour_between(colour, GLOW, glow * glow / FADE, FADE);
}

const uint32_t *picture(int width, int height)
{
    for (int x = 0; x < width; x++) {
        int far = ridge(x, width, height, 66, 9, 30), near = ridge(x, width, height, 83, 7, 150);
        for (int y = 0; y < height; y++)
            pixels[y * width + x] = y >= near  ? NEAR_HILLS
                                    : y >= far ? FAR_HILLS
                                               : sky(x, y, width, height);
    }
    return pixels;
}
