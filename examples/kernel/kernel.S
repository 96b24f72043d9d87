# A bare-metal kernel for the built-in VM: sets a mode, paints a gradient, and stops.
#
# The machine enters it in 64-bit mode with the first 4 GiB mapped to itself; RDI points to boot_info. See
# docs/machine.md for the ports and the memory.

        .intel_syntax noprefix
        .set    WIDTH, 256
        .set    HEIGHT, 192
        .set    DISPI_INDEX, 0x1ce
        .set    DISPI_DATA, 0x1cf
        .set    BOOT_VRAM_BASE, 16      # offset of vram_base in boot_info

        .macro  dispi register, value
        mov     dx, DISPI_INDEX
        mov     ax, \register
        out     dx, ax
        mov     dx, DISPI_DATA
        mov     ax, \value
        out     dx, ax
        .endm

        .globl  _start
_start: dispi   1, WIDTH                # XRES
        dispi   2, HEIGHT               # YRES
        dispi   3, 32                   # BPP
        dispi   4, 0x41                 # ENABLE: on, linear framebuffer

        mov     rdi, [rdi + BOOT_VRAM_BASE]
        xor     ecx, ecx                # row
row:    xor     ebx, ebx                # column
column: mov     eax, ebx                # blue grows to the right
        mov     edx, ecx
        shl     edx, 16                 # red grows downward
        or      eax, edx
        mov     [rdi], eax              # 0x00RRGGBB
        add     rdi, 4
        inc     ebx
        cmp     ebx, WIDTH
        jb      column
        inc     ecx
        cmp     ecx, HEIGHT
        jb      row

halt:   hlt                             # no device ever has anything for this kernel
        jmp     halt
