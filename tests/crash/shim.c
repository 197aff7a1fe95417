/* Stands between a program and libc, and sees every call that changes something below one folder.
 *
 * It counts the calls, and can record them, or at the n-th one end the process, stop it, or let the call
 * fail. Python, SQLite and every library go through it. Files of shared memory (-shm) are left alone: no
 * power cut and no crash lets anybody read them again.
 *
 *     cc -shared -fPIC -o shim.so shim.c -ldl;  LD_PRELOAD=./shim.so program
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/types.h>
#include <unistd.h>

enum { WATCH, KILL_BEFORE, KILL_AFTER, KILL_HALF_WAY, FAIL_ONCE, FAIL_FROM_HERE, STOP };

static char root[PATH_MAX];
static long at, count;
static int action, code, records = -1;

#define REAL(type, name, ...) ((type(*)(__VA_ARGS__))dlsym(RTLD_NEXT, #name))

void shim_arm(const char *folder, int what, long which, int error, int file) {
    count = 0, at = which, action = what, code = error, records = file;
    snprintf(root, sizeof root, "%s", folder);
}

static int watched(const char *path) {
    size_t n = strlen(root), m = strlen(path);
    return n && !strncmp(path, root, n) && (!path[n] || path[n] == '/') && !(m > 4 && !strcmp(path + m - 4, "-shm"));
}

static void full(int folder, const char *path, char *out) {
    char base[PATH_MAX] = "", link[64];
    if (path[0] != '/') {
        ssize_t n = -1;
        if (folder == AT_FDCWD)
            n = getcwd(base, sizeof base) ? (ssize_t)strlen(base) : -1;
        else {
            snprintf(link, sizeof link, "/proc/self/fd/%d", folder);
            n = readlink(link, base, sizeof base - 1);
        }
        base[n < 0 ? 0 : n] = 0;
        snprintf(out, PATH_MAX, "%s/%s", base, path);
    } else
        snprintf(out, PATH_MAX, "%s", path);
}

static int of_handle(int handle, char *out) {
    char link[64];
    int before = errno;
    snprintf(link, sizeof link, "/proc/self/fd/%d", handle);
    ssize_t n = readlink(link, out, PATH_MAX - 1);
    errno = before;
    out[n < 0 ? 0 : n] = 0;
    return root[0] && n > 0 && watched(out);
}

/* Count a call; -1 when it is to fail. Only calls that need room go on failing on a full disk. */
static int before(int needs_room) {
    count++;
    if (count == at && action == KILL_BEFORE) kill(getpid(), SIGKILL);
    if (count == at && action == STOP) kill(getpid(), SIGSTOP);
    if ((count == at && action == FAIL_ONCE) || (count >= at && action == FAIL_FROM_HERE && needs_room)) {
        errno = code;
        return -1;
    }
    return 0;
}

static void put(const void *data, size_t size) {
    for (size_t done = 0; done < size;) {
        ssize_t n = REAL(ssize_t, write, int, const void *, size_t)(records, (const char *)data + done, size - done);
        if (n <= 0) _exit(99);
        done += n;
    }
}

static void after(const char *op, long result, const char *path, const char *other, long offset, const void *data, size_t size) {
    int kept = errno;
    if (records >= 0) {
        char line[2 * PATH_MAX + 100];
        int n = snprintf(line, sizeof line, "%s\t%ld\t%ld\t%zu\t%s\t%s\n", op, result, offset, data ? size : 0, path, other);
        put(line, n);
        if (data) put(data, size);
    }
    if (count == at && action == KILL_AFTER) kill(getpid(), SIGKILL);
    errno = kept;
}

static ssize_t writes(int handle, const void *data, size_t size, off_t offset, int placed) {
    char path[PATH_MAX];
    ssize_t (*plain)(int, const void *, size_t) = REAL(ssize_t, write, int, const void *, size_t);
    ssize_t (*here)(int, const void *, size_t, off_t) = REAL(ssize_t, pwrite64, int, const void *, size_t, off_t);
    if (!of_handle(handle, path)) return placed ? here(handle, data, size, offset) : plain(handle, data, size);
    if (!placed) offset = lseek(handle, 0, SEEK_CUR);
    if (before(1)) {
        after("write", -1, path, "", 0, NULL, 0);
        return -1;
    }
    if (count >= at && action == KILL_HALF_WAY) { /* the n-th call of this run may be no write */
        here(handle, data, size / 2, offset);
        kill(getpid(), SIGKILL);
    }
    ssize_t n = placed ? here(handle, data, size, offset) : plain(handle, data, size);
    after("write", n, path, "", offset, data, n < 0 ? 0 : n);
    return n;
}

ssize_t write(int handle, const void *data, size_t size) { return writes(handle, data, size, 0, 0); }
ssize_t pwrite(int handle, const void *data, size_t size, off_t offset) { return writes(handle, data, size, offset, 1); }
ssize_t pwrite64(int handle, const void *data, size_t size, off_t offset) { return writes(handle, data, size, offset, 1); }

static int opens(int folder, const char *name, int flags, mode_t mode) {
    char path[PATH_MAX];
    int (*real)(int, const char *, int, mode_t) = REAL(int, openat64, int, const char *, int, mode_t);
    full(folder, name, path);
    int fresh = access(path, F_OK) != 0;
    if (!root[0] || !watched(path) || !((flags & O_CREAT && fresh) || flags & O_TRUNC))
        return real(folder, name, flags, mode);
    int handle = before(1) ? -1 : real(folder, name, flags, mode);
    after(fresh ? "create" : "truncate", handle < 0 ? -1 : 0, path, "", 0, NULL, 0);
    return handle;
}

#define OPEN(name, folder, ...) \
    int name(__VA_ARGS__, const char *path, int flags, ...) { \
        va_list rest; va_start(rest, flags); \
        mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(rest, int) : 0; va_end(rest); \
        return opens(folder, path, flags, mode); \
    }
OPEN(openat, folder, int folder)
OPEN(openat64, folder, int folder)
#undef OPEN
int open(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = flags & O_CREAT ? va_arg(rest, int) : 0; va_end(rest);
    return opens(AT_FDCWD, path, flags, mode);
}
int open64(const char *path, int flags, ...) {
    va_list rest; va_start(rest, flags); mode_t mode = flags & O_CREAT ? va_arg(rest, int) : 0; va_end(rest);
    return opens(AT_FDCWD, path, flags, mode);
}

#define ON_HANDLE(name, op, type, offset, needs_room, parameters, ...) \
    type name parameters { \
        char path[PATH_MAX]; \
        type (*real) parameters = (type(*) parameters)dlsym(RTLD_NEXT, #name); \
        if (!of_handle(handle, path)) return real(__VA_ARGS__); \
        type n = before(needs_room) ? -1 : real(__VA_ARGS__); \
        after(op, n, path, "", offset, NULL, 0); \
        return n; \
    }
ON_HANDLE(fsync, "sync", int, 0, 1, (int handle), handle)
ON_HANDLE(fdatasync, "sync", int, 0, 1, (int handle), handle)
ON_HANDLE(fchmod, "mode", int, 0, 0, (int handle, mode_t mode), handle, mode)
ON_HANDLE(ftruncate, "resize", int, size, 0, (int handle, off_t size), handle, size)
ON_HANDLE(ftruncate64, "resize", int, size, 0, (int handle, off_t size), handle, size)

#define ON_PATH(name, op, folder, needs_room, parameters, ...) \
    int name parameters { \
        char where[PATH_MAX]; \
        int (*real) parameters = (int(*) parameters)dlsym(RTLD_NEXT, #name); \
        full(folder, path, where); \
        if (!root[0] || !watched(where)) return real(__VA_ARGS__); \
        int n = before(needs_room) ? -1 : real(__VA_ARGS__); \
        after(op, n, where, "", 0, NULL, 0); \
        return n; \
    }
ON_PATH(unlink, "remove", AT_FDCWD, 0, (const char *path), path)
ON_PATH(rmdir, "remove", AT_FDCWD, 0, (const char *path), path)
ON_PATH(unlinkat, "remove", folder, 0, (int folder, const char *path, int flags), folder, path, flags)
ON_PATH(mkdir, "folder", AT_FDCWD, 1, (const char *path, mode_t mode), path, mode)
ON_PATH(chmod, "mode", AT_FDCWD, 0, (const char *path, mode_t mode), path, mode)

int rename(const char *old, const char *new) {
    char from[PATH_MAX], to[PATH_MAX];
    full(AT_FDCWD, old, from), full(AT_FDCWD, new, to);
    if (!root[0] || !watched(to)) return REAL(int, rename, const char *, const char *)(old, new);
    int n = before(1) ? -1 : REAL(int, rename, const char *, const char *)(old, new);
    after("rename", n, from, to, 0, NULL, 0);
    return n;
}

int symlink(const char *target, const char *path) {
    char where[PATH_MAX];
    full(AT_FDCWD, path, where);
    if (!root[0] || !watched(where)) return REAL(int, symlink, const char *, const char *)(target, path);
    int n = before(1) ? -1 : REAL(int, symlink, const char *, const char *)(target, path);
    after("link", n, where, target, 0, NULL, 0);
    return n;
}
