/* The part of libxenctrl that vramtap uses. Records have the layout of Xen's public headers. */

#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

/* The first members of xen_domctl_getdomaininfo, with the size of its longest version. */
struct info {
    uint16_t domain, pad;
    uint32_t flags;
    uint64_t pages[6];
    uint64_t cpu_time;
    uint32_t online_vcpus, max_vcpu_id;
    uint8_t rest[88];
};
static_assert(offsetof(struct info, flags) == 4, "flags");
static_assert(offsetof(struct info, cpu_time) == 56, "cpu_time");
static_assert(offsetof(struct info, max_vcpu_id) == 68, "max_vcpu_id");

enum { DYING = 1 << 0, HVM = 1 << 1, SHUTDOWN = 1 << 2, PAUSED = 1 << 3, HAP = 1 << 8, REASON_SHIFT = 16 };

/* The record of a virtual processor, hvm_hw_cpu. */
struct cpu {
    uint8_t fpu[512];
    uint64_t general[16];
    uint64_t rip, rflags;
    uint64_t cr0, cr2, cr3, cr4;
    uint8_t rest[300];
};
static_assert(offsetof(struct cpu, rip) == 640, "rip");
static_assert(offsetof(struct cpu, cr0) == 656, "cr0");

enum { CPU_TYPECODE = 2 };

/* An impossible CR0: it marks a processor that is not running and has no record in Xen. */
static const uint64_t OFFLINE = 0xDEAD;

void *xc_interface_open(void *log, void *domain_build_log, unsigned flags)
{
    if (fails(__func__))
        return NULL;
    if (!log || !domain_build_log || flags) {
        errno = EINVAL;
        return NULL;
    }
    struct handle *handle = malloc(sizeof *handle);
    opened(handle, CONTROL);
    return handle;
}

int xc_interface_close(struct handle *handle)
{
    closed(handle);
    return 0;
}

static int listed(uint32_t first, unsigned most, struct info *into)
{
    unsigned count = 0;
    for (uint32_t domid = first; domid < 0x7FF0 && count < most; domid++) {
        const struct domain *domain = domain_of(domid);
        if (!domain)
            continue;
        uint32_t flags = (domain->dying ? DYING : 0) | (domain->hvm ? HVM : 0) | (domain->paused ? PAUSED : 0) |
                         (domain->hap ? HAP : 0);
        if (domain->shutdown >= 0)
            flags |= SHUTDOWN | (uint32_t)domain->shutdown << REASON_SHIFT;
        memset(&into[count], 0xA5, sizeof *into);
        into[count].domain = (uint16_t)domid;
        into[count].flags = flags;
        into[count].cpu_time = domain->cpu_time;
        into[count].online_vcpus = 1;
        into[count].max_vcpu_id = domain->vcpus - 1;
        count++;
    }
    return (int)count;
}

int xc_domain_getinfolist(struct handle *handle, uint32_t first, unsigned most, struct info *into)
{
    pthread_mutex_lock(&fake_lock);
    check(handle, CONTROL);
    int result = fails(__func__) ? -1 : listed(first, most, into);
    pthread_mutex_unlock(&fake_lock);
    return result;
}

static int context(uint32_t domid, uint16_t typecode, uint16_t instance, struct cpu *into, uint32_t size)
{
    const struct domain *domain = domain_of(domid);
    if (!domain)
        return ESRCH;
    if (domain->dying || !domain->hvm || typecode != CPU_TYPECODE || size < sizeof *into)
        return EINVAL;
    if (instance >= domain->vcpus || domain->cr0[instance] == OFFLINE)
        return ENOENT;
    memset(into, 0xA5, sizeof *into);
    into->cr0 = domain->cr0[instance];
    return 0;
}

int xc_domain_hvm_getcontext_partial(
    struct handle *handle, uint32_t domid, uint16_t typecode, uint16_t instance, void *into, uint32_t size)
{
    pthread_mutex_lock(&fake_lock);
    check(handle, CONTROL);
    int result = -1;
    if (!fails(__func__)) {
        int number = context(domid, typecode, instance, into, size);
        if (number)
            errno = number;
        else
            result = 0;
    }
    pthread_mutex_unlock(&fake_lock);
    return result;
}
