/* Ways to die, for tests of what the machine makes of them. */
#ifndef FAULTS_H
#define FAULTS_H

#include "options.h"

_Noreturn void crash(enum fault fault);

#endif
