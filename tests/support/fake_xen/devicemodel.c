/* The parts of libxendevicemodel and libxentoollog that vramtap uses, with the behaviour of Xen 4.17. */

#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "state.h"

#define MOST_FRAMES 32768u

/* The last call through a handle, and counts; `full_reads` counts calls for exactly the video RAM, as QEMU makes. */
static struct calls {
    uint64_t first;
    uint32_t domid, frames;
    uint32_t reads, stops, full_reads;
} calls;

static int logger;

void *xtl_createlogger_stdiostream(FILE *stream, int level, unsigned flags)
{
    return stream == stderr && level == 9 && !flags ? &logger : NULL;
}

void *xendevicemodel_open(void *log, unsigned flags)
{
    if (fails(__func__))
        return NULL;
    if (log != &logger || flags) {
        errno = EINVAL;
        return NULL;
    }
    struct handle *handle = malloc(sizeof *handle);
    opened(handle, DEVICEMODEL);
    return handle;
}

int xendevicemodel_close(struct handle *handle)
{
    closed(handle);
    return 0;
}

static int tracked(uint16_t domid, uint64_t first, uint32_t frames, unsigned long *bitmap)
{
    struct domain *domain = domain_of(domid);
    if (frames > MOST_FRAMES)
        return E2BIG;
    /* The kernel pins the buffer's pages. An empty buffer at the beginning of a page has none. */
    if (!bitmap || (!frames && (uintptr_t)bitmap % PAGE == 0))
        return EFAULT;
    if (!domain || domain->dying)
        return ESRCH;
    if (!domain->hvm)
        return EINVAL;
    if (frames) {
        calls.reads++;
        calls.full_reads += first == domain->first && frames == domain->pages;
    } else {
        calls.stops++;
    }
    return track(domain, first, frames, (uint8_t *)bitmap);
}

int xendevicemodel_track_dirty_vram(
    struct handle *handle, uint16_t domid, uint64_t first, uint32_t frames, unsigned long *bitmap)
{
    pthread_mutex_lock(&fake_lock);
    check(handle, DEVICEMODEL);
    calls.domid = domid;
    calls.first = first;
    calls.frames = frames;
    int result = -1;
    if (!fails(__func__)) {
        int number = tracked(domid, first, frames, bitmap);
        if (number)
            errno = number;
        else if (fails_after(__func__))
            memset(bitmap, 0, (frames + 7) / 8);
        else
            result = 0;
    }
    pthread_mutex_unlock(&fake_lock);
    return result;
}

/* For the tests */

void fake_log_calls(struct calls *into)
{
    pthread_mutex_lock(&fake_lock);
    *into = calls;
    pthread_mutex_unlock(&fake_lock);
}

void fake_reset_log_calls(void)
{
    memset(&calls, 0, sizeof calls);
}
