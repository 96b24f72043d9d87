/* Entry point: set up the guest's own stack, then call C. RDI still holds the address of struct boot_info. */
    .file "entry.S"
    .section .text.entry, "ax", @progbits
    .globl _start
_start:
    cld
    leaq stack_top(%rip), %rsp
    xorl %ebp, %ebp
    call guest_main
1:  hlt
    jmp 1b

    .section .bss.stack, "aw", @nobits
    .balign 16
    .skip 0x10000
stack_top:

    .section .note.GNU-stack, "", @progbits
