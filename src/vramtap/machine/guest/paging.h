/* Page tables of the guest: RAM one to one by large pages; the framebuffer in the upper half, by small pages.
 *
 * A tracker of dirty bits detects a changed table by the dirty bits of the entries that map the tables. The
 * tables therefore have 2 MiB of their own. Only this part of RAM is mapped by 4 KiB pages, and nothing else is
 * ever written there.
 */
#ifndef PAGING_H
#define PAGING_H

#include <stdbool.h>
#include <stdint.h>

#include "boot.h"

#define PAGE 0x1000u
#define LARGE_PAGE 0x200000u
#define TABLE_POOL 0x400000u
#define TABLE_POOL_BYTES LARGE_PAGE
#define FRAMEBUFFER_HOME 0xFFFF800000000000u
#define FRAMEBUFFER_STEP 0x40000000u
#define FRAMEBUFFER_PLACES 8u
#define ALIAS_HOME 0xFFFF808000000000u
#define ALIAS_MAX_PAGES 512u

/* Current virtual address of the video RAM; framebuffer_move changes it. */
extern uint8_t *framebuffer;
extern uint64_t framebuffer_bytes;

void paging_start(const struct boot_info *boot);

/* Map this many frames a second time, at ALIAS_HOME, and unmap what was mapped there. */
uint8_t *map_alias(uint64_t physical, uint32_t pages);
void unmap_alias(void);
uint32_t alias_pages(void);
uint64_t framebuffer_physical(uint64_t offset);

/* Move the framebuffer to another of its FRAMEBUFFER_PLACES.
 * same_tables: change one entry of a higher table; else make new tables, whose dirty bits are all clear. */
void framebuffer_move(uint32_t place, bool same_tables);

/* Map the framebuffer by 2 MiB pages, or by 4 KiB pages again. */
void framebuffer_large(bool large);
bool framebuffer_is_large(void);

/* Replace the table that maps the given 2 MiB of the framebuffer by a copy, with or without dirty bits. */
void framebuffer_retable(uint32_t which, bool keep_dirty);

#endif
