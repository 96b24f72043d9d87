/* The part of libxenforeignmemory that vramtap uses. A missing frame has an errno; an access raises SIGBUS. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "state.h"

static struct mapping {
    void *address;
    size_t pages;
    uint32_t domid;
} mappings[64];

void *xenforeignmemory_open(void *log, unsigned flags)
{
    if (fails(__func__))
        return NULL;
    if (!log || flags) {
        errno = EINVAL;
        return NULL;
    }
    struct handle *handle = malloc(sizeof *handle);
    opened(handle, FOREIGNMEMORY);
    return handle;
}

int xenforeignmemory_close(struct handle *handle)
{
    closed(handle);
    return 0;
}

static bool there(const struct domain *domain, uint64_t frame)
{
    uint64_t page = frame - domain->first;
    return domain->first && page < domain->pages && !(domain->absent[page / 8] >> page % 8 & 1);
}

static void fill(struct domain *domain, uint8_t *at, int prot, size_t pages, const uint64_t *frames, int *errors)
{
    for (size_t page = 0, many; page < pages; page += many) {
        for (many = 1; page + many < pages && frames[page + many] == frames[page] + many &&
             there(domain, frames[page + many]) == there(domain, frames[page]); many++)
            ;
        bool is = there(domain, frames[page]);
        off_t offset = is ? (off_t)(frames[page] - domain->first) * PAGE : (off_t)MAX_PAGES * PAGE;
        if (mmap(at + page * PAGE, many * PAGE, prot, MAP_SHARED | MAP_FIXED, domain->memory, offset) == MAP_FAILED)
            abort();
        for (size_t each = page; each < page + many; each++)
            errors[each] = is ? 0 : -EINVAL;
    }
}

static void *mapped(uint32_t domid, int prot, size_t pages, const uint64_t *frames, int *errors)
{
    struct domain *domain = domain_of(domid);
    if (!domain || domain->dying) {
        errno = ESRCH;
        return NULL;
    }
    struct mapping *mapping = mappings;
    while (mapping < mappings + sizeof mappings / sizeof *mappings && mapping->address)
        mapping++;
    if (mapping == mappings + sizeof mappings / sizeof *mappings)
        abort();
    uint8_t *at = mmap(NULL, pages * PAGE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (at == MAP_FAILED)
        return NULL;
    fill(domain, at, prot, pages, frames, errors);
    *mapping = (struct mapping){at, pages, domid};
    domain->mapped += pages;
    return at;
}

void *xenforeignmemory_map(
    struct handle *handle, uint32_t domid, int prot, size_t pages, const uint64_t *frames, int *errors)
{
    pthread_mutex_lock(&fake_lock);
    check(handle, FOREIGNMEMORY);
    void *address = fails(__func__) ? NULL : mapped(domid, prot, pages, frames, errors);
    pthread_mutex_unlock(&fake_lock);
    return address;
}

static int unmapped(void *address, size_t pages)
{
    for (struct mapping *each = mappings; each < mappings + sizeof mappings / sizeof *mappings; each++) {
        if (each->address != address || each->pages != pages)
            continue;
        struct domain *domain = domain_of(each->domid);
        if (domain) {
            domain->mapped -= pages;
            forget_if_unused(domain);
        }
        each->address = NULL;
        return munmap(address, pages * PAGE);
    }
    errno = EINVAL;
    return -1;
}

int xenforeignmemory_unmap(struct handle *handle, void *address, size_t pages)
{
    pthread_mutex_lock(&fake_lock);
    check(handle, FOREIGNMEMORY);
    int result = fails(__func__) ? -1 : unmapped(address, pages);
    pthread_mutex_unlock(&fake_lock);
    return result;
}

/* For the tests */

void fake_reset_mappings(void)
{
    for (struct mapping *each = mappings; each < mappings + sizeof mappings / sizeof *mappings; each++) {
        if (each->address)
            munmap(each->address, each->pages * PAGE);
        each->address = NULL;
    }
}
