/*
 * io_pread: a few threads with pread, for systems without io_uring.
 *
 * The threads touch only the op they were handed and the buffer behind it;
 * ops go over and come back under the mutex. Requests never leave the driver.
 */
#include "io/io_impl.h"

#include <errno.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#define N_THREADS 4 /* for each drive, so that a slow one keeps no other waiting */

struct op_list {
    struct io_op *head, *tail;
};

struct preader {
    pthread_mutex_t mutex;
    pthread_cond_t todo_cond, done_cond;
    struct op_list todo, done;
    bool stop;
    pthread_t threads[N_THREADS * IO_MAX_DRIVES];
    int n_threads, n_drives;
};

static void list_add(struct op_list *l, struct io_op *op)
{
    op->next = NULL;
    if (l->tail)
        l->tail->next = op;
    else
        l->head = op;
    l->tail = op;
}

static struct io_op *list_take(struct op_list *l)
{
    struct io_op *op = l->head;
    if (op) {
        l->head = op->next;
        if (!l->head)
            l->tail = NULL;
    }
    return op;
}

static void *reader(void *arg)
{
    struct preader *p = arg;
    pthread_mutex_lock(&p->mutex);
    while (!p->stop) {
        struct io_op *op = list_take(&p->todo);
        if (!op) {
            pthread_cond_wait(&p->todo_cond, &p->mutex);
            continue;
        }
        pthread_mutex_unlock(&p->mutex);
        ssize_t n = pread(op->fd, op->buf, op->len, op->offset);
        op->res = n < 0 ? -errno : n;
        pthread_mutex_lock(&p->mutex);
        list_add(&p->done, op);
        pthread_cond_signal(&p->done_cond);
    }
    pthread_mutex_unlock(&p->mutex);
    return NULL;
}

static void pread_close(void *be)
{
    struct preader *p = be;
    pthread_mutex_lock(&p->mutex);
    p->stop = true;
    pthread_cond_broadcast(&p->todo_cond);
    pthread_mutex_unlock(&p->mutex);
    for (int i = 0; i < p->n_threads; i++)
        pthread_join(p->threads[i], NULL);
    pthread_cond_destroy(&p->todo_cond);
    pthread_cond_destroy(&p->done_cond);
    pthread_mutex_destroy(&p->mutex);
    free(p);
}

static int pread_open(struct ioq *q, void **be, struct err *e)
{
    (void)q;
    struct preader *p = calloc(1, sizeof *p);
    if (!p)
        return err_set(e, E_NOMEM, "read queue: no memory for the reader threads");
    pthread_condattr_t attr;
    pthread_condattr_init(&attr);
    pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
    pthread_mutex_init(&p->mutex, NULL);
    pthread_cond_init(&p->todo_cond, NULL);
    pthread_cond_init(&p->done_cond, &attr);
    pthread_condattr_destroy(&attr);

    *be = p;
    return OK;
}

static int pread_add_drive(void *be, struct err *e)
{
    struct preader *p = be;
    int want = N_THREADS * MIN(++p->n_drives, IO_MAX_DRIVES);
    while (p->n_threads < want && os_thread_new(&p->threads[p->n_threads], reader, p))
        p->n_threads++;
    return p->n_threads ? OK
                        : err_set(e, E_NOMEM, "read queue: the system refused a reader thread");
}

static void pread_start(void *be, struct io_op *op)
{
    struct preader *p = be;
    pthread_mutex_lock(&p->mutex);
    list_add(&p->todo, op);
    pthread_cond_signal(&p->todo_cond);
    pthread_mutex_unlock(&p->mutex);
}

static void pread_flush(void *be)
{
    (void)be;
}

static int pread_reap(struct ioq *q, void *be, int64_t timeout_ns)
{
    struct preader *p = be;
    struct timespec until = {0};
    if (timeout_ns > 0) {
        clock_gettime(CLOCK_MONOTONIC, &until);
        int64_t ns = until.tv_nsec + timeout_ns;
        until.tv_sec += (time_t)(ns / 1000000000);
        until.tv_nsec = (long)(ns % 1000000000);
    }
    pthread_mutex_lock(&p->mutex);
    int rc = 0;
    while (!p->done.head && timeout_ns && rc == 0)
        rc = timeout_ns < 0 ? pthread_cond_wait(&p->done_cond, &p->mutex)
                            : pthread_cond_timedwait(&p->done_cond, &p->mutex, &until);
    struct op_list done = p->done;
    p->done = (struct op_list){NULL, NULL};
    pthread_mutex_unlock(&p->mutex);

    struct io_op *op;
    while ((op = list_take(&done)) != NULL)
        io_reaped(q, op, op->res);
    return 0;
}

const struct io_backend io_backend_pread = {
    .name = "pread",
    .open = pread_open,
    .close = pread_close,
    .max_depth = N_THREADS,
    .add_drive = pread_add_drive,
    .start = pread_start,
    .flush = pread_flush,
    .reap = pread_reap,
};
