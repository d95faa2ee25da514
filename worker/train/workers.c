#include "worker/train/workers.h"
#include "worker/train/mem.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

__attribute__((noreturn)) static void child(pid_t parent, int (*work)(void *, uint32_t), void *arg,
                                            uint32_t rank) {
    /* The parent may have died between fork() and here. */
    if (prctl(PR_SET_PDEATHSIG, SIGTERM) != 0 || getppid() != parent)
        _exit(1);
    const int status = work(arg, rank);
    fflush(NULL);
    _exit(status);
}

static void end_all(const pid_t *pids, uint32_t n) {
    for (uint32_t i = 0; i < n; i++) {
        if (pids[i] > 0)
            kill(pids[i], SIGTERM);
    }
}

static int wait_for_all(pid_t *pids, uint32_t n) {
    int status = 0;
    for (uint32_t left = n; left > 0;) {
        int how;
        const pid_t pid = waitpid(-1, &how, 0);
        if (pid < 0 && errno == EINTR)
            continue;
        if (pid < 0)
            break;
        for (uint32_t i = 0; i < n; i++) {
            if (pids[i] != pid)
                continue;
            pids[i] = 0;
            left--;
            if (status == 0 && how != 0) {
                status = WIFEXITED(how) ? WEXITSTATUS(how) : 1;
                if (WIFSIGNALED(how))
                    fprintf(stderr, "dimfit-train: worker %u died: %s\n", i,
                            strsignal(WTERMSIG(how)));
                end_all(pids, n);
            }
        }
    }
    return status;
}

int workers_run(uint32_t n, int (*work)(void *arg, uint32_t rank), void *arg) {
    if (n == 1)
        return work(arg, 0);
    pid_t *const pids = mem_alloc(n, sizeof *pids);
    const pid_t parent = getpid();
    int status = 0;
    uint32_t started = 0;
    fflush(NULL);
    for (; started < n; started++) {
        const pid_t pid = fork();
        if (pid < 0) {
            fprintf(stderr, "dimfit-train: worker %u cannot be started: %s\n", started,
                    strerror(errno));
            end_all(pids, started);
            status = 1;
            break;
        }
        if (pid == 0)
            child(parent, work, arg, started);
        pids[started] = pid;
    }
    const int ended = wait_for_all(pids, started);
    free(pids);
    return status != 0 ? status : ended;
}
