# Writes and reads of the frame buffer, once as 32-bit and once as 64-bit code.
#
# EBX: operation. ESI: address of argument 0, an offset into the frame buffer. ECX, EDX, EDI: arguments 1 to 3.

    .macro DATA_COMMANDS bits
data\bits:
    # What a change of mode leaves in the upper halves is not defined.
    movl %esp, %esp
    movl %ecx, %ecx
    movl %edx, %edx
    movl %esi, %esi
    movl %edi, %edi
    cmpl $OP_FILL, %ebx
    je fill\bits
    cmpl $OP_STRIDED, %ebx
    je strided\bits
    cmpl $OP_READ, %ebx
    je read\bits
    cmpl $OP_SCATTER, %ebx
    je scatter\bits
    cmpl $OP_RECT, %ebx
    je rect\bits
    incl SHARED+UNKNOWN
end\bits:
    lretl

fill\bits:                       # arg1 dwords of value arg2
    movl %esi, %edi
    movl %edx, %eax
    rep stosl
    jmp end\bits

strided\bits:                    # arg1 dwords of value arg2, arg3 bytes apart
    jecxz end\bits
1:  movl %edx, (%esi)
    addl %edi, %esi
    loop 1b
    jmp end\bits

read\bits:                       # arg1 dwords; answers their sum
    xorl %eax, %eax
    jecxz 2f
1:  addl (%esi), %eax
    addl $4, %esi
    loop 1b
2:  movl %eax, SHARED+RESULT
    jmp end\bits

    # arg1 single dwords at pseudo-random places of the arg2 dwords from here, each its own random number.
    # The generator is Marsaglia's xorshift32 (13, 17, 5), seeded with arg3; answers its last state.
scatter\bits:
    movl %edx, %ebx
    jecxz 2f
1:  movl %edi, %eax
    shll $13, %eax
    xorl %eax, %edi
    movl %edi, %eax
    shrl $17, %eax
    xorl %eax, %edi
    movl %edi, %eax
    shll $5, %eax
    xorl %eax, %edi
    movl %edi, %eax
    mull %ebx                    # upper half of state * dwords: a place in them, without a division
    movl %edi, (%esi,%edx,4)
    loop 1b
2:  movl %edi, SHARED+RESULT
    jmp end\bits

rect\bits:                       # arg1: dwords a row | rows << 16; value arg2; arg3 bytes from row to row
    movl %edx, %eax
    movl %edi, %edx
    movl %ecx, %ebx              # counts the rows down in its upper half
1:  subl $0x10000, %ebx
    jb end\bits
    movl %esi, %edi
    movzwl %bx, %ecx
    rep stosl
    addl %edx, %esi
    jmp 1b
    .endm

    .code32
    DATA_COMMANDS 32
    .code64
    DATA_COMMANDS 64
    .code32
