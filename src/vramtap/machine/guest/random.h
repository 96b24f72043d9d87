/* Random numbers that depend only on a seed and a frame (splitmix64: Steele, Lea, Flood 2014). */
#ifndef RANDOM_H
#define RANDOM_H

#include <stdint.h>

struct random {
    uint64_t state;
};

static inline uint64_t random_next(struct random *random)
{
    uint64_t mixed = random->state += 0x9E3779B97F4A7C15u;
    mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9u;
    mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBu;
    return mixed ^ (mixed >> 31);
}

/* Return the stream of one frame. */
static inline struct random random_of(uint64_t seed, uint64_t frame)
{
    struct random random = {seed};
    random.state = random_next(&random) ^ (frame * 0xD1342543DE82EF95u);
    random_next(&random);
    return random;
}

/* Return a nearly uniform number in [0, bound); bound > 0 and below 2^32. */
static inline uint32_t random_below(struct random *random, uint32_t bound)
{
    return (uint32_t)(((random_next(random) >> 32) * bound) >> 32);
}

#endif
