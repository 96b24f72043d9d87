/* Deliberate crashes, to test how the VM reports them. */
#ifndef FAULTS_H
#define FAULTS_H

#include "options.h"

_Noreturn void crash(enum fault fault);

#endif
