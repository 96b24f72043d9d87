/* Log lines through port 0xE9, and the end of a guest that cannot continue. */
#include "debug.h"

#include "boot.h"
#include "io.h"

#define WORD_SHOWN 48

void say(const char *text)
{
    for (; *text; text++)
        outb(PORT_DEBUG_TEXT, (uint8_t)*text);
}

void say_number(uint64_t number)
{
    char digits[21];
    char *first = digits + sizeof digits - 1;
    *first = 0;
    do {
        *--first = (char)('0' + number % 10);
        number /= 10;
    } while (number);
    say(first);
}

_Noreturn void die(const char *what, const char *word)
{
    say("vramtap guest: ");
    say(what);
    if (word) {
        say(": ");
        for (int i = 0; i < WORD_SHOWN && word[i] && word[i] != ' '; i++)
            outb(PORT_DEBUG_TEXT, word[i] > ' ' && word[i] < 127 ? (uint8_t)word[i] : '?');
    }
    say("\n");
    outb(PORT_EXIT, 1);
    rest();
}

_Noreturn void rest(void)
{
    for (;;)
        halt();
}
