/* The state of the fake Xen's domains. The functions for tests begin with fake_. */

#pragma once

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define PAGE 4096u
#define MAX_DOMAINS 16
#define MAX_PAGES 65536u
#define MAX_VCPUS 4

#define CR0_WP (1ull << 16)

struct domain {
    bool used, dying, hvm, hap, paused;
    int shutdown; /* a reason, or -1 */
    uint32_t domid;
    uint64_t first; /* first guest frame of the video RAM; 0 if it is unplaced */
    uint32_t pages;
    int memory; /* a file of that many pages */
    uint8_t absent[MAX_PAGES / 8];
    unsigned vcpus;
    uint64_t cr0[MAX_VCPUS];
    uint64_t cpu_time; /* nanoseconds */
    uint64_t mapped; /* pages mapped by ForeignMemory */
    bool tracked;
    uint64_t range_first;
    uint32_t range_frames;
    uint8_t dirty[MAX_PAGES / 8 + 1];
};

extern pthread_mutex_t fake_lock;

struct domain *domain_of(uint32_t domid); /* a dying domain too */
void forget_if_unused(struct domain *domain);

/* Return whether a test lets this call fail; set errno and count the call. */
bool fails(const char *function);
/* Return whether a test lets this call fail after its effect. */
bool fails_after(const char *function);

/* Handles: counts per kind, and detection of uses after close. */
enum kind { DEVICEMODEL, FOREIGNMEMORY, XENSTORE, CONTROL, KINDS };
struct handle {
    enum kind kind;
    bool open;
};
void opened(struct handle *handle, enum kind kind);
void closed(struct handle *handle);
void check(const struct handle *handle, enum kind kind);

/* Read and clear the log as the hypervisor does; return 0 or the errno. `bitmap` may be NULL without frames. */
int track(struct domain *domain, uint64_t first, uint32_t frames, uint8_t *bitmap);
