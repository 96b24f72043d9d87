/* Page tables of the guest: RAM one to one by large pages; the framebuffer in the upper half, by small pages. */
#include "paging.h"

#include <stddef.h>

#include "debug.h"
#include "io.h"

/* Intel SDM volume 3A, tables 4-15 to 4-20. */
#define PRESENT 0x01u
#define WRITABLE 0x02u
#define ACCESSED 0x20u
#define DIRTY 0x40u
#define LARGE 0x80u
#define ADDRESS 0x000FFFFFFFFFF000u
#define ENTRIES 512u
#define TABLE (PRESENT | WRITABLE)

#define MIN_RAM (32u << 20)
#define MAX_RAM (1u << 30)
#define MAX_VRAM (64u << 20)

uint8_t *framebuffer;
uint64_t framebuffer_bytes;

static uint64_t vram_base;
static uint64_t *top;
static uint32_t place;
static bool large;
static uint32_t aliased;
static bool taken[TABLE_POOL_BYTES / PAGE];

static uint64_t *new_table(void)
{
    for (uint32_t i = 0; i < TABLE_POOL_BYTES / PAGE; i++)
        if (!taken[i]) {
            taken[i] = true;
            uint64_t *table = (uint64_t *)(uintptr_t)(TABLE_POOL + i * PAGE);
            for (uint32_t entry = 0; entry < ENTRIES; entry++)
                table[entry] = 0;
            return table;
        }
    die("out of page tables", NULL);
}

static void free_table(uint64_t entry)
{
    taken[((entry & ADDRESS) - TABLE_POOL) / PAGE] = false;
}

static uint64_t *table_of(uint64_t entry)
{
    return (uint64_t *)(entry & ADDRESS);
}

/* Return the table that an entry points to; make it if there is none. */
static uint64_t *below(uint64_t *entry)
{
    if (!(*entry & PRESENT))
        *entry = (uint64_t)new_table() | TABLE;
    return table_of(*entry);
}

static uint32_t slot(uint64_t address, int level)
{
    return (uint32_t)(address >> (12 + 9 * (level - 1))) & (ENTRIES - 1);
}

/* Return the directory entry for an address; each covers 2 MiB. */
static uint64_t *directory_entry(uint64_t address)
{
    uint64_t *pointers = below(&top[slot(address, 4)]);
    uint64_t *directory = below(&pointers[slot(address, 3)]);
    return &directory[slot(address, 2)];
}

static void map_small(uint64_t address, uint64_t physical, uint64_t pages)
{
    uint64_t *table = NULL;
    for (; pages; pages--, address += PAGE, physical += PAGE) {
        if (!table || !slot(address, 1))
            table = below(directory_entry(address));
        table[slot(address, 1)] = physical | PRESENT | WRITABLE;
    }
}

static uint64_t home_of(uint32_t at)
{
    return FRAMEBUFFER_HOME + (uint64_t)at * FRAMEBUFFER_STEP;
}

static void flush_tlb(void)
{
    load_cr3(read_cr3());
}

static void map_framebuffer(void)
{
    uint64_t address = home_of(place);
    if (large)
        for (uint64_t at = 0; at < framebuffer_bytes; at += LARGE_PAGE)
            *directory_entry(address + at) = (vram_base + at) | PRESENT | WRITABLE | LARGE;
    else
        map_small(address, vram_base, framebuffer_bytes / PAGE);
    framebuffer = (uint8_t *)address;
}

static void unmap_framebuffer(void)
{
    uint64_t address = home_of(place);
    for (uint64_t at = 0; at < framebuffer_bytes; at += LARGE_PAGE) {
        uint64_t *entry = directory_entry(address + at);
        uint64_t old = *entry;
        *entry = 0;
        if (!(old & LARGE))
            free_table(old);
    }
    flush_tlb();
}

void paging_start(const struct boot_info *boot)
{
    if (boot->ram_bytes < MIN_RAM || boot->ram_bytes > MAX_RAM || boot->ram_bytes % LARGE_PAGE)
        die("RAM is not 32 MiB to 1 GiB", NULL);
    if (boot->vram_bytes < LARGE_PAGE || boot->vram_bytes > MAX_VRAM || boot->vram_bytes % LARGE_PAGE)
        die("video RAM is not 2 MiB to 64 MiB", NULL);
    if (boot->vram_base < boot->ram_bytes || boot->vram_base >= 1ull << 32 || boot->vram_base % LARGE_PAGE)
        die("video RAM lies in RAM, beyond 4 GiB or across a large page", NULL);
    vram_base = boot->vram_base;
    framebuffer_bytes = boot->vram_bytes;
    top = new_table();
    for (uint64_t at = 0; at < boot->ram_bytes; at += LARGE_PAGE)
        if (at == TABLE_POOL)
            map_small(at, at, TABLE_POOL_BYTES / PAGE);
        else
            *directory_entry(at) = at | PRESENT | WRITABLE | LARGE;
    map_framebuffer();
    load_cr3((uint64_t)top);
}

uint64_t framebuffer_physical(uint64_t offset)
{
    return vram_base + offset;
}

uint8_t *map_alias(uint64_t physical, uint32_t pages)
{
    if (pages > ALIAS_MAX_PAGES)
        die("the alias is too long", NULL);
    unmap_alias();
    map_small(ALIAS_HOME, physical, pages);
    aliased = pages;
    return (uint8_t *)ALIAS_HOME;
}

void unmap_alias(void)
{
    for (uint64_t address = ALIAS_HOME; aliased; aliased--, address += PAGE) {
        table_of(*directory_entry(address))[slot(address, 1)] = 0;
        invlpg(address);
    }
}

uint32_t alias_pages(void)
{
    return aliased;
}

void framebuffer_move(uint32_t to, bool same_tables)
{
    to %= FRAMEBUFFER_PLACES;
    if (to == place)
        return;
    if (same_tables) {
        uint64_t *pointers = below(&top[slot(FRAMEBUFFER_HOME, 4)]);
        uint64_t *from = &pointers[slot(home_of(place), 3)];
        uint64_t *target = &pointers[slot(home_of(to), 3)];
        uint64_t moved = *from, spare = *target;
        *from = 0;
        flush_tlb();
        if (spare & PRESENT)
            free_table(spare);
        *target = moved;
        place = to;
        framebuffer = (uint8_t *)home_of(place);
    } else {
        unmap_framebuffer();
        place = to;
        map_framebuffer();
    }
}

void framebuffer_large(bool to_large)
{
    if (to_large == large)
        return;
    unmap_framebuffer();
    large = to_large;
    map_framebuffer();
}

bool framebuffer_is_large(void)
{
    return large;
}

void framebuffer_retable(uint32_t which, bool keep_dirty)
{
    if (large)
        return;
    uint64_t *entry = directory_entry((uint64_t)framebuffer + (uint64_t)which * LARGE_PAGE);
    uint64_t old = *entry;
    uint64_t *copy = new_table();
    uint64_t kept = keep_dirty ? ~0ull : ~(uint64_t)(DIRTY | ACCESSED);
    for (uint32_t i = 0; i < ENTRIES; i++)
        copy[i] = table_of(old)[i] & kept;
    *entry = (uint64_t)copy | TABLE;
    flush_tlb();
    free_table(old);
}
