/* Print the kernel headers' value of every size, offset and number in vramtap.linux.abi. */
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/ptrace.h>
#include <linux/rseq.h>
#include <linux/userfaultfd.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <sys/user.h>

/* A distribution's headers are often older than the running kernel. Declare the missing structs here with the
 * kernel's types, so that the compiler computes their layout. */
#ifndef UFFDIO_WRITEPROTECT_MODE_WP
#error "kernel headers older than 5.7"
#endif

struct page_region_6_7 { __u64 start, end, categories; };
struct pm_scan_arg_6_7 {
    __u64 size, flags, start, end, walk_end, vec, vec_len, max_pages;
    __u64 category_inverted, category_mask, category_anyof_mask, return_mask;
};
struct procmap_query_6_11 {
    __u64 size, query_flags, query_addr;
    __u64 vma_start, vma_end, vma_flags, vma_page_size, vma_offset, inode;
    __u32 dev_major, dev_minor, vma_name_size, build_id_size;
    __u64 vma_name_addr, build_id_addr;
};

#define SIZE(type, ours) printf("sizeof %s %zu\n", ours, sizeof(type))
#define AT(type, ours, field, name) printf("offsetof %s.%s %zu\n", ours, name, offsetof(type, field))
#define NUMBER(name, value) printf("number %s %llu\n", name, (unsigned long long)(value))

int main(void) {
    SIZE(struct uffdio_api, "UffdioApi");
    AT(struct uffdio_api, "UffdioApi", api, "api");
    AT(struct uffdio_api, "UffdioApi", features, "features");
    AT(struct uffdio_api, "UffdioApi", ioctls, "ioctls");
    SIZE(struct uffdio_range, "UffdioRange");
    AT(struct uffdio_range, "UffdioRange", start, "start");
    AT(struct uffdio_range, "UffdioRange", len, "len");
    SIZE(struct uffdio_register, "UffdioRegister");
    AT(struct uffdio_register, "UffdioRegister", range, "range");
    AT(struct uffdio_register, "UffdioRegister", mode, "mode");
    AT(struct uffdio_register, "UffdioRegister", ioctls, "ioctls");
    SIZE(struct uffdio_writeprotect, "UffdioWriteprotect");
    AT(struct uffdio_writeprotect, "UffdioWriteprotect", range, "range");
    AT(struct uffdio_writeprotect, "UffdioWriteprotect", mode, "mode");
    SIZE(struct uffd_msg, "UffdMsg");
    AT(struct uffd_msg, "UffdMsg", event, "event");
    AT(struct uffd_msg, "UffdMsg", reserved1, "reserved1");
    AT(struct uffd_msg, "UffdMsg", reserved2, "reserved2");
    AT(struct uffd_msg, "UffdMsg", reserved3, "reserved3");
    AT(struct uffd_msg, "UffdMsg", arg.pagefault.flags, "flags");
    AT(struct uffd_msg, "UffdMsg", arg.pagefault.address, "address");
    AT(struct uffd_msg, "UffdMsg", arg.pagefault.feat.ptid, "ptid");
    /* The union ends with its longest member. */
    printf("offsetof UffdMsg.pad %zu\n",
           offsetof(struct uffd_msg, arg.pagefault.feat) + sizeof(((struct uffd_msg *)0)->arg.pagefault.feat));
    SIZE(struct user_regs_struct, "UserRegs");
#define REG(name) AT(struct user_regs_struct, "UserRegs", name, #name)
    REG(r15); REG(r14); REG(r13); REG(r12); REG(rbp); REG(rbx); REG(r11); REG(r10); REG(r9); REG(r8);
    REG(rax); REG(rcx); REG(rdx); REG(rsi); REG(rdi); REG(orig_rax); REG(rip); REG(cs); REG(eflags);
    REG(rsp); REG(ss); REG(fs_base); REG(gs_base); REG(ds); REG(es); REG(fs); REG(gs);
    SIZE(struct ptrace_rseq_configuration, "RseqConfiguration");
#define RSEQ(name) AT(struct ptrace_rseq_configuration, "RseqConfiguration", name, #name)
    RSEQ(rseq_abi_pointer); RSEQ(rseq_abi_size); RSEQ(signature); RSEQ(flags); RSEQ(pad);
#define AREA(name) AT(struct rseq, "RseqArea", name, #name)
    AREA(cpu_id_start); AREA(cpu_id); AREA(rseq_cs);
    SIZE(struct rseq_cs, "RseqSequence");
#define SEQUENCE(name) AT(struct rseq_cs, "RseqSequence", name, #name)
    SEQUENCE(version); SEQUENCE(flags); SEQUENCE(start_ip); SEQUENCE(post_commit_offset); SEQUENCE(abort_ip);
    SIZE(struct page_region_6_7, "PageRegion");
    AT(struct page_region_6_7, "PageRegion", start, "start");
    AT(struct page_region_6_7, "PageRegion", end, "end");
    AT(struct page_region_6_7, "PageRegion", categories, "categories");
    SIZE(struct pm_scan_arg_6_7, "PmScanArg");
#define SCAN(name) AT(struct pm_scan_arg_6_7, "PmScanArg", name, #name)
    SCAN(size); SCAN(flags); SCAN(start); SCAN(end); SCAN(walk_end); SCAN(vec); SCAN(vec_len); SCAN(max_pages);
    SCAN(category_inverted); SCAN(category_mask); SCAN(category_anyof_mask); SCAN(return_mask);
    SIZE(struct procmap_query_6_11, "ProcmapQuery");
#define QUERY(name) AT(struct procmap_query_6_11, "ProcmapQuery", name, #name)
    QUERY(size); QUERY(query_flags); QUERY(query_addr); QUERY(vma_start); QUERY(vma_end); QUERY(vma_flags);
    QUERY(vma_page_size); QUERY(vma_offset); QUERY(inode); QUERY(dev_major); QUERY(dev_minor);
    QUERY(vma_name_size); QUERY(build_id_size); QUERY(vma_name_addr); QUERY(build_id_addr);

    NUMBER("UFFDIO_API", UFFDIO_API);
    NUMBER("UFFDIO_REGISTER", UFFDIO_REGISTER);
    NUMBER("UFFDIO_UNREGISTER", UFFDIO_UNREGISTER);
    NUMBER("UFFDIO_WAKE", UFFDIO_WAKE);
    NUMBER("UFFDIO_WRITEPROTECT", UFFDIO_WRITEPROTECT);
    NUMBER("UFFD_API", UFFD_API);
    NUMBER("UFFD_USER_MODE_ONLY", UFFD_USER_MODE_ONLY);
    NUMBER("UFFD_FEATURE_PAGEFAULT_FLAG_WP", UFFD_FEATURE_PAGEFAULT_FLAG_WP);
    NUMBER("UFFD_FEATURE_EVENT_REMAP", UFFD_FEATURE_EVENT_REMAP);
    NUMBER("UFFD_FEATURE_EVENT_REMOVE", UFFD_FEATURE_EVENT_REMOVE);
    NUMBER("UFFD_FEATURE_EVENT_UNMAP", UFFD_FEATURE_EVENT_UNMAP);
    NUMBER("UFFD_EVENT_PAGEFAULT", UFFD_EVENT_PAGEFAULT);
    NUMBER("UFFD_EVENT_REMAP", UFFD_EVENT_REMAP);
    NUMBER("UFFD_FEATURE_WP_HUGETLBFS_SHMEM", UFFD_FEATURE_WP_HUGETLBFS_SHMEM);
    NUMBER("UFFDIO_REGISTER_MODE_WP", UFFDIO_REGISTER_MODE_WP);
    NUMBER("UFFDIO_WRITEPROTECT_MODE_WP", UFFDIO_WRITEPROTECT_MODE_WP);
    NUMBER("PAGEMAP_SCAN", _IOWR('f', 16, struct pm_scan_arg_6_7));
    NUMBER("PROCMAP_QUERY", _IOWR('f', 17, struct procmap_query_6_11));
    NUMBER("SYS_CLOSE", SYS_close);
    NUMBER("SYS_USERFAULTFD", SYS_userfaultfd);
    NUMBER("SYS_PIDFD_OPEN", SYS_pidfd_open);
    NUMBER("SYS_PIDFD_GETFD", SYS_pidfd_getfd);
    return 0;
}
