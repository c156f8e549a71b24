/* The same work on several parts, each on a thread of its own. */
#include <pthread.h>

#define MOST_THREADS 64
#define WORTH_A_THREAD 2e7 /* multiply-adds */

/* How many threads some work is worth, of so many and for so many tiles of rows. */
static int64_t worth(double multiply_adds, int64_t threads, int64_t tiles)
{
    int64_t most = at_most(at_most(threads, MOST_THREADS), tiles);
    most = multiply_adds / WORTH_A_THREAD < most ? (int64_t)(multiply_adds / WORTH_A_THREAD) : most;
    return most < 1 ? 1 : most;
}

/* Calls a function of every part; the last one on this thread, and any that no thread can be had for. */
static void on_threads(void *(*function)(void *), void *parts, size_t size, int64_t number)
{
    pthread_t threads[MOST_THREADS];
    int started[MOST_THREADS];
    for (int64_t k = 0; k < number; k++) {
        void *part = (char *)parts + k * size;
        started[k] = k + 1 < number && !pthread_create(threads + k, 0, function, part);
        if (!started[k])
            function(part);
    }
    for (int64_t k = 0; k < number; k++)
        if (started[k])
            pthread_join(threads[k], 0);
}
