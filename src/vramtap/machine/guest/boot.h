/* Boot information and port numbers, shared with the built-in VM: the same as in machine/layout.py. */
#ifndef BOOT_H
#define BOOT_H

#include <stddef.h>
#include <stdint.h>

#define BOOT_MAGIC 0x6F627476u
#define COMMAND_LINE_BYTES 0x700

struct boot_info {
    uint32_t magic;
    uint32_t size;
    uint64_t ram_bytes;
    uint64_t vram_base;
    uint64_t vram_bytes;
    uint64_t command_line;
};
_Static_assert(sizeof(struct boot_info) == 40, "layout.BootInfo");
_Static_assert(offsetof(struct boot_info, ram_bytes) == 8, "layout.BootInfo");
_Static_assert(offsetof(struct boot_info, command_line) == 32, "layout.BootInfo");

#define PORT_PS2_DATA 0x60
#define PORT_PS2_STATUS 0x64
#define PORT_RTC_INDEX 0x70
#define PORT_RTC_DATA 0x71
#define PORT_DEBUG_TEXT 0xE9
#define PORT_FRAME 0xEA
#define PORT_WAKE 0xEE
#define PORT_EXIT 0xF4
#define PORT_DISPI_INDEX 0x1CE
#define PORT_DISPI_DATA 0x1CF

#endif
