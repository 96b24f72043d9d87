/* Log lines through port 0xE9, and the end of a guest that cannot continue. */
#ifndef DEBUG_H
#define DEBUG_H

#include <stdint.h>

void say(const char *text);
void say_number(uint64_t number);

/* Print `vramtap guest: WHAT` and the offending word, if any; end the machine. */
_Noreturn void die(const char *what, const char *word);

/* Halt for ever. */
_Noreturn void rest(void);

#endif
