/* Makes writes fail, or the process die, below Python: preloaded into a child, it stands before the C library.

   What is counted are writes, fsyncs, renames and links of files below $FAULT_ROOT with $FAULT_PART in their paths, from
   the moment $FAULT_AFTER exists.
   $FAULT_KIND, one of write, fsync and rename (links among them), leaves the others out. At number $FAULT_AT the call fails with $FAULT_ERRNO, or, where that is 0, the process is killed before the call.
   With $FAULT_STAYS=1 every later one fails, too, as on a disk that is full.
   $FAULT_FREE is how many bytes of the disk of $FAULT_ROOT are said to be free. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <limits.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static int counted, begun;

static int below(const char *path) {
    const char *root = getenv("FAULT_ROOT"), *part = getenv("FAULT_PART");
    return root && strncmp(path, root, strlen(root)) == 0 && (!part || strstr(path, part));
}

static int fails(const char *kind, const char *path) {
    const char *only = getenv("FAULT_KIND");
    const char *at = getenv("FAULT_AT"), *after = getenv("FAULT_AFTER"), *log = getenv("FAULT_LOG");
    if (!at || !below(path) || (only && strcmp(only, kind) != 0)) return 0;
    if (!begun && after && syscall(SYS_access, after, F_OK) != 0) return 0;
    begun = 1;
    counted++;
    int wanted = atoi(at), stays = getenv("FAULT_STAYS") != NULL;
    if (counted != wanted && !(stays && counted > wanted)) return 0;
    if (log) {
        long fd = syscall(SYS_openat, -100, log, 01 | 0100 | 02000, 0644);
        syscall(SYS_write, fd, path, strlen(path));
        syscall(SYS_write, fd, "\n", 1);
        syscall(SYS_close, fd);
    }
    int number = atoi(getenv("FAULT_ERRNO"));
    if (number == 0) {
        syscall(SYS_kill, getpid(), SIGKILL);
        pause();
    }
    errno = number;
    return 1;
}

static int fd_fails(const char *kind, int fd) {
    char link[64], path[PATH_MAX];
    if (!getenv("FAULT_AT")) return 0;
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t length = syscall(SYS_readlinkat, -100, link, path, sizeof path - 1);
    if (length < 0) return 0;
    path[length] = 0;
    return fails(kind, path);
}

static int path_fails(const char *path) {
    char full[PATH_MAX];
    if (!getenv("FAULT_AT")) return 0;
    if (path[0] == '/') return fails("rename", path);
    if (!getcwd(full, sizeof full - strlen(path) - 2)) return 0;
    strcat(full, "/");
    strcat(full, path);
    return fails("rename", full);
}

#define REAL(name) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))

ssize_t write(int fd, const void *data, size_t size) { return fd_fails("write", fd) ? -1 : REAL(write)(fd, data, size); }
ssize_t writev(int fd, const struct iovec *parts, int n) { return fd_fails("write", fd) ? -1 : REAL(writev)(fd, parts, n); }
ssize_t pwrite64(int fd, const void *data, size_t size, off64_t at) {
    return fd_fails("write", fd) ? -1 : REAL(pwrite64)(fd, data, size, at);
}
int fsync(int fd) { return fd_fails("fsync", fd) ? -1 : REAL(fsync)(fd); }
int rename(const char *from, const char *to) { return path_fails(to) ? -1 : REAL(rename)(from, to); }
int renameat(int f, const char *from, int t, const char *to) {
    return path_fails(to) ? -1 : REAL(renameat)(f, from, t, to);
}
int link(const char *from, const char *to) { return path_fails(to) ? -1 : REAL(link)(from, to); }
int linkat(int f, const char *from, int t, const char *to, int flags) {
    return path_fails(to) ? -1 : REAL(linkat)(f, from, t, to, flags);
}

static int lie(int done, const char *path, fsblkcnt64_t *free, fsblkcnt64_t *available, unsigned long size) {
    const char *bytes = getenv("FAULT_FREE");
    if (done == 0 && bytes && below(path)) *free = *available = strtoull(bytes, NULL, 10) / size;
    return done;
}
int statvfs64(const char *path, struct statvfs64 *found) {
    int done = REAL(statvfs64)(path, found);
    return lie(done, path, &found->f_bfree, &found->f_bavail, found->f_frsize);
}
int statvfs(const char *path, struct statvfs *found) {
    int done = REAL(statvfs)(path, found);
    fsblkcnt64_t free = found->f_bfree, available = found->f_bavail;
    lie(done, path, &free, &available, found->f_frsize);
    found->f_bfree = free, found->f_bavail = available;
    return done;
}
