/* portlayer-shim holds the streams of one incarnation, writes its log and keeps its exit code while we are away.
 *
 *     portlayer-shim FLAGS EXITS INCARNATION LOG RUNTIME ARGUMENT...
 *
 * FLAGS: `-`, with an `i` for a stdin, and a `t` for a terminal. EXITS: the directory for the exit code, decimal, in a
 * file called INCARNATION, on the file system of the working directory, which is the incarnation's. LOG: see crilog.py.
 * RUNTIME and its arguments create the process, and leave its pid in the file `pid`; a terminal they send to the socket
 * `console`.
 *
 * Descriptor 3 gets the report: the pid and a newline, or `!` and why there is none. Descriptor INPUT is, from then on, the
 * writing end of the stdin, or the terminal; others take it by pidfd_getfd(2), and SIGUSR1 closes it.
 *
 * Linked statically, and with no heap but what posix_spawn(3) takes, it costs a few pages a container, and starts in a
 * fraction of what a dynamic linker takes.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>
#include <unistd.h>

enum { REPORT = 3, INPUT = 60 };
enum { STAMP = 45, TAG = 43, LINES = 64, DRAINED = 64, LOST = 255 };

extern char **environ;

struct stream {
    int descriptor;
    const char *name; /* as the log has it */
};

static struct stream outputs[2] = {{-1, "stdout"}, {-1, "stderr"}};
static int log_file;
static bool torn; /* the last line of the log lacks its end */
static volatile sig_atomic_t unwanted; /* the stdin */
static sigset_t none;                  /* blocked while we wait */
static char buffer[32768];

static void on_signal(int number) {
    if (number == SIGUSR1) unwanted = 1;
}

/* Report why there is no process, and end. */
static void fail(const char *reason, size_t length) {
    struct iovec words[] = {{"!", 1}, {(void *)reason, length}};
    if (writev(REPORT, words, 2) < 0) _exit(2);
    _exit(1);
}

/* The same for a system call, with its error. */
static void fail_at(const char *call) {
    const char *error = strerror(errno);
    size_t call_length = strlen(call), error_length = strlen(error);
    memcpy(buffer, call, call_length);
    memcpy(buffer + call_length, ": ", 2);
    memcpy(buffer + call_length + 2, error, error_length);
    fail(buffer, call_length + 2 + error_length);
}

static int checked(int result, const char *call) {
    if (result < 0) fail_at(call);
    return result;
}

static void put_number(char *end, int digits, long number) {
    for (; digits > 0; digits--, number /= 10) *--end = (char)('0' + number % 10);
}

/* `2026-11-23T06:29:22.018603657+00:00 stdout F `, STAMP characters. The date: Howard Hinnant, civil_from_days. */
static void stamp(char *text, const char *stream) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    long days = now.tv_sec / 86400 + 719468, second = now.tv_sec % 86400;
    long era = days / 146097, day_of_era = days % 146097;
    long year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
    long day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    long shifted = (5 * day_of_year + 2) / 153, month = shifted < 10 ? shifted + 3 : shifted - 9;
    memcpy(text, "0000-00-00T00:00:00.000000000+00:00 ...... F ", STAMP);
    put_number(text + 4, 4, year_of_era + 400 * era + (month <= 2));
    put_number(text + 7, 2, month);
    put_number(text + 10, 2, day_of_year - (153 * shifted + 2) / 5 + 1);
    put_number(text + 13, 2, second / 3600);
    put_number(text + 16, 2, second / 60 % 60);
    put_number(text + 19, 2, second % 60);
    put_number(text + 29, 9, now.tv_nsec);
    memcpy(text + 36, stream, 6);
}

/* Append whole lines; where the disk is full, what does not fit is lost, and the container is not kept waiting. */
static void append(struct iovec *parts, int count) {
    size_t wanted = 0;
    for (int part = 0; part < count; part++) wanted += parts[part].iov_len;
    ssize_t written = writev(log_file, parts, count);
    if (written != 0) torn = written > 0 ? (size_t)written < wanted : torn;
}

/* Log what was read: a line for each line, and one with the tag P for the rest, which has no newline yet. */
static void log_output(const char *stream, char *text, size_t length) {
    char full[STAMP], partial[STAMP];
    struct iovec parts[2 * LINES + 2];
    stamp(full, stream);
    memcpy(partial, full, STAMP);
    partial[TAG] = 'P';
    char *end = text + length;
    while (text < end) {
        int count = 0;
        if (torn) parts[count++] = (struct iovec){"\n", 1};
        for (int line = 0; line < LINES && text < end; line++) {
            char *newline = memchr(text, '\n', (size_t)(end - text));
            char *next = newline != NULL ? newline + 1 : end;
            parts[count++] = (struct iovec){newline != NULL ? full : partial, STAMP};
            parts[count++] = (struct iovec){text, (size_t)(next - text)};
            if (newline == NULL) parts[count++] = (struct iovec){"\n", 1};
            text = next;
        }
        append(parts, count);
    }
}

/* Log what there is, at most a buffer full; false where there is nothing now. */
static bool pump(struct stream *stream) {
    ssize_t length = read(stream->descriptor, buffer, sizeof buffer);
    if (length > 0) {
        log_output(stream->name, buffer, (size_t)length);
        return true;
    }
    if (length == 0) {
        close(stream->descriptor);
        stream->descriptor = -1;
    }
    return false;
}

static void make_pipe(int *ours, int *theirs, bool we_write) {
    int ends[2];
    checked(pipe2(ends, O_CLOEXEC), "pipe");
    *ours = ends[we_write];
    *theirs = ends[!we_write];
    if (!we_write) fcntl(*ours, F_SETFL, O_NONBLOCK);
}

static int listen_for_terminal(void) {
    struct sockaddr_un address = {.sun_family = AF_UNIX, .sun_path = "console"};
    int listener = checked(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), "socket");
    checked(bind(listener, (struct sockaddr *)&address, sizeof address), "bind console");
    checked(listen(listener, 1), "listen");
    return listener;
}

/* The terminal that the runtime has sent; runc has switched off what makes a newline return the carriage, too. */
static int receive_terminal(int listener) {
    union { struct cmsghdr header; char room[CMSG_SPACE(sizeof(int))]; } control;
    struct iovec name = {buffer, sizeof buffer};
    struct msghdr message = {.msg_iov = &name, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof control};
    int connection = checked(accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK), "accept console");
    checked((int)recvmsg(connection, &message, MSG_CMSG_CLOEXEC), "receive console");
    struct cmsghdr *header = CMSG_FIRSTHDR(&message);
    if (header == NULL || header->cmsg_type != SCM_RIGHTS) fail("no terminal was sent", 20);
    int terminal;
    memcpy(&terminal, CMSG_DATA(header), sizeof terminal);
    struct termios settings;
    checked(tcgetattr(terminal, &settings), "tcgetattr");
    settings.c_oflag |= ONLCR;
    checked(tcsetattr(terminal, TCSANOW, &settings), "tcsetattr");
    checked(dup3(terminal, INPUT, O_CLOEXEC), "dup3");
    fcntl(terminal, F_SETFL, O_NONBLOCK);
    close(connection);
    close(listener);
    unlink("console");
    return terminal;
}

/* Start the runtime with the given stdin, stdout and stderr, and the signals as they were before us. */
static pid_t start(char **command, const int *stdio) {
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t signals;
    pid_t pid;
    posix_spawn_file_actions_init(&actions);
    for (int number = 0; number < 3; number++) posix_spawn_file_actions_adddup2(&actions, stdio[number], number);
    posix_spawnattr_init(&attributes);
    sigemptyset(&signals);
    posix_spawnattr_setsigmask(&attributes, &signals);
    sigfillset(&signals);
    posix_spawnattr_setsigdefault(&attributes, &signals);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    errno = posix_spawn(&pid, command[0], &actions, &attributes, command, environ);
    if (errno != 0) fail_at(command[0]);
    return pid;
}

/* Wait for the runtime. All that is written until then are its own words, for the process waits for its release. */
static void await_runtime(pid_t runtime, int words) {
    size_t length = 0;
    for (int status;;) {
        bool ended = waitpid(runtime, &status, WNOHANG) == runtime;
        ssize_t more;
        while ((more = read(words, buffer + length, sizeof buffer - length)) > 0) {
            length += (size_t)more;
            if (length > sizeof buffer / 2) length = sizeof buffer / 2;
        }
        if (ended && WIFEXITED(status) && WEXITSTATUS(status) == 0) return;
        if (ended) fail(buffer, length);
        struct pollfd readable = {more == 0 ? -1 : words, POLLIN, 0};
        ppoll(&readable, 1, NULL, &none);
    }
}

/* The pid that the runtime has left in the file `pid`. */
static pid_t read_pid(void) {
    char text[16] = {0};
    int file = checked(open("pid", O_RDONLY | O_CLOEXEC), "open pid");
    ssize_t length = checked((int)read(file, text, sizeof text - 1), "read pid");
    close(file);
    int pid = atoi(text);
    if (length <= 0 || pid <= 0) fail("the runtime left no pid", 23);
    return pid;
}

static void report(pid_t pid) {
    char text[12] = "0000000000\n";
    put_number(text + 10, 10, pid);
    if (write(REPORT, text, 11) < 0) { /* nobody listens any more; the next of us finds the process */ }
    close(REPORT);
}

/* Log until the process has ended; its exit code, as a shell would tell it. */
static int serve(pid_t process, bool terminal) {
    const struct timespec pause = {0, 100000000};
    for (;;) {
        int status;
        for (pid_t ended; (ended = waitpid(-1, &status, WNOHANG)) != 0;) {
            if (ended < 0) return LOST;
            if (ended == process) return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
        }
        if (unwanted) close(INPUT);
        unwanted = 0;
        struct pollfd readable[2] = {{outputs[0].descriptor, POLLIN, 0}, {outputs[1].descriptor, POLLIN, 0}};
        if (ppoll(readable, 2, NULL, &none) <= 0) continue;
        for (int number = 0; number < 2; number++)
            if (readable[number].revents != 0 && !pump(&outputs[number]) && terminal)
                ppoll(NULL, 0, &pause, &none); /* nobody has it open, but somebody may open it again */
    }
}

/* Log what is still in the pipes; something outside of the container could go on writing for ever. */
static void drain(void) {
    for (int number = 0; number < 2; number++)
        for (int blocks = 0; blocks < DRAINED && outputs[number].descriptor >= 0; blocks++)
            if (!pump(&outputs[number])) break;
}

/* Leave the exit code, in one step. */
static int leave(const char *exits, const char *incarnation, int code) {
    char text[3];
    int digits = code > 99 ? 3 : code > 9 ? 2 : 1;
    put_number(text + digits, digits, code);
    int file = open("exit", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    int directory = open(exits, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (write(file, text, (size_t)digits) != digits) return 1;
    return renameat(AT_FDCWD, "exit", directory, incarnation) < 0;
}

/* Signals wait until we do; but for these two, only the end of its container ends a shim. */
static void handle_signals(void) {
    const int ignored[] = {SIGPIPE, SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGXFSZ};
    struct sigaction action = {.sa_handler = on_signal};
    sigset_t blocked;
    sigemptyset(&none);
    sigemptyset(&blocked);
    sigaddset(&blocked, SIGCHLD);
    sigaddset(&blocked, SIGUSR1);
    sigprocmask(SIG_BLOCK, &blocked, NULL);
    sigaction(SIGCHLD, &action, NULL);
    sigaction(SIGUSR1, &action, NULL);
    action.sa_handler = SIG_IGN;
    for (size_t number = 0; number < sizeof ignored / sizeof *ignored; number++)
        sigaction(ignored[number], &action, NULL);
}

/* Let the runtime create the process, with pipes as its stdin, stdout and stderr. */
static pid_t create_with_pipes(char **command, bool input) {
    int theirs[3] = {STDIN_FILENO}, ours;
    if (input) {
        make_pipe(&ours, &theirs[0], true);
        checked(dup3(ours, INPUT, O_CLOEXEC), "dup3");
        close(ours);
    }
    for (int number = 0; number < 2; number++) make_pipe(&outputs[number].descriptor, &theirs[number + 1], false);
    pid_t runtime = start(command, theirs);
    for (int number = input ? 0 : 1; number < 3; number++) close(theirs[number]);
    await_runtime(runtime, outputs[1].descriptor);
    return read_pid();
}

/* The same with a terminal as all three. */
static pid_t create_with_terminal(char **command) {
    int theirs[3] = {STDIN_FILENO}, words, listener = listen_for_terminal();
    make_pipe(&words, &theirs[1], false);
    theirs[2] = theirs[1];
    pid_t runtime = start(command, theirs);
    close(theirs[1]);
    await_runtime(runtime, words);
    close(words);
    outputs[0].descriptor = receive_terminal(listener);
    return read_pid();
}

int main(int count, char **words) {
    if (count < 6) return 2;
    const char *flags = words[1];
    bool terminal = strchr(flags, 't') != NULL;
    handle_signals();
    fcntl(REPORT, F_SETFD, FD_CLOEXEC);
    prctl(PR_SET_CHILD_SUBREAPER, 1);
    log_file = checked(open(words[4], O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0600), "open the log");
    pid_t process = terminal ? create_with_terminal(words + 5) : create_with_pipes(words + 5, strchr(flags, 'i') != NULL);
    report(process);
    int code = serve(process, terminal);
    drain();
    return leave(words[2], words[3], code);
}
