# Boots Linux, which dom0 puts into this machine's memory: a boot sector that says what the BIOS knows, waits
# on the BIOS's text screen, then sets the mode for vesafb and enters the kernel.
#
# No disk is read and nothing is unpacked here: by the BIOS and the kernel's own loader both take an emulated
# guest over a minute. What dom0 writes besides: tests/xen/dom0/driver_loader.py, which has these places too.
#
# Sources: kernel 6.1, Documentation/x86/boot.rst, "64-bit Boot Protocol", and arch/x86/kernel/head_64.S; ACPI 6.5,
# 15.1 (INT 15h, E820h); VBE 3.0 (modes); Intel SDM volume 3, chapter 9 (mode switching).

    .set SHARED_SEGMENT, 0x1000  # one page at 0x10000; guest frame 0x10
    .set MAGIC, 0x00             # 'XLL1', written last: dom0 may look and write from then on
    .set GO, 0x04                # dom0 writes 1: all is in place
    .set E820_ENTRIES, 0x08
    .set VBE_RESULT, 0x0c        # 0x4f: the BIOS set the mode
    .set MODE_INFO, 0x100        # 256 bytes, as VBE function 1 gives them
    .set E820, 0x400             # 20 bytes each
    .set PML4, 0x11000           # dom0's: the first GiB, each address as itself
    .set BOOT_PARAMS, 0x14000    # dom0's
    .set KERNEL, 0x1000000       # dom0's
    .set MODE, 0x142             # 640x480x32 of SeaBIOS's VGA BIOS

    .set CODE32, 0x08
    .set CODE64, 0x10            # the protocol's __BOOT_CS
    .set DATA, 0x18              # and __BOOT_DS
    .set EFER, 0xc0000080

    .code16
    .globl _start
_start:
    cli
    xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %ss
    movw $0x7c00, %sp
    movw $SHARED_SEGMENT, %ax
    movw %ax, %es
    cld
    xorw %di, %di
    xorw %ax, %ax
    movw $0x800, %cx
    rep stosw
    sti

    xorl %ebx, %ebx
    movw $E820, %di
1:  movl $0xe820, %eax
    movl $0x534d4150, %edx       # 'SMAP'
    movl $20, %ecx
    int $0x15
    jc 2f
    addw $20, %di
    incl %es:E820_ENTRIES
    testl %ebx, %ebx
    jnz 1b

2:  movw $0x4f01, %ax
    movw $MODE, %cx
    movw $MODE_INFO, %di
    int $0x10
    movl $0x314c4c58, %es:MAGIC
3:  hlt                          # until the BIOS's clock ticks, 18 times a second
    cmpl $0, %es:GO
    je 3b

    movw $0x4f02, %ax
    movw $MODE | 0x4000, %bx     # with the linear frame buffer
    int $0x10
    movw %ax, %es:VBE_RESULT
    cli
    lgdt gdt_pointer
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $protected

    .code32
protected:
    movl $DATA, %eax
    movl %eax, %ds
    movl %eax, %es
    movl %eax, %ss
    # Before EFER.LME: an exit with LME but not PAE set makes TCG 7.2 lose the paging of Xen itself.
    movl $0x20, %eax             # CR4.PAE
    movl %eax, %cr4
    movl $PML4, %eax
    movl %eax, %cr3
    movl $EFER, %ecx
    rdmsr
    orl $0x100, %eax             # EFER.LME
    wrmsr
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    ljmpl $CODE64, $long

    .code64
long:
    movl $BOOT_PARAMS, %esi
    movl $KERNEL, %eax
    jmp *%rax

    .balign 8
gdt:
    .quad 0
    .quad 0x00cf9a000000ffff
    .quad 0x00af9a000000ffff
    .quad 0x00cf92000000ffff
gdt_pointer:
    .word . - gdt - 1
    .long gdt
    .org 510
    .word 0xaa55
