/* The domains of the fake Xen, and the functions with which tests change them. */

#define _GNU_SOURCE
#include "state.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

pthread_mutex_t fake_lock = PTHREAD_MUTEX_INITIALIZER;

static struct domain domains[MAX_DOMAINS];
static int handles[KINDS];
static unsigned misused;

static struct failure {
    char function[64];
    int number;
    int skip, times;
    bool after;
} failure;

struct domain *domain_of(uint32_t domid)
{
    for (size_t at = 0; at < MAX_DOMAINS; at++)
        if (domains[at].used && domains[at].domid == domid)
            return &domains[at];
    return NULL;
}

void forget_if_unused(struct domain *domain)
{
    if (domain->dying && !domain->mapped) {
        close(domain->memory);
        memset(domain, 0, sizeof *domain);
    }
}

static bool failing(const char *function, bool after)
{
    if (!failure.times || failure.after != after || strcmp(failure.function, function) != 0)
        return false;
    if (failure.skip) {
        failure.skip--;
        return false;
    }
    failure.times--;
    errno = failure.number;
    return true;
}

bool fails(const char *function)
{
    return failing(function, false);
}

bool fails_after(const char *function)
{
    return failing(function, true);
}

void opened(struct handle *handle, enum kind kind)
{
    *handle = (struct handle){.kind = kind, .open = true};
    handles[kind]++;
}

void closed(struct handle *handle)
{
    if (!handle->open)
        misused++;
    /* Never freed, so that later uses are detected. */
    handle->open = false;
    handles[handle->kind]--;
}

void check(const struct handle *handle, enum kind kind)
{
    if (!handle || !handle->open || handle->kind != kind)
        misused++;
}

int track(struct domain *domain, uint64_t first, uint32_t frames, uint8_t *bitmap)
{
    if (!frames) {
        domain->tracked = false;
        return 0;
    }
    size_t bytes = (frames + 7) / 8;
    if (domain->tracked && domain->range_first == first && domain->range_frames == frames) {
        memcpy(bitmap, domain->dirty, bytes);
        memset(domain->dirty, 0, bytes);
        return 0;
    }
    domain->tracked = true;
    domain->range_first = first;
    domain->range_frames = frames;
    memset(domain->dirty, 0, sizeof domain->dirty);
    if (!domain->hap)
        return ENODATA;
    memset(bitmap, 0xFF, bytes);
    if (frames % 8)
        bitmap[bytes - 1] = (uint8_t)((1u << frames % 8) - 1);
    return 0;
}

/* For the tests */

#define LOCKED \
    for (int once = (pthread_mutex_lock(&fake_lock), 1); once; once = (pthread_mutex_unlock(&fake_lock), 0))

static struct domain *demanded(uint32_t domid)
{
    struct domain *domain = domain_of(domid);
    if (!domain) {
        fprintf(stderr, "fake Xen: no domain %u\n", domid);
        abort();
    }
    return domain;
}

void fake_reset(void)
{
    LOCKED {
        for (size_t at = 0; at < MAX_DOMAINS; at++)
            if (domains[at].used)
                close(domains[at].memory);
        memset(domains, 0, sizeof domains);
        memset(handles, 0, sizeof handles);
        memset(&failure, 0, sizeof failure);
        misused = 0;
    }
}

void fake_create(uint32_t domid, uint64_t first, uint32_t pages, bool hap, bool hvm)
{
    LOCKED {
        struct domain *domain = NULL;
        for (size_t at = 0; at < MAX_DOMAINS && !domain; at++)
            if (!domains[at].used)
                domain = &domains[at];
        if (!domain || pages > MAX_PAGES)
            abort();
        *domain = (struct domain){
            .used = true, .hvm = hvm, .hap = hap, .shutdown = -1, .domid = domid, .first = first, .pages = pages, .vcpus = 1,
            .cr0 = {CR0_WP, CR0_WP, CR0_WP, CR0_WP},
        };
        domain->memory = memfd_create("fake-vram", MFD_CLOEXEC);
        if (domain->memory < 0 || ftruncate(domain->memory, (off_t)pages * PAGE))
            abort();
    }
}

/* The guest stores a byte in a page of video RAM. Shadow paging with CR0.WP clear does not log it. */
void fake_write(uint32_t domid, uint32_t page, uint8_t value)
{
    LOCKED {
        struct domain *domain = demanded(domid);
        if (pwrite(domain->memory, &value, 1, (off_t)page * PAGE) != 1)
            abort();
        bool logged = domain->hap;
        for (unsigned vcpu = 0; !logged && vcpu < domain->vcpus; vcpu++)
            logged = domain->cr0[vcpu] & CR0_WP;
        domain->cpu_time += 1000; /* a guest that writes has run */
        uint64_t frame = domain->first + page;
        if (logged && domain->tracked && frame - domain->range_first < domain->range_frames) {
            uint64_t bit = frame - domain->range_first;
            domain->dirty[bit / 8] |= (uint8_t)(1u << bit % 8);
        }
    }
}

/* The device model draws a byte in a page of video RAM, which Xen does not log. */
void fake_draw(uint32_t domid, uint32_t page, uint8_t value)
{
    LOCKED {
        if (pwrite(demanded(domid)->memory, &value, 1, (off_t)page * PAGE) != 1)
            abort();
    }
}

/* Track from another process, for example QEMU; return the errno. */
int fake_read_log(uint32_t domid, uint64_t first, uint32_t frames)
{
    static uint8_t bitmap[MAX_PAGES / 8 + 1];
    int number = 0;
    LOCKED number = track(demanded(domid), first, frames, bitmap);
    return number;
}

bool fake_tracked(uint32_t domid)
{
    bool tracked = false;
    LOCKED {
        const struct domain *domain = domain_of(domid);
        tracked = domain && !domain->dying && domain->tracked;
    }
    return tracked;
}

void fake_place(uint32_t domid, uint64_t first)
{
    LOCKED demanded(domid)->first = first;
}

void fake_absent(uint32_t domid, uint32_t page, bool absent)
{
    LOCKED {
        struct domain *domain = demanded(domid);
        uint8_t bit = (uint8_t)(1u << page % 8);
        domain->absent[page / 8] = absent ? domain->absent[page / 8] | bit : domain->absent[page / 8] & ~bit;
    }
}

void fake_cpus(uint32_t domid, unsigned vcpus, unsigned vcpu, uint64_t cr0)
{
    LOCKED {
        struct domain *domain = demanded(domid);
        if (vcpus > MAX_VCPUS || vcpu >= vcpus)
            abort();
        domain->vcpus = vcpus;
        domain->cr0[vcpu] = cr0;
    }
}

void fake_ran(uint32_t domid, uint64_t nanoseconds)
{
    LOCKED demanded(domid)->cpu_time += nanoseconds;
}

void fake_shutdown(uint32_t domid, int reason)
{
    LOCKED demanded(domid)->shutdown = reason;
}

void fake_pause(uint32_t domid, bool paused)
{
    LOCKED demanded(domid)->paused = paused;
}

void fake_destroy(uint32_t domid)
{
    LOCKED {
        struct domain *domain = demanded(domid);
        domain->dying = true;
        domain->tracked = false;
        forget_if_unused(domain);
    }
}

uint64_t fake_mapped(uint32_t domid)
{
    uint64_t mapped = 0;
    LOCKED {
        const struct domain *domain = domain_of(domid);
        mapped = domain ? domain->mapped : 0;
    }
    return mapped;
}

/* Let `times` calls fail, after `skip` calls that succeed. With `after` each has its effect before it fails. */
void fake_fail(const char *function, int number, int skip, int times, bool after)
{
    LOCKED {
        snprintf(failure.function, sizeof failure.function, "%s", function);
        failure.number = number;
        failure.skip = skip;
        failure.times = times;
        failure.after = after;
    }
}

int fake_handles(int kind)
{
    return handles[kind];
}

unsigned fake_misused(void)
{
    return misused;
}
