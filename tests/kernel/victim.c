/*
 * A program that detects disturbances. It keeps known values in its registers, blocks in system calls that a
 * stop interrupts, takes timer signals meanwhile, and counts errors.
 *
 * Prints READY, works until a byte arrives on standard input, then prints `DONE FAULTS CALLS SIGNALS`.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

static volatile unsigned long faults, calls, signals;

static void on_alarm(int number)
{
    (void)number;
    signals++;
}

/* Load known values into general and vector registers, spin briefly, and compare the values. */
static void check_registers(void)
{
    uint64_t bad;
    __asm__ volatile(
        "mov $0x1111111111111111, %%rbx\n mov $0x2222222222222222, %%r12\n"
        "mov $0x3333333333333333, %%r13\n mov $0x4444444444444444, %%r14\n"
        "mov $0x5555555555555555, %%r15\n mov $0x6666666666666666, %%rsi\n"
        "mov $0x7777777777777777, %%rdi\n mov $0x0888888888888888, %%r8\n"
        "mov $0x0999999999999999, %%r9\n mov $0x0aaaaaaaaaaaaaaa, %%r10\n"
        "mov $0x0bbbbbbbbbbbbbbb, %%r11\n mov $0x0ccccccccccccccc, %%rdx\n"
        "movq %%rbx, %%xmm3\n movq %%r12, %%xmm9\n"
        "mov $20000, %%ecx\n 1: dec %%ecx\n jnz 1b\n"
        "xor %%eax, %%eax\n"
#define SAME(value, reg) "mov $" value ", %%rcx\n cmp %%rcx, %%" reg "\n setne %%cl\n or %%cl, %%al\n"
        SAME("0x1111111111111111", "rbx") SAME("0x2222222222222222", "r12")
        SAME("0x3333333333333333", "r13") SAME("0x4444444444444444", "r14")
        SAME("0x5555555555555555", "r15") SAME("0x6666666666666666", "rsi")
        SAME("0x7777777777777777", "rdi") SAME("0x0888888888888888", "r8")
        SAME("0x0999999999999999", "r9") SAME("0x0aaaaaaaaaaaaaaa", "r10")
        SAME("0x0bbbbbbbbbbbbbbb", "r11") SAME("0x0ccccccccccccccc", "rdx")
        "movq %%xmm3, %%rcx\n cmp %%rcx, %%rbx\n setne %%cl\n or %%cl, %%al\n"
        "movq %%xmm9, %%rcx\n cmp %%rcx, %%r12\n setne %%cl\n or %%cl, %%al\n"
        "movzbl %%al, %%eax\n"
        : "=a"(bad)
        :
        : "rbx", "rcx", "rdx", "rsi", "rdi", "r8", "r9", "r10", "r11", "r12", "r13", "r14", "r15", "xmm3",
          "xmm9", "cc", "memory");
    faults += bad;
}

int main(int argc, char **argv)
{
    int with_signals = argc > 1 && !strcmp(argv[1], "signals");
    /* Make the process traceable for a test that changes its user. */
    prctl(PR_SET_DUMPABLE, 1);
    if (with_signals) {
        struct sigaction action = {.sa_handler = on_alarm, .sa_flags = SA_RESTART};
        struct itimerval every = {{0, 700}, {0, 700}};
        sigaction(SIGALRM, &action, NULL);
        setitimer(ITIMER_REAL, &every, NULL);
    }
    printf("READY\n");
    fflush(stdout);
    for (;;) {
        struct pollfd input = {0, POLLIN, 0};
        struct timespec pause = {0, 3000000};
        check_registers();
        int ready = poll(&input, 1, 2);
        if (ready < 0 && !(with_signals && errno == EINTR))
            faults++;
        if (ready == 1)
            break;
        if (nanosleep(&pause, NULL) && !(with_signals && errno == EINTR))
            faults++;
        calls += 2;
    }
    printf("DONE %lu %lu %lu\n", faults, calls, signals);
    return 0;
}
