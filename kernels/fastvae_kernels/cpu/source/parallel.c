/* Work on several threads: those of PyTorch's own operations where they can be had, or ours, or new ones for one call.

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

/* Threads of our own, which sleep until there is work for `wanted` of them; `running` have some, or are to have it. */
static pthread_mutex_t taken = PTHREAD_MUTEX_INITIALIZER, lock = PTHREAD_MUTEX_INITIALIZER;
static pthread_cond_t wake = PTHREAD_COND_INITIALIZER, done = PTHREAD_COND_INITIALIZER;
static team *asleep_for;
static int members, wanted, running;

/* Neither those that OpenMP believes to have nor ours are there in a forked process. */
static void forget(void) {
    parallel = 0;
    pthread_mutex_init(&taken, 0);
    pthread_mutex_init(&lock, 0);
    pthread_cond_init(&wake, 0);
    pthread_cond_init(&done, 0);
    members = wanted = running = 0;
}

static void *be_member(void *argument) {
    (void)argument;
    pthread_mutex_lock(&lock);
    for (;;) {
        while (!wanted) pthread_cond_wait(&wake, &lock);
        wanted--;
        team *own = asleep_for;
        pthread_mutex_unlock(&lock);
        take_shares(own);
        pthread_mutex_lock(&lock);
        if (!--running) pthread_cond_signal(&done);
    }
    return 0;
}

static void look(void) {
    void *found = dlsym(RTLD_DEFAULT, "GOMP_parallel");
    memcpy(&parallel, &found, sizeof parallel);
    pthread_atfork(0, 0, forget);
}

/* Wakes threads for all but one of the shares, and takes part. Whether nobody else had them. */
static int run_awake(team *own) {
    if (pthread_mutex_trylock(&taken)) return 0;
    pthread_mutex_lock(&lock);
    pthread_t started;
    /* Where no further thread can be had, those there are do the work. */
    while (members < own->shares - 1 && pthread_create(&started, 0, be_member, 0) == 0) {
        pthread_detach(started);
        members++;
    }
    asleep_for = own;
    wanted = running = members < own->shares - 1 ? members : own->shares - 1;
    pthread_cond_broadcast(&wake);
    pthread_mutex_unlock(&lock);
    take_shares(own);
    pthread_mutex_lock(&lock);
    running -= wanted; /* who has not woken yet is not needed any more */
    wanted = 0;
    while (running) pthread_cond_wait(&done, &lock);
    pthread_mutex_unlock(&lock);
    pthread_mutex_unlock(&taken);
    return 1;
}

/* Makes threads for all but one of the shares, and takes part. */
static void run_new(team *own) {
    pthread_t started[MOST_THREADS];
    int count = 0;
    while (count < own->shares - 1 && pthread_create(&started[count], 0, start_member, own) == 0) count++;
    take_shares(own);
    while (count > 0) pthread_join(started[--count], 0);
}

static void share(work run, const void *context, int64_t count, int threads, int apart) {
    if (threads > MOST_THREADS) threads = MOST_THREADS;
    if (threads > count) threads = (int)count;
    if (threads <= 1) {
        run(context, 0, count);
        return;
    }
    team own = {run, context, count, threads, 0};
    pthread_once(&looked, look);
    if (parallel && !apart)
        parallel(take_shares, &own, (unsigned)threads, 0);
    else if (!run_awake(&own))
        run_new(&own);
}

void fastvae_parallel(work run, const void *context, int64_t count, int threads) {
    share(run, context, count, threads, 0);
}

void fastvae_parallel_apart(work run, const void *context, int64_t count, int threads) {
    share(run, context, count, threads, 1);
}
