# Interrupts: the tick that ends a sleep, keyboard and mouse into their rings, exceptions reported.
#
# By interrupt and not by polling: a read of port 0x64 is an exit to the device model, which would then never
# be as idle as the tests of idleness want it.

    .set TICK_DIVISOR, 11932     # 100 Hz

interrupts_setup:
    movl $IDT32, %edi
    movl $(CODE32 << 16), %ebx
    movl $8, %edx
    movl $fault32, %eax
    movl $0x20, %ecx
    call gates
    movl $(CODE32 << 16) + page_fault32, IDT32+14*8
    movl $tick32, %eax
    movl $0xe0, %ecx
    call gates
    movl $(CODE32 << 16) + input32, IDT32+0x21*8
    movl $(CODE32 << 16) + input32, IDT32+0x2c*8
    movl $IDT64, %edi
    movl $(CODE64 << 16), %ebx
    movl $16, %edx
    movl $fault64, %eax
    movl $0x20, %ecx
    call gates
    movl $tick64, %eax
    movl $0x10, %ecx
    call gates
    movl $(CODE64 << 16) + input64, IDT64+0x21*16
    movl $(CODE64 << 16) + input64, IDT64+0x2c*16
    lidt idt32_pointer

    # Both 8259s to vectors 0x20 and 0x28; open are the tick, the keyboard, the cascade, and the mouse.
    movb $0x11, %al
    outb %al, $0x20
    outb %al, $0xa0
    movb $0x20, %al
    outb %al, $0x21
    movb $0x28, %al
    outb %al, $0xa1
    movb $4, %al
    outb %al, $0x21
    movb $2, %al
    outb %al, $0xa1
    movb $1, %al
    outb %al, $0x21
    outb %al, $0xa1
    call pic_open
    movl $TICK_DIVISOR, %ecx
    call tick_set

    # The 8042: both ports on with their interrupts, scan codes translated to set 1; the mouse reports (0xf4).
    movb $0xa8, %al
    call controller_write
    movb $0x60, %al
    call controller_write
    movb $0x47, %al
    call data_write
    movb $0xd4, %al
    call controller_write
    movb $0xf4, %al
    call data_write
    # Its acknowledgement is no movement; nor is what was typed at the BIOS a key for this guest.
    movl $0x400, %ecx            # there is no mouse if it has not answered by then
1:  inb $0x64, %al
    testb $1, %al
    jz 2f
    inb $0x60, %al
2:  cmpb $0xfa, %al
    je 3f
    loop 1b
3:  ret

pic_open:
    movb $0xf8, %al
    outb %al, $0x21
    movb $0xef, %al
    outb %al, $0xa1
    ret
pic_close:
    movb $0xff, %al
    outb %al, $0x21
    outb %al, $0xa1
    ret
controller_write:
    call controller_wait
    outb %al, $0x64
    ret
data_write:
    call controller_wait
    outb %al, $0x60
    ret
controller_wait:
    movb %al, %ah
1:  inb $0x64, %al
    testb $2, %al
    jnz 1b
    movb %ah, %al
    ret

op_tick:
    movl 4(%esi), %ecx
tick_set:                        # ECX: divisor. Channel 0, both bytes, rate generator.
    movb $0x34, %al
    outb %al, $0x43
    movb %cl, %al
    outb %al, $0x40
    movb %ch, %al
    outb %al, $0x40
    ret

# ECX gates of EDX bytes at EDI: an interrupt gate to EAX, with selector << 16 in EBX. All code is below
# 64 KiB, so the upper parts of the address are zero.
gates:
    pushl %eax
    orl %ebx, %eax
1:  movl %eax, (%edi)
    movl $0x8e00, 4(%edi)
    cmpl $8, %edx
    je 2f
    movl $0, 8(%edi)
    movl $0, 12(%edi)
2:  addl %edx, %edi
    loop 1b
    popl %eax
    ret

    .balign 8
idt32_pointer:
    .word 0x100 * 8 - 1
    .long IDT32
idt64_pointer:
    .word 0x30 * 16 - 1
    .long IDT64
idt_bios_pointer:
    .word 0x3ff
    .long 0

    .macro HANDLERS bits, a, b, c, sp, word, return
input\bits:
    push %\a
    push %\b
    push %\c
    inb $0x64, %al
    testb $1, %al
    jz 3f
    movb %al, %ah
    inb $0x60, %al
    testb $0x20, %ah             # the mouse's
    jnz 1f
    movl $SHARED+KEYS, %ebx
    movl $SHARED+KEY_RING, %ecx
    jmp 2f
1:  movl $SHARED+MOUSE, %ebx
    movl $SHARED+MOUSE_RING, %ecx
2:  movb (%ebx), %ah
    movb %ah, %cl                # the rings are aligned to their 256 bytes
    movb %al, (%ecx)
    incl (%ebx)
3:  movb $0x20, %al
    outb %al, $0xa0
    outb %al, $0x20
    pop %\c
    pop %\b
    pop %\a
    \return
fault\bits:
    mov %cr2, %\a
    movl %eax, SHARED+FAULT_CR2
    mov (%\sp), %\a
    movl %eax, SHARED+FAULT_STACK
    mov \word(%\sp), %\a
    movl %eax, SHARED+FAULT_STACK+4
    mov 2*\word(%\sp), %\a
    movl %eax, SHARED+FAULT_STACK+8
    mov 3*\word(%\sp), %\a
    movl %eax, SHARED+FAULT_STACK+12
    movl $1, SHARED+FAULTED
1:  hlt
    jmp 1b
    .endm

    .code32
    HANDLERS 32, eax, ebx, ecx, esp, 4, iretl
    .code64
tick64:
    pushq %rax
    movb $0x20, %al
    outb %al, $0x20
    popq %rax
    iretq
    HANDLERS 64, rax, rbx, rcx, rsp, 8, iretq
    .code32

# In PAE mode QEMU's emulated processor (TCG; seen with 7.2) sets the accessed bit of a page directory pointer,
# which no processor does: there the bit is reserved (SDM volume 3, 4.4.1). When Xen then reads an intercepted
# instruction by its own walk, it takes the bit for the guest's mistake: for a control register it answers #PF,
# for HLT and RDMSR it just returns to them, for ever. So the bits are cleared before such an instruction, and
# again in the handlers of the tick and of #PF, because any exit in between makes the processor walk anew.
# For memory that the device model emulates there is no such way, as the access itself walks: banked and text
# need another mode than PAE there.
pae_quiet:
    cmpl $PAGING_PAE_LARGE, SHARED+PAGING
    jb 1f
    cmpl $PAGING_PAE_SMALL, SHARED+PAGING
    ja 1f
    .rept 2                      # the first round's own walks set some again
    andl $~0x20, PDPT_PAE
    andl $~0x20, PDPT_PAE+8
    andl $~0x20, PDPT_PAE+16
    andl $~0x20, PDPT_PAE+24
    .endr
1:  ret

tick32:
    pushl %eax
    movb $0x20, %al
    outb %al, $0x20
    movl 4(%esp), %eax
    movb (%eax), %al             # walk to where it returns to now, not after clearing
    call pae_quiet
    popl %eax
    iretl

page_fault32:
    pushl %eax
    testb $8, 4(%esp)            # error code: reserved bit
    jz 1f
    incb retries
    js 1f
    movl 8(%esp), %eax
    movb (%eax), %al
    call pae_quiet
    popl %eax
    addl $4, %esp
    iretl
1:  popl %eax
    jmp fault32
retries: .byte 0                 # since the main loop last went round
