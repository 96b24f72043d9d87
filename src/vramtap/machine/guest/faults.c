/* Deliberate crashes, to test how the VM reports them. */
#include "faults.h"

#include <stdint.h>

#include "debug.h"
#include "paging.h"

/* Not mapped. */
#define NOWHERE 0xFFFFDEADBEEF0000u
/* Between RAM and video RAM: neither memory nor a device. */
#define HOLE 0xB0000000u

_Noreturn void crash(enum fault fault)
{
    static const struct __attribute__((packed)) {
        uint16_t limit;
        uint64_t base;
    } no_handlers = {0, 0};

    switch (fault) {
    case FAULT_UD:
        __asm__ volatile("ud2");
        break;
    case FAULT_PF:
        *(volatile uint32_t *)NOWHERE = 1;
        break;
    case FAULT_DIV:
        __asm__ volatile("xorl %%ecx, %%ecx; divl %%ecx" : : : "eax", "ecx", "edx", "cc");
        break;
    case FAULT_TRIPLE:
        /* The breakpoint and the faults that follow all lack a handler. */
        __asm__ volatile("lidt %0; int3" : : "m"(no_handlers));
        break;
    case FAULT_LOOP:
        __asm__ volatile("cli; 1: jmp 1b");
        break;
    case FAULT_HOLE:
        *(volatile uint32_t *)map_alias(HOLE, 1) = 1;
        break;
    case FAULT_NONE:
        break;
    }
    die("a fault did nothing", 0);
}
