/*
 * Guest in one sector: sets 800x600 with 32 bits a pixel through the VGA BIOS, finds the framebuffer in BAR 0
 * of PCI device 00:02.0, and then writes single random pixels for ever.
 *
 * VBE 3.0, function 02h; mode 143h is defined by QEMU's VGA BIOS (vgasrc/bochsvga.c of SeaBIOS).
 */
    .equ PIXELS, 800 * 600
    .equ VGA_BAR0, 0x80001010       /* configuration address: enabled, device 2, register 0x10 */

    .code16
    .globl _start
_start:
    cli
    xor %ax, %ax
    mov %ax, %ds
    mov %ax, %ss
    mov $0x7c00, %sp
    sti
    mov $0x4f02, %ax
    mov $0x4143, %bx                /* bit 14: linear */
    int $0x10
    cli
    mov $0xcf8, %dx
    mov $VGA_BAR0, %eax
    out %eax, %dx
    mov $0xcfc, %dx
    in %dx, %eax
    and $0xfffffff0, %eax
    mov %eax, %esi
    lgdt table
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmp $8, $paint

    .code32
paint:
    mov $16, %ax
    mov %ax, %ds
    mov $12345, %ebx                /* state of a linear congruential generator */
next:
    imul $1103515245, %ebx
    add $12345, %ebx
    mov %ebx, %eax
    shr $8, %eax
    xor %edx, %edx
    mov $PIXELS, %ecx
    div %ecx
    mov %ebx, %eax
    and $0xffffff, %eax
    mov %eax, (%esi, %edx, 4)
    mov $200, %ecx                  /* a pause, to limit the rate of writes */
wait:
    dec %ecx
    jnz wait
    jmp next

    .align 8
descriptors:
    .quad 0
    .quad 0x00cf9a000000ffff        /* code and data, flat, 4 GiB */
    .quad 0x00cf92000000ffff
table:
    .word . - descriptors - 1
    .long descriptors

    .org 510
    .word 0xaa55
