/* Philox4x32-10, the counter-based generator (Salmon, Moraes, Dror and Shaw, SC 2011). */

#ifndef FASTVAE_PHILOX_H
#define FASTVAE_PHILOX_H

#include "common.h"

#define BLOCK 256 /* counters at a time: all that is made of so many fits the first cache */

/* The output words of the first `count` counters, a multiple of 8, in place: word j of counter i is c[j][i]. */
void fastvae_philox(uint32_t c[4][BLOCK], int count, uint32_t key0, uint32_t key1);

#endif
