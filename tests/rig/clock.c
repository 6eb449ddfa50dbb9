/*
 * What libfaketime cannot deceive: glibc's C11 cnd_timedwait, with which librdkafka waits, calls the real
 * pthread_cond_timedwait within glibc, and with a point in time of the false clock it would wait for hours, or not at
 * all. This one asks for it by name, so that libfaketime's is found. Preloaded before libfaketime.
 */
#include <errno.h>
#include <pthread.h>
#include <threads.h>

int cnd_timedwait(cnd_t *cond, mtx_t *mutex, const struct timespec *until)
{
    /* In glibc both pairs are the same objects. */
    int ended = pthread_cond_timedwait((pthread_cond_t *)cond, (pthread_mutex_t *)mutex, until);
    if (ended == 0)
        return thrd_success;
    return ended == ETIMEDOUT ? thrd_timedout : thrd_error;
}
