# What the guest and dom0 share, and where the guest keeps things. tests/xen/dom0/driver_page.py says the same.

# The shared pages: guest frames 0x10 to 0x13. Dwords, little-endian.
    .set SHARED, 0x10000
    .set MAGIC, 0x00             # 'XFB2', written last: the guest takes commands from then on
    .set LFB, 0x04               # physical address of the linear frame buffer
    .set WIDTH, 0x08             # pixels
    .set HEIGHT, 0x0c            # pixels
    .set PITCH, 0x10             # bytes
    .set BPP, 0x14               # bits a pixel; 0: text mode
    .set VBE_RESULT, 0x18        # 0x4f: the BIOS set the first mode
    .set HEARTBEAT, 0x1c         # rises while no command waits
    .set SEEN_CR0, 0x20          # the control registers after the last control command
    .set SEEN_CR3, 0x24
    .set SEEN_CR4, 0x28
    .set SEEN_EFER, 0x2c
    .set HEAD, 0x30              # commands ever queued; dom0 writes it, the guest does not
    .set TAIL, 0x34              # commands ever done; the guest writes it, dom0 does not
    .set PAGING, 0x38            # paging mode, see paging.S
    .set UNKNOWN, 0x3c           # commands that were none
    .set RESULT, 0x40            # what the last command answers, if it answers anything
    .set KEYS, 0x44              # bytes ever had from the keyboard
    .set MOUSE, 0x48             # bytes ever had from the mouse
    .set FAULTED, 0x4c           # 1: an exception ended the guest; the next five say which
    .set FAULT_CR2, 0x50
    .set FAULT_STACK, 0x54       # four words from the top of the stack
    .set X_OFFSET, 0x64          # the scanout's first pixel in the virtual screen
    .set Y_OFFSET, 0x68
    .set KEY_RING, 0x100         # 256 bytes each, at the count modulo 256
    .set MOUSE_RING, 0x200
    .set QUEUE, 0x1000           # 512 commands of six dwords: operation and five arguments
    .set QUEUE_MASK, 511
    .set COMMAND_BYTES, 24

# The guest's own memory below the boot sector.
    .set VBE_INFO, 0x5000
    .set IDT32, 0x6000
    .set IDT64, 0x6800
    .set STACK, 0x7c00

# Selectors, see gdt in guest.S
    .set CODE32, 0x08
    .set DATA, 0x10
    .set CODE64, 0x18
    .set CODE16, 0x20
    .set DATA16, 0x28

    .set ALIAS, 0x40000000       # linear address of the frame buffer's second mapping

# Operations. Below OP_CONTROL: writes and reads of the frame buffer, in data.S.
    .set OP_FILL, 1
    .set OP_STRIDED, 2
    .set OP_READ, 3
    .set OP_SCATTER, 4
    .set OP_RECT, 5
    .set OP_CONTROL, 16
