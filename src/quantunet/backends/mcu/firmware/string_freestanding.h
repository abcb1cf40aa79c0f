/* The two functions that the runtime takes from string.h, for a compiler that comes without a C library. */
#ifndef STRING_FREESTANDING_H
#define STRING_FREESTANDING_H

#include <stddef.h>

void *memcpy(void *restrict to, const void *restrict from, size_t count);

void *memset(void *to, int value, size_t count);

#endif
