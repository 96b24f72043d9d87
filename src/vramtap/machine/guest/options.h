/* Command line: key=value words. Every key is known and every value is bounded. */
#ifndef OPTIONS_H
#define OPTIONS_H

#include <stdbool.h>
#include <stdint.h>

#define MODE_MIN_WIDTH 320
#define MODE_MIN_HEIGHT 200
#define MODE_MAX_WIDTH 2560
#define MODE_MAX_HEIGHT 1600

enum fault { FAULT_NONE, FAULT_UD, FAULT_PF, FAULT_DIV, FAULT_TRIPLE, FAULT_LOOP, FAULT_HOLE };

struct options {
    const struct workload *workload;
    uint64_t seed;
    uint32_t hz;     /* frames a second, a power of two in 2..1024; 0: as fast as possible */
    uint32_t frames; /* stop drawing after this many; 0: never */
    uint32_t width, height;
    enum fault fault;
    bool dispi_garbage;
};

extern struct options options;

/* Parse the command line; die at an unknown word. `line` is zero-terminated or COMMAND_LINE_BYTES long. */
void options_parse(const char *line);

#endif
