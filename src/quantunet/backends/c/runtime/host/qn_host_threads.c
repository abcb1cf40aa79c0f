#ifdef __linux__
#define _GNU_SOURCE
#else
#define _POSIX_C_SOURCE 200809L
#endif

#include "qn_host_threads.h"

#include <pthread.h>
#include <sched.h>
#include <stddef.h>

enum { SPINS = 2000 };

static struct {
    pthread_mutex_t busy; /* held by the call that has the workers */
    pthread_mutex_t mutex;
    pthread_cond_t start, end;
    int32_t workers;           /* that were started; index 1 and on */
    int32_t wanted, running;   /* of the present call */
    int64_t call;              /* counts calls */
    void (*function)(void *argument, int32_t index);
    void *argument;
} pool = {PTHREAD_MUTEX_INITIALIZER, PTHREAD_MUTEX_INITIALIZER, PTHREAD_COND_INITIALIZER, PTHREAD_COND_INITIALIZER,
          0, 0, 0, 0, NULL, NULL};

static pthread_once_t once = PTHREAD_ONCE_INIT;

#ifdef __linux__
/* Linux may wake a worker on the caller's processor and leave both there for milliseconds, longer than an image takes,
 * while others idle. So each thread of a call notes its processor, and a worker that finds it taken moves to another. */
static struct {
    cpu_set_t allowed, taken;
} processors;

static void caller_note_processor(void)
{
    CPU_ZERO(&processors.taken);
    if (pthread_getaffinity_np(pthread_self(), sizeof processors.allowed, &processors.allowed) != 0) {
        CPU_ZERO(&processors.allowed);
    }
    CPU_SET((size_t)sched_getcpu(), &processors.taken);
}

static void worker_find_processor(void)
{
    if (CPU_ISSET((size_t)sched_getcpu(), &processors.taken)) {
        cpu_set_t others;
        CPU_AND(&others, &processors.allowed, &processors.taken);
        CPU_XOR(&others, &processors.allowed, &others);
        if (CPU_COUNT(&others) > 0) {
            (void)pthread_setaffinity_np(pthread_self(), sizeof others, &others);
        }
    }
    CPU_SET((size_t)sched_getcpu(), &processors.taken);
}
#else
static void caller_note_processor(void) {}
static void worker_find_processor(void) {}
#endif

void qn_barrier_wait(qn_barrier *barrier, int32_t threads)
{
    const int32_t generation = __atomic_load_n(&barrier->generation, __ATOMIC_ACQUIRE);

    if (__atomic_add_fetch(&barrier->arrived, 1, __ATOMIC_ACQ_REL) == threads) {
        __atomic_store_n(&barrier->arrived, 0, __ATOMIC_RELAXED);
        __atomic_store_n(&barrier->generation, generation + 1, __ATOMIC_RELEASE);
        return;
    }
    for (int32_t spin = 0; __atomic_load_n(&barrier->generation, __ATOMIC_ACQUIRE) == generation; spin++) {
        if (spin >= SPINS) {
            sched_yield();
        }
    }
}

static void *worker_run(void *argument)
{
    const int32_t index = (int32_t)(intptr_t)argument;
    int64_t seen = 0;

    pthread_mutex_lock(&pool.mutex);
    for (;;) {
        while (pool.call == seen || index > pool.wanted) {
            seen = pool.call;
            pthread_cond_wait(&pool.start, &pool.mutex);
        }
        seen = pool.call;
        worker_find_processor();
        pthread_mutex_unlock(&pool.mutex);
        pool.function(pool.argument, index);
        pthread_mutex_lock(&pool.mutex);
        if (--pool.running == 0) {
            pthread_cond_signal(&pool.end);
        }
    }
    return NULL;
}

/* A forked child has none of its parent's workers. */
static void child_reset(void)
{
    pthread_mutex_init(&pool.busy, NULL);
    pthread_mutex_init(&pool.mutex, NULL);
    pthread_cond_init(&pool.start, NULL);
    pthread_cond_init(&pool.end, NULL);
    pool.workers = pool.wanted = pool.running = 0;
}

static void fork_prepare(void)
{
    pthread_atfork(NULL, NULL, child_reset);
}

/* Starts workers until there are `count`; returns how many there are. */
static int32_t workers_start(int32_t count)
{
    pthread_attr_t attributes;

    pthread_once(&once, fork_prepare);
    if (pthread_attr_init(&attributes) != 0) {
        return pool.workers;
    }
    pthread_attr_setdetachstate(&attributes, PTHREAD_CREATE_DETACHED);
    while (pool.workers < count) {
        pthread_t thread;
        if (pthread_create(&thread, &attributes, worker_run, (void *)(intptr_t)(pool.workers + 1)) != 0) {
            break;
        }
        pool.workers++;
    }
    pthread_attr_destroy(&attributes);
    return pool.workers;
}

void qn_threads_run(void (*function)(void *argument, int32_t index), void *argument, int32_t *threads)
{
    int32_t others = (*threads > QN_MAX_THREADS ? QN_MAX_THREADS : *threads) - 1;

    if (others < 1 || pthread_mutex_trylock(&pool.busy) != 0) {
        *threads = 1;
        function(argument, 0);
        return;
    }
    pthread_mutex_lock(&pool.mutex);
    const int32_t started = workers_start(others);
    others = started < others ? started : others;
    *threads = others + 1;
    pool.function = function;
    pool.argument = argument;
    pool.wanted = pool.running = others;
    pool.call++;
    caller_note_processor();
    pthread_cond_broadcast(&pool.start);
    pthread_mutex_unlock(&pool.mutex);
    function(argument, 0);
    pthread_mutex_lock(&pool.mutex);
    while (pool.running > 0) {
        pthread_cond_wait(&pool.end, &pool.mutex);
    }
    pool.wanted = 0;
    pthread_mutex_unlock(&pool.mutex);
    pthread_mutex_unlock(&pool.busy);
}
