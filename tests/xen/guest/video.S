# Modes, page flips, text, and writes by the bank window.

# The Bochs display interface: an index at port 0x1ce, data at 0x1cf.
    .set DISPI_XRES, 1
    .set DISPI_YRES, 2
    .set DISPI_BPP, 3
    .set DISPI_ENABLE, 4
    .set DISPI_BANK, 5
    .set DISPI_VIRT_WIDTH, 6
    .set DISPI_X_OFFSET, 8
    .set DISPI_Y_OFFSET, 9
    .set TEXT, 0xb8000
    .set BANK_WINDOW, 0xa0000

    .macro DISPI_WRITE index, value
    movl $\index, %eax
    movl \value, %ecx
    call dispi_write
    .endm

op_mode:
    DISPI_WRITE DISPI_ENABLE, $0
    DISPI_WRITE DISPI_XRES, 4(%esi)
    DISPI_WRITE DISPI_YRES, 8(%esi)
    DISPI_WRITE DISPI_BPP, 12(%esi)
    movl 20(%esi), %ecx
    andl $1, %ecx
    shll $7, %ecx                # NOCLEARMEM
    orl $0x41, %ecx              # ENABLED, LFB_ENABLED
    movl $DISPI_ENABLE, %eax
    call dispi_write
    movl 16(%esi), %ecx
    jecxz 1f
    movl $DISPI_VIRT_WIDTH, %eax
    call dispi_write
1:  movl $0, X_OFFSET(%ebp)
    movl $0, Y_OFFSET(%ebp)
# The registers' own answer, not what was asked: the device model bounds both.
video_report:
    movl $DISPI_XRES, %eax
    call dispi_read
    movl %eax, WIDTH(%ebp)
    movl $DISPI_YRES, %eax
    call dispi_read
    movl %eax, HEIGHT(%ebp)
    movl $DISPI_BPP, %eax
    call dispi_read
    movl %eax, BPP(%ebp)
    movl %eax, %ecx
    addl $7, %ecx
    shrl $3, %ecx
    movl $DISPI_VIRT_WIDTH, %eax
    call dispi_read
    imull %ecx, %eax
    movl %eax, PITCH(%ebp)
    ret

op_offset:
    DISPI_WRITE DISPI_X_OFFSET, 4(%esi)
    DISPI_WRITE DISPI_Y_OFFSET, 8(%esi)
    movl $DISPI_X_OFFSET, %eax
    call dispi_read
    movl %eax, X_OFFSET(%ebp)
    movl $DISPI_Y_OFFSET, %eax
    call dispi_read
    movl %eax, Y_OFFSET(%ebp)
    ret

dispi_write:                     # EAX: index, ECX: value
    movw $0x1ce, %dx
    outw %ax, %dx
    movw %cx, %ax
    incl %edx
    outw %ax, %dx
    ret
dispi_read:                      # EAX: index, then value
    movw $0x1ce, %dx
    outw %ax, %dx
    incl %edx
    xorl %eax, %eax
    inw %dx, %ax
    ret

op_text:                         # a cell is character | attribute << 8
    movl 4(%esi), %edi
    leal TEXT(,%edi,2), %edi
    movl 8(%esi), %ecx
    movl 12(%esi), %eax
    movl 16(%esi), %edx
    jecxz 2f
1:  movw %ax, (%edi)
    addl %edx, %eax
    addl $2, %edi
    loop 1b
2:  ret

op_banked:
    movl 4(%esi), %edi
    movl 8(%esi), %ebx
1:  testl %ebx, %ebx
    jz 3f
    movl %edi, %ecx
    shrl $16, %ecx
    movl $DISPI_BANK, %eax
    call dispi_write
    pushl %edi
    movzwl %di, %edi
    movl $0x10000, %ecx
    subl %edi, %ecx
    shrl $2, %ecx                # dwords to the end of the window
    cmpl %ebx, %ecx
    jbe 2f
    movl %ebx, %ecx
2:  subl %ecx, %ebx
    addl $BANK_WINDOW, %edi
    movl 12(%esi), %eax
    pushl %ecx
    rep stosl
    popl %ecx
    popl %edi
    leal (%edi,%ecx,4), %edi
    jmp 1b
3:  ret

# By the BIOS, because text needs a font in the memory that the linear mode wrote over, and the BIOS has one.
# So the way leads out of paging, to real mode, and back to where it was.
op_text_mode:
    pushl PAGING(%ebp)
    call paging_leave
    cli
    call pic_close
    lidt idt_bios_pointer
    pushal
    ljmp $CODE16, $1f
    .code16
1:  movw $DATA16, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movl %cr0, %eax
    andl $~1, %eax
    movl %eax, %cr0
    ljmp $0, $2f
2:  xorw %ax, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    movw $3, %ax
    int $0x10
    cli
    cld
    movl %cr0, %eax
    orl $1, %eax
    movl %eax, %cr0
    ljmpl $CODE32, $3f
    .code32
3:  movw $DATA, %ax
    movw %ax, %ds
    movw %ax, %es
    movw %ax, %ss
    popal
    lidt idt32_pointer
    call pic_open
    sti
    movl $80, WIDTH(%ebp)
    movl $25, HEIGHT(%ebp)
    movl $160, PITCH(%ebp)
    movl $0, BPP(%ebp)
    popl %eax
    call paging_enter
    ret
