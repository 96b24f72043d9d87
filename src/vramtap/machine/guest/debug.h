/* Lines for people, through port 0xE9, and the end of a guest that cannot go on. */
#ifndef DEBUG_H
#define DEBUG_H

#include <stdint.h>

void say(const char *text);
void say_number(uint64_t number);

/* Print `vramtap guest: WHAT` and, when given, the word that is to blame; end the machine. */
_Noreturn void die(const char *what, const char *word);

/* Nothing more will happen: turn no wheel. */
_Noreturn void rest(void);

#endif
