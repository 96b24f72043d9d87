/* Picture in the window that can be dragged: the sun behind two ranges of hills. */
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
#define GLOW_REACH 12 /* radii of the sun, squared */

static uint32_t pixels[PICTURE_MAX_WIDTH * PICTURE_MAX_HEIGHT];

/* Return the line where a range of hills begins in column x. */
static int ridge(int x, int width, int height, int level, int roughness, int phase)
{
    int at = x * DETAIL / width + phase;
    int rise = wave(at) + wave(at * 3 + 40) / 2 + wave(at * 7 + 90) / 5;
    return height * level / 100 - rise * height * roughness / (100 * WAVE_HEIGHT);
}

struct sun {
    int x, y, radius;
};

static uint32_t sky(int x, int y, uint32_t colour, const struct sun *sun)
{
    int right = x - sun->x, down = y - sun->y;
    int distance = right * right + down * down, near = sun->radius * sun->radius, far = GLOW_REACH * near;
    if (distance <= near)
        return SUN;
    if (distance >= far)
        return colour;
    /* Fade with the square, so that the glow ends without a visible edge. */
    uint32_t glow = (uint32_t)(far - distance) * FADE / (uint32_t)far;
    return colour_between(colour, GLOW, glow * glow / FADE, FADE);
}

const uint32_t *picture(int width, int height)
{
    static int far_hills[PICTURE_MAX_WIDTH], near_hills[PICTURE_MAX_WIDTH];
    struct sun sun = {width * 3 / 5, height * 11 / 25, height / 6};
    for (int x = 0; x < width; x++) {
        far_hills[x] = ridge(x, width, height, 66, 9, 30);
        near_hills[x] = ridge(x, width, height, 83, 7, 150);
    }
    uint32_t *pixel = pixels;
    for (int y = 0; y < height; y++) {
        uint32_t colour = colour_between(SKY_TOP, SKY_BOTTOM, (uint32_t)y, (uint32_t)height);
        for (int x = 0; x < width; x++)
            *pixel++ = y >= near_hills[x]  ? NEAR_HILLS
                       : y >= far_hills[x] ? FAR_HILLS
                                           : sky(x, y, colour, &sun);
    }
    return pixels;
}
