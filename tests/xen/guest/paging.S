# Paging modes. Everything is mapped at its physical address, and the frame buffer at ALIAS again if asked.
#
# The main loop is 32-bit code throughout: in long mode it runs as compatibility code, and data.S as 64-bit.

    .set PAGING_OFF, 0
    .set PAGING_32_LARGE, 1      # 32-bit, 4 MiB pages
    .set PAGING_32_SMALL, 2      # 32-bit; the frame buffer by 4 KiB pages
    .set PAGING_PAE_LARGE, 3     # PAE, 2 MiB pages
    .set PAGING_PAE_SMALL, 4     # PAE; the frame buffer by 4 KiB pages
    .set PAGING_LONG, 5          # four levels, 2 MiB pages
    .set PAGING_LONG_SMALL, 6    # four levels; the frame buffer by 4 KiB pages
    .set PAGING_MODES, 7

    .set EFER, 0xc0000080
    .set PRESENT_WRITABLE, 3
    .set LARGE, 0x80
    .set WINDOW_PAGES, 4096      # as much of the frame buffer as goes by 4 KiB pages: 16 MiB

# Tables, in memory nothing else uses; each region starts where the former can end.
    .set PD32, 0x100000          # one page
    .set PT32, 0x101000          # 4 tables of 1,024 entries
    .set ALIAS_PT32, 0x105000
    .set PDPT_PAE, 0x110000      # entries of another form than long mode's: no writable bit
    .set PDPT_LONG, 0x111000
    .set PML4, 0x112000
    .set PD64, 0x114000          # 4 directories of 512 entries: 4 GiB
    .set PT64, 0x118000          # 8 tables of 512 entries
    .set ALIAS_PT64, 0x120000

op_paging:
    movl 4(%esi), %eax
    cmpl $PAGING_MODES, %eax
    jae 1f
    movl 8(%esi), %ecx
    movl %ecx, alias_wanted
    pushl %eax
    call paging_leave
    popl %eax
    call paging_enter
    ret
1:  incl UNKNOWN(%ebp)
    ret

# Leaves whatever mode there is; from compatibility code, clearing PG leaves long mode.
paging_leave:
    pushfl
    cli
    movl %cr0, %eax
    andl $~0x80000000, %eax
    movl %eax, %cr0
    jmp 1f
1:  lidt idt32_pointer
    movl $EFER, %ecx
    rdmsr
    andl $~0x100, %eax
    wrmsr
    xorl %eax, %eax
    movl %eax, %cr4
    movl %eax, %cr3
    movl $PAGING_OFF, PAGING(%ebp)
    popfl
    ret

# EAX: the mode to enter, from PAGING_OFF.
paging_enter:
    pushfl
    cli
    movl %eax, paging_wanted
    testl %eax, %eax
    jz 9f
    cmpl $PAGING_PAE_LARGE, %eax
    jae 1f
    call tables32
    movl $0x10, %eax             # CR4.PSE
    movl %eax, %cr4
    movl $PD32, %ebx
    jmp 2f
1:  call tables64
    # Before EFER.LME: an exit with LME but not PAE set makes TCG 7.2 lose the paging of Xen itself.
    movl $0x20, %eax             # CR4.PAE
    movl %eax, %cr4
    movl $PDPT_PAE, %ebx
    cmpl $PAGING_LONG, paging_wanted
    jb 2f
    movl $EFER, %ecx
    rdmsr
    orl $0x100, %eax             # EFER.LME
    wrmsr
    movl $PML4, %ebx
2:  movl %ebx, %cr3
    movl %cr0, %eax
    orl $0x80000000, %eax
    movl %eax, %cr0
    jmp 3f
3:  cmpl $PAGING_LONG, paging_wanted
    jb 9f
    lidt idt64_pointer
9:  movl paging_wanted, %eax
    movl %eax, PAGING(%ebp)
    popfl
    ret

tables32:
    movl $PD32, %edi
    movl $PRESENT_WRITABLE | LARGE, %eax
    movl $1024, %ecx
1:  movl %eax, (%edi)
    addl $0x400000, %eax
    addl $4, %edi
    loop 1b
    movl LFB(%ebp), %eax
    movl $PT32, %edi
    call entries32
    movl LFB(%ebp), %eax
    movl $ALIAS_PT32, %edi
    call entries32
    cmpl $PAGING_32_SMALL, paging_wanted
    jne 2f
    movl LFB(%ebp), %edi
    movl $PT32 | PRESENT_WRITABLE, %eax
    call directory32
2:  testl $1, alias_wanted
    jz 3f
    movl $ALIAS, %edi
    movl $ALIAS_PT32 | PRESENT_WRITABLE, %eax
    call directory32
3:  ret
entries32:                       # EDI: tables that map WINDOW_PAGES from physical address EAX
    orl $PRESENT_WRITABLE, %eax
    movl $WINDOW_PAGES, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $4, %edi
    loop 1b
    ret
directory32:                     # EDI: the linear address whose 16 MiB the four tables at EAX shall map
    shrl $22, %edi
    leal PD32(,%edi,4), %edi
    movl $WINDOW_PAGES / 1024, %ecx
1:  movl %eax, (%edi)
    addl $0x1000, %eax
    addl $4, %edi
    loop 1b
    ret

tables64:
    movl $PD64, %edi
    movl $PRESENT_WRITABLE | LARGE, %eax
    movl $2048, %ecx
1:  movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x200000, %eax
    addl $8, %edi
    loop 1b
    movl LFB(%ebp), %eax
    movl $PT64, %edi
    call entries64
    movl LFB(%ebp), %eax
    movl $ALIAS_PT64, %edi
    call entries64
    # Odd: PAE_LARGE and LONG; even: the modes with small pages.
    testl $1, paging_wanted
    jnz 2f
    movl LFB(%ebp), %edi
    movl $PT64 | PRESENT_WRITABLE, %eax
    call directory64
2:  testl $1, alias_wanted
    jz 3f
    movl $ALIAS, %edi
    movl $ALIAS_PT64 | PRESENT_WRITABLE, %eax
    call directory64
3:  movl $PDPT_PAE, %edi
    movl $PD64 | 1, %eax
    call four64
    movl $PDPT_LONG, %edi
    movl $PD64 | PRESENT_WRITABLE, %eax
    call four64
    movl $PML4, %edi
    movl $PDPT_LONG | PRESENT_WRITABLE, (%edi)
    movl $0, 4(%edi)
    ret
entries64:
    orl $PRESENT_WRITABLE, %eax
    movl $WINDOW_PAGES, %ecx
    jmp sequence64
directory64:
    shrl $21, %edi
    leal PD64(,%edi,8), %edi
    movl $WINDOW_PAGES / 512, %ecx
    jmp sequence64
four64:
    movl $4, %ecx
sequence64:                      # ECX entries at EDI: EAX, and a page further each
    movl %eax, (%edi)
    movl $0, 4(%edi)
    addl $0x1000, %eax
    addl $8, %edi
    loop sequence64
    ret

    .balign 4
paging_wanted: .long 0
alias_wanted: .long 0
