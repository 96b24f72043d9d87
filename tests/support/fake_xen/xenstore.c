/* The part of libxenstore that vramtap uses: values, children of a path, and watches. */

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include "state.h"

#define MOST_VALUES 128
#define MOST_WATCHES 8
#define MOST_EVENTS 256
#define READ_ONLY 1ul

static struct value {
    char *path, *data;
    unsigned length;
} values[MOST_VALUES];

struct store {
    struct handle handle;
    char *watched[MOST_WATCHES], *tokens[MOST_WATCHES];
    char *events[MOST_EVENTS], *event_tokens[MOST_EVENTS];
    unsigned watches, begin, end;
    int readable;
    struct store *next;
};

static struct store *stores;

static void queue(struct store *store, const char *path, const char *token)
{
    if (store->end - store->begin == MOST_EVENTS)
        abort();
    store->events[store->end % MOST_EVENTS] = strdup(path);
    store->event_tokens[store->end++ % MOST_EVENTS] = strdup(token);
    if (eventfd_write(store->readable, 1))
        abort();
}

static bool at_or_under(const char *path, const char *watched)
{
    size_t length = strlen(watched);
    return !strncmp(path, watched, length) && (!path[length] || path[length] == '/');
}

static void changed(const char *path)
{
    for (struct store *store = stores; store; store = store->next)
        for (unsigned at = 0; at < store->watches; at++)
            if (at_or_under(path, store->watched[at]))
                queue(store, path, store->tokens[at]);
}

struct store *xs_open(unsigned long flags)
{
    if (fails(__func__))
        return NULL;
    if (flags != READ_ONLY) {
        errno = EINVAL;
        return NULL;
    }
    struct store *store = calloc(1, sizeof *store);
    opened(&store->handle, XENSTORE);
    store->readable = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    pthread_mutex_lock(&fake_lock);
    store->next = stores;
    stores = store;
    pthread_mutex_unlock(&fake_lock);
    return store;
}

void xs_close(struct store *store)
{
    pthread_mutex_lock(&fake_lock);
    for (struct store **each = &stores; *each; each = &(*each)->next)
        if (*each == store) {
            *each = store->next;
            break;
        }
    for (; store->begin != store->end; store->begin++) {
        free(store->events[store->begin % MOST_EVENTS]);
        free(store->event_tokens[store->begin % MOST_EVENTS]);
    }
    for (unsigned at = 0; at < store->watches; at++) {
        free(store->watched[at]);
        free(store->tokens[at]);
    }
    close(store->readable);
    pthread_mutex_unlock(&fake_lock);
    closed(&store->handle);
}

void *xs_read(struct store *store, uint32_t transaction, const char *path, unsigned *length)
{
    void *result = NULL;
    pthread_mutex_lock(&fake_lock);
    check(&store->handle, XENSTORE);
    if (!fails(__func__)) {
        errno = transaction ? EINVAL : ENOENT;
        for (size_t at = 0; at < MOST_VALUES && !transaction && !result; at++)
            if (values[at].path && !strcmp(values[at].path, path)) {
                char *copy = malloc(values[at].length + 1);
                memcpy(copy, values[at].data, values[at].length);
                copy[values[at].length] = 0;
                *length = values[at].length;
                result = copy;
            }
    }
    pthread_mutex_unlock(&fake_lock);
    return result;
}

/* The names of a path's children in one block of memory: pointers, then the strings. */
static char **listed(const char *path, unsigned *count)
{
    size_t length = strlen(path), bytes = 0;
    const char *found[MOST_VALUES];
    size_t lengths[MOST_VALUES];
    unsigned many = 0;
    for (size_t at = 0; at < MOST_VALUES; at++) {
        const char *each = values[at].path;
        if (!each || strncmp(each, path, length) || each[length] != '/')
            continue;
        const char *name = each + length + 1;
        size_t name_length = strcspn(name, "/");
        bool known = false;
        for (unsigned of = 0; of < many && !known; of++)
            known = lengths[of] == name_length && !memcmp(found[of], name, name_length);
        if (known)
            continue;
        found[many] = name;
        lengths[many++] = name_length;
        bytes += name_length + 1;
    }
    if (!many)
        return NULL;
    char **names = malloc(many * sizeof *names + bytes);
    char *text = (char *)(names + many);
    for (unsigned of = 0; of < many; of++) {
        names[of] = memcpy(text, found[of], lengths[of]);
        text[lengths[of]] = 0;
        text += lengths[of] + 1;
    }
    *count = many;
    return names;
}

char **xs_directory(struct store *store, uint32_t transaction, const char *path, unsigned *count)
{
    char **names = NULL;
    pthread_mutex_lock(&fake_lock);
    check(&store->handle, XENSTORE);
    if (!fails(__func__)) {
        errno = transaction ? EINVAL : ENOENT;
        names = transaction ? NULL : listed(path, count);
    }
    pthread_mutex_unlock(&fake_lock);
    return names;
}

bool xs_watch(struct store *store, const char *path, const char *token)
{
    bool watched = false;
    pthread_mutex_lock(&fake_lock);
    check(&store->handle, XENSTORE);
    if (!fails(__func__)) {
        errno = E2BIG;
        watched = store->watches < MOST_WATCHES;
    }
    if (watched) {
        store->watched[store->watches] = strdup(path);
        store->tokens[store->watches++] = strdup(token);
        queue(store, path, token);
    }
    pthread_mutex_unlock(&fake_lock);
    return watched;
}

int xs_fileno(struct store *store)
{
    check(&store->handle, XENSTORE);
    return fails(__func__) ? -1 : store->readable;
}

char **xs_check_watch(struct store *store)
{
    char **fields = NULL;
    pthread_mutex_lock(&fake_lock);
    check(&store->handle, XENSTORE);
    if (!fails(__func__)) {
        eventfd_t ignored;
        errno = EAGAIN;
        if (store->begin != store->end) {
            char *path = store->events[store->begin % MOST_EVENTS];
            char *token = store->event_tokens[store->begin++ % MOST_EVENTS];
            size_t length = strlen(path) + 1, token_length = strlen(token) + 1;
            fields = malloc(2 * sizeof *fields + length + token_length);
            fields[0] = memcpy(fields + 2, path, length);
            fields[1] = memcpy(fields[0] + length, token, token_length);
            free(path);
            free(token);
        }
        if (store->begin == store->end && eventfd_read(store->readable, &ignored) && !fields)
            errno = EAGAIN;
    }
    pthread_mutex_unlock(&fake_lock);
    return fields;
}

/* For the tests */

static void removed(struct value *value)
{
    free(value->path);
    free(value->data);
    *value = (struct value){0};
}

void fake_store(const char *path, const char *data, unsigned length)
{
    pthread_mutex_lock(&fake_lock);
    struct value *free_one = NULL;
    for (size_t at = 0; at < MOST_VALUES; at++) {
        if (values[at].path && !strcmp(values[at].path, path))
            removed(&values[at]);
        if (!values[at].path && !free_one)
            free_one = &values[at];
    }
    if (!free_one)
        abort();
    free_one->path = strdup(path);
    free_one->data = malloc(length + 1);
    memcpy(free_one->data, data, length);
    free_one->length = length;
    changed(path);
    pthread_mutex_unlock(&fake_lock);
}

/* Remove a path and its children. */
void fake_remove(const char *path)
{
    pthread_mutex_lock(&fake_lock);
    for (size_t at = 0; at < MOST_VALUES; at++)
        if (values[at].path && at_or_under(values[at].path, path))
            removed(&values[at]);
    changed(path);
    pthread_mutex_unlock(&fake_lock);
}

/* Fire a special watch: `@releaseDomain` or `@introduceDomain`. */
void fake_fire(const char *path)
{
    pthread_mutex_lock(&fake_lock);
    changed(path);
    pthread_mutex_unlock(&fake_lock);
}

void fake_reset_store(void)
{
    stores = NULL;
    for (size_t at = 0; at < MOST_VALUES; at++)
        if (values[at].path)
            removed(&values[at]);
}
