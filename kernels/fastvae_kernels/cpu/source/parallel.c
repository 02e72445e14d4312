/* Work on several threads: those of PyTorch's own operations where they can be had, else new ones for one call.

   PyTorch's threads wait for its next operation by spinning, for milliseconds, on the very processors that other threads
   would need. Its runtime, GNU OpenMP, is found among what the process has loaded; nothing is linked to it. */

#define _GNU_SOURCE /* RTLD_DEFAULT */

#include "common.h"

#include <dlfcn.h>
#include <pthread.h>

#define MOST_THREADS 256

typedef struct {
    work run;
    const void *context;
    int64_t count;
    int shares, next; /* next: the first share that nobody has taken */
} team;

/* A member takes shares until none is left, however many members there are. */
static void take_shares(void *argument) {
    team *own = argument;
    for (;;) {
        int64_t share = __atomic_fetch_add(&own->next, 1, __ATOMIC_RELAXED);
        if (share >= own->shares) return;
        own->run(own->context, own->count * share / own->shares, own->count * (share + 1) / own->shares);
    }
}

static void *start_member(void *argument) {
    take_shares(argument);
    return 0;
}

typedef void (*openmp)(void (*member)(void *), void *argument, unsigned threads, unsigned flags);

static pthread_once_t looked = PTHREAD_ONCE_INIT;
static openmp parallel;

/* The threads that OpenMP believes to have are not there in a forked process. */
static void forget(void) { parallel = 0; }

static void look(void) {
    void *found = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    memcpy(&parallel, &found, sizeof parallel);
    pthread_atfork(0, 0, forget);
}

void fastvae_parallel(work run, const void *context, int64_t count, int threads) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > count) threads = (int)count;
    if (threads <= 1) {
        run(context, 0, count);
        return;
    }
    team own = {run, context, count, threads, 0};
    pthread_once(&looked, look);
    if (parallel) {
        parallel(take_shares, &own, (unsigned)threads, 0);
        return;
    }
    pthread_t started[MOST_THREADS];
    int running = 0;
    /* Where no further thread can be had, those there are do the work. */
    while (running < threads - 1 && pthread_create(&started[running], 0, start_member, &own) == 0) running++;
    take_shares(&own);
    while (running > 0) pthread_join(started[--running], 0);
}
