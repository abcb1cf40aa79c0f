/* Threads that run the same function side by side, and wait for each other at a barrier. */
#ifndef QN_HOST_THREADS_H
#define QN_HOST_THREADS_H

#include <stdint.h>

enum { QN_MAX_THREADS = 64 };

/* Spinning, for waits of microseconds between the steps of one image. All zero: ready. */
typedef struct {
    int32_t arrived, generation;
} qn_barrier;

void qn_barrier_wait(qn_barrier *barrier, int32_t threads);

/* Calls function(argument, index) for each index below `threads`, index 0 by the caller; returns when all have ended.
 * Gives the number of threads that took part: fewer where another call has them or where none can be started. The number is
 * stored in *threads before any of them begins. */
void qn_threads_run(void (*function)(void *argument, int32_t index), void *argument, int32_t *threads);

#endif
