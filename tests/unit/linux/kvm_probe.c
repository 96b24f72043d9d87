/* Print the kernel headers' value of every size, offset and number in vramtap.linux.kvm_abi. */
#include <linux/kvm.h>
#include <stddef.h>
#include <stdio.h>

#define SIZE(type, ours) printf("sizeof %s %zu\n", ours, sizeof(type))
#define AT(type, ours, field, name) printf("offsetof %s.%s %zu\n", ours, name, offsetof(type, field))
#define NUMBER(name) printf("number %s %llu\n", #name, (unsigned long long)(name))

int main(void) {
    SIZE(struct kvm_userspace_memory_region, "KvmUserspaceMemoryRegion");
#define REGION(name) AT(struct kvm_userspace_memory_region, "KvmUserspaceMemoryRegion", name, #name)
    REGION(slot); REGION(flags); REGION(guest_phys_addr); REGION(memory_size); REGION(userspace_addr);
    SIZE(struct kvm_dirty_log, "KvmDirtyLog");
#define LOG(name) AT(struct kvm_dirty_log, "KvmDirtyLog", name, #name)
    LOG(slot); LOG(padding1); LOG(dirty_bitmap);
    SIZE(struct kvm_clear_dirty_log, "KvmClearDirtyLog");
#define CLEAR(name) AT(struct kvm_clear_dirty_log, "KvmClearDirtyLog", name, #name)
    CLEAR(slot); CLEAR(num_pages); CLEAR(first_page); CLEAR(dirty_bitmap);
    SIZE(struct kvm_enable_cap, "KvmEnableCap");
#define CAP(name) AT(struct kvm_enable_cap, "KvmEnableCap", name, #name)
    CAP(cap); CAP(flags); CAP(args); CAP(pad);
    SIZE(struct kvm_dirty_gfn, "KvmDirtyGfn");
#define GFN(name) AT(struct kvm_dirty_gfn, "KvmDirtyGfn", name, #name)
    GFN(flags); GFN(slot); GFN(offset);
    /* These two end in an array without a declared length; kvm_abi declares one, so sizes differ. */
    AT(struct kvm_signal_mask, "KvmSignalMask", len, "len");
    AT(struct kvm_signal_mask, "KvmSignalMask", sigset, "sigset");
    AT(struct kvm_cpuid2, "KvmCpuid2", nent, "nent");
    AT(struct kvm_cpuid2, "KvmCpuid2", padding, "padding");
    AT(struct kvm_cpuid2, "KvmCpuid2", entries, "entries");
    SIZE(struct kvm_regs, "KvmRegs");
#define REG(name) AT(struct kvm_regs, "KvmRegs", name, #name)
    REG(rax); REG(rbx); REG(rcx); REG(rdx); REG(rsi); REG(rdi); REG(rsp); REG(rbp); REG(r8); REG(r9);
    REG(r10); REG(r11); REG(r12); REG(r13); REG(r14); REG(r15); REG(rip); REG(rflags);
    SIZE(struct kvm_segment, "KvmSegment");
#define SEG(name) AT(struct kvm_segment, "KvmSegment", name, #name)
    SEG(base); SEG(limit); SEG(selector); SEG(type); SEG(present); SEG(dpl); SEG(db); SEG(s); SEG(l);
    SEG(g); SEG(avl); SEG(unusable); SEG(padding);
    SIZE(struct kvm_dtable, "KvmDtable");
#define TABLE(name) AT(struct kvm_dtable, "KvmDtable", name, #name)
    TABLE(base); TABLE(limit); TABLE(padding);
    SIZE(struct kvm_sregs, "KvmSregs");
#define SREG(name) AT(struct kvm_sregs, "KvmSregs", name, #name)
    SREG(cs); SREG(ds); SREG(es); SREG(fs); SREG(gs); SREG(ss); SREG(tr); SREG(ldt); SREG(gdt); SREG(idt);
    SREG(cr0); SREG(cr2); SREG(cr3); SREG(cr4); SREG(cr8); SREG(efer); SREG(apic_base);
    SREG(interrupt_bitmap);
    SIZE(struct kvm_cpuid_entry2, "KvmCpuidEntry2");
#define ENTRY(name) AT(struct kvm_cpuid_entry2, "KvmCpuidEntry2", name, #name)
    ENTRY(function); ENTRY(index); ENTRY(flags); ENTRY(eax); ENTRY(ebx); ENTRY(ecx); ENTRY(edx);
    ENTRY(padding);

    struct kvm_run *run = NULL;
#define RUN(name, ours) AT(struct kvm_run, "KvmRun", name, ours)
    RUN(request_interrupt_window, "request_interrupt_window"); RUN(immediate_exit, "immediate_exit");
    RUN(padding1, "padding1"); RUN(exit_reason, "exit_reason");
    RUN(ready_for_interrupt_injection, "ready_for_interrupt_injection"); RUN(if_flag, "if_flag");
    RUN(flags, "flags"); RUN(cr8, "cr8"); RUN(apic_base, "apic_base"); RUN(padding, "exit");
    printf("sizeof ExitUnion %zu\n", sizeof(run->padding));
#define IN(member, field, ours) \
    printf("offsetof %s.%s %zu\n", ours, #field, \
           offsetof(struct kvm_run, member.field) - offsetof(struct kvm_run, member))
#define MEMBER(name) \
    printf("offsetof ExitUnion.%s %zu\n", #name, \
           offsetof(struct kvm_run, name) - offsetof(struct kvm_run, padding))
    MEMBER(io); MEMBER(mmio); MEMBER(fail_entry); MEMBER(internal); MEMBER(padding);
    printf("sizeof ExitIo %zu\n", sizeof(run->io));
    IN(io, direction, "ExitIo"); IN(io, size, "ExitIo"); IN(io, port, "ExitIo"); IN(io, count, "ExitIo");
    IN(io, data_offset, "ExitIo");
    printf("sizeof ExitMmio %zu\n", sizeof(run->mmio));
    IN(mmio, phys_addr, "ExitMmio"); IN(mmio, data, "ExitMmio"); IN(mmio, len, "ExitMmio");
    IN(mmio, is_write, "ExitMmio");
    printf("sizeof ExitFailEntry %zu\n", sizeof(run->fail_entry));
    IN(fail_entry, hardware_entry_failure_reason, "ExitFailEntry"); IN(fail_entry, cpu, "ExitFailEntry");
    printf("sizeof ExitInternal %zu\n", sizeof(run->internal));
    IN(internal, suberror, "ExitInternal"); IN(internal, ndata, "ExitInternal");
    IN(internal, data, "ExitInternal");

    NUMBER(KVM_GET_API_VERSION); NUMBER(KVM_CREATE_VM); NUMBER(KVM_CHECK_EXTENSION);
    NUMBER(KVM_GET_VCPU_MMAP_SIZE); NUMBER(KVM_GET_SUPPORTED_CPUID); NUMBER(KVM_CREATE_VCPU);
    NUMBER(KVM_GET_DIRTY_LOG); NUMBER(KVM_SET_USER_MEMORY_REGION); NUMBER(KVM_SET_TSS_ADDR);
    NUMBER(KVM_RUN); NUMBER(KVM_GET_REGS); NUMBER(KVM_SET_REGS); NUMBER(KVM_GET_SREGS);
    NUMBER(KVM_SET_SREGS); NUMBER(KVM_SET_SIGNAL_MASK); NUMBER(KVM_SET_CPUID2); NUMBER(KVM_ENABLE_CAP);
    NUMBER(KVM_CLEAR_DIRTY_LOG); NUMBER(KVM_RESET_DIRTY_RINGS); NUMBER(KVM_API_VERSION);
    NUMBER(KVM_CAP_USER_MEMORY); NUMBER(KVM_CAP_IMMEDIATE_EXIT);
    NUMBER(KVM_CAP_MANUAL_DIRTY_LOG_PROTECT2); NUMBER(KVM_CAP_DIRTY_LOG_RING);
    NUMBER(KVM_MEM_LOG_DIRTY_PAGES); NUMBER(KVM_DIRTY_LOG_MANUAL_PROTECT_ENABLE);
    NUMBER(KVM_DIRTY_LOG_PAGE_OFFSET); NUMBER(KVM_DIRTY_GFN_F_DIRTY); NUMBER(KVM_DIRTY_GFN_F_RESET);
    NUMBER(KVM_EXIT_IO_IN); NUMBER(KVM_EXIT_IO_OUT); NUMBER(KVM_EXIT_IO); NUMBER(KVM_EXIT_HLT);
    NUMBER(KVM_EXIT_MMIO); NUMBER(KVM_EXIT_SHUTDOWN); NUMBER(KVM_EXIT_FAIL_ENTRY); NUMBER(KVM_EXIT_INTR);
    NUMBER(KVM_EXIT_INTERNAL_ERROR); NUMBER(KVM_EXIT_DIRTY_RING_FULL);
    return 0;
}
