/* Main: from the boot information to a workload that runs for ever. */
#include <stddef.h>

#include "boot.h"
#include "debug.h"
#include "desktop.h"
#include "faults.h"
#include "io.h"
#include "options.h"
#include "paging.h"
#include "ps2.h"
#include "rtc.h"
#include "screen.h"
#include "workloads.h"

/* The build compares this digest with that of the sources, to decide whether to compile again. */
__attribute__((used, section(".digest"))) static const char digest[] = "vramtap guest source " GUEST_DIGEST;

const struct workload workloads[] = {
    {"desktop", NULL, 0, true, true},
    {"idle", NULL, 0, true, false},
    {"caret", frame_caret, 2, true, false},
    {"typing", frame_typing, 0, false, false},
    {"scroll", frame_scroll, 0, false, false},
    {"drag", frame_drag, 0, false, false},
    {"video-window", frame_video_window, 0, false, false},
    {"video-full", frame_video_full, 0, false, false},
    {"random", frame_random, 0, false, false},
    {"flip", frame_flip, 0, false, false},
    {"modes", frame_modes, 0, false, false},
    {"alias", frame_alias, 0, false, false},
    {"remap", frame_remap, 0, false, false},
    {"large", frame_large, 0, false, false},
    {NULL, NULL, 0, false, false},
};
const struct workload random_program = {"program", frame_program, 0, false, false};

/* Report a drawn frame; stop if it was the last one. */
static void finish(uint32_t n)
{
    outl(PORT_FRAME, n);
    if (options.frames && n >= options.frames) {
        rtc_stop();
        rest();
    }
    if (options.dispi_garbage)
        screen_garbage(n);
    if (n == 1 && options.fault) {
        outb(PORT_WAKE, 1);
        halt();
        crash(options.fault);
    }
}

/* Halt at least once, so that the VM can hold the guest between two frames. */
static void wait_for_next_frame(void)
{
    if (options.hz == 0) {
        outb(PORT_WAKE, 1);
        halt();
        return;
    }
    do {
        halt();
        if (options.workload->interactive && desktop_input())
            desktop_show();
    } while (!(rtc_flags() & RTC_PERIODIC));
}

/* Draw one frame for each tick. */
static void run_steady(void)
{
    if (options.hz)
        rtc_start(options.hz, false);
    for (uint32_t n = 1;; n++) {
        options.workload->frame(n);
        finish(n);
        wait_for_next_frame();
    }
}

/* Draw one frame whenever something has changed. */
static void run_by_events(void)
{
    if (options.workload->clocked) {
        rtc_start(2, true);
        desktop_clock(rtc_time());
        desktop_show();
    }
    finish(1);
    for (uint32_t n = 2;;) {
        halt();
        desktop_input();
        if (options.workload->clocked) {
            uint8_t flags = rtc_flags();
            if (flags & RTC_PERIODIC)
                desktop_blink();
            if (flags & RTC_UPDATED)
                desktop_clock(rtc_time());
        }
        if (desktop_show())
            finish(n++);
    }
}

static void check(const struct boot_info *boot)
{
    if (boot->magic != BOOT_MAGIC || boot->size < sizeof *boot)
        die("started without boot information", NULL);
    bool fits = boot->ram_bytes >= COMMAND_LINE_BYTES;
    if (!fits || boot->command_line > boot->ram_bytes - COMMAND_LINE_BYTES)
        die("the command line is not in RAM", NULL);
}

_Noreturn void guest_main(const struct boot_info *boot)
{
    check(boot);
    options_parse((const char *)boot->command_line);
    paging_start(boot);
    screen_start(boot->vram_bytes, boot->ram_bytes);
    screen_mode(options.width, options.height, true);
    ps2_start();
    desktop_start();
    desktop_show();
    say("vramtap guest: ");
    say(options.workload->name);
    say(", ");
    say_number(options.width);
    say("x");
    say_number(options.height);
    say(", seed ");
    say_number(options.seed);
    say("\n");
    if (options.workload->frame)
        run_steady();
    run_by_events();
    rest();
}
