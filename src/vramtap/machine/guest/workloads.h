/* Workloads, by name. */
#ifndef WORKLOADS_H
#define WORKLOADS_H

#include <stdbool.h>
#include <stdint.h>

struct workload {
    const char *name;
    /* Draws frame n (from 1), determined by options.seed and n alone. NULL: it draws when something happens. */
    void (*frame)(uint32_t n);
    uint32_t default_hz; /* 0: the guest's default */
    bool interactive;    /* it reacts to keyboard and mouse */
    bool clocked;        /* caret and clock follow the RTC */
};

/* The first is the default; the last has no name. */
extern const struct workload workloads[];
extern const struct workload random_program;

/* pictures.c: the mapping stays. */
void frame_caret(uint32_t n);
void frame_typing(uint32_t n);
void frame_scroll(uint32_t n);
void frame_drag(uint32_t n);
void frame_video_window(uint32_t n);
void frame_video_full(uint32_t n);
void frame_random(uint32_t n);
void frame_flip(uint32_t n);
void frame_modes(uint32_t n);

/* mappings.c: the mapping changes, too. */
void frame_alias(uint32_t n);
void frame_remap(uint32_t n);
void frame_large(uint32_t n);

/* program.c */
void frame_program(uint32_t n);

#endif
