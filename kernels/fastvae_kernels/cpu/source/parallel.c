/* Threads for one call: they live as long as it, so that a fork between calls loses nothing. */

#include "common.h"

#include <pthread.h>

#define MOST_THREADS 256

typedef struct {
    work run;
    const void *context;
    int64_t first, last;
} range;

static void *run_range(void *argument) {
    const range *own = argument;
    own->run(own->context, own->first, own->last);
    return 0;
}

void fastvae_parallel(work run, const void *context, int64_t count, int threads) {
    pthread_t started[MOST_THREADS];
    range ranges[MOST_THREADS];
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > count) threads = (int)count;
    if (threads < 1) threads = 1;
    int running = 0;
    for (int i = threads - 1; i >= 0; i--) {
        ranges[i] = (range){run, context, count / threads * i, i == threads - 1 ? count : count / threads * (i + 1)};
        /* Where no further thread can be had, this one does the work. */
        if (i > 0 && pthread_create(&started[running], 0, run_range, &ranges[i]) == 0)
            running++;
        else
            run_range(&ranges[i]);
    }
    while (running > 0) pthread_join(started[--running], 0);
}
