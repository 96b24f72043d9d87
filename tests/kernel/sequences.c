/*
 * Two threads on one processor increment a counter in restartable sequences (rseq(2)). Each sequence reads the
 * counter, waits for a while, and stores the counter plus one. Only the kernel's abort of an interrupted
 * sequence keeps one thread from overwriting the other's increments.
 *
 * Prints READY, counts until a byte arrives on standard input, then prints `DONE LOST COUNTED`.
 */
#define _GNU_SOURCE
#include <pthread.h>
#include <sched.h>
#include <stdint.h>
#include <stdio.h>
#include <sys/rseq.h>

static volatile uint64_t count;
static volatile int ended;

/* Increment the counter; return 1, or 0 if the kernel aborted the sequence. */
static int count_one(struct rseq *area)
{
    int counted;

    __asm__ volatile(
        ".pushsection .data.rel.ro.sequences, \"aw\"\n"
        ".balign 32\n"
        "5: .long 0, 0\n"
        ".quad 1f, 2f - 1f, 4f\n"
        ".popsection\n"
        "lea 5b(%%rip), %%rax\n"
        "mov %%rax, %[sequence]\n"
        "1: mov %[count], %%rax\n"
        "mov $20000, %%ecx\n"
        "3: dec %%ecx\n"
        "jnz 3b\n"
        "inc %%rax\n"
        "mov %%rax, %[count]\n"
        "2: mov $1, %[counted]\n"
        "jmp 6f\n"
        ".long %c[signature]\n"
        "4: xor %[counted], %[counted]\n"
        "6:\n"
        : [counted] "=&r"(counted), [sequence] "=m"(area->rseq_cs), [count] "+m"(count)
        : [signature] "i"(RSEQ_SIG)
        : "rax", "rcx", "cc", "memory");
    return counted;
}

static void *work(void *argument)
{
    uint64_t *counted = argument;
    struct rseq *area = (struct rseq *)((char *)__builtin_thread_pointer() + __rseq_offset);

    while (!ended)
        *counted += count_one(area);
    return NULL;
}

static void *wait_for_input(void *argument)
{
    (void)argument;
    getchar();
    ended = 1;
    return NULL;
}

int main(void)
{
    uint64_t ours = 0, others = 0;
    pthread_t other, input;
    cpu_set_t one;

    if (!__rseq_size) {
        fputs("sequences: the C library has not registered for rseq\n", stderr);
        return 1;
    }
    CPU_ZERO(&one);
    CPU_SET(sched_getcpu(), &one);
    sched_setaffinity(0, sizeof one, &one);
    pthread_create(&other, NULL, work, &others);
    pthread_create(&input, NULL, wait_for_input, NULL);
    printf("READY\n");
    fflush(stdout);
    work(&ours);
    pthread_join(other, NULL);
    printf("DONE %llu %llu\n", (unsigned long long)(ours + others - count), (unsigned long long)count);
    return 0;
}
