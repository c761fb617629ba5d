/* SPDX-License-Identifier: Apache-2.0
 *
 * What event loops and interprocess communication stand on.
 */
#include "probe.h"
#include "util.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <mqueue.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/fanotify.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/msg.h>
#include <sys/sem.h>
#include <sys/shm.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/timerfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define PATIENCE_MS 2000

static void expect_readable(int fd, const char *what)
{
	struct pollfd ready = {.fd = fd, .events = POLLIN};

	if (poll(&ready, 1, PATIENCE_MS) != 1)
		fail("%s did not become readable within %d s", what, PATIENCE_MS / 1000);
}

static void touch(const char *path)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0644);

	if (fd < 0 || write_all(fd, "x", 1) < 0)
		fail_errno("writing %s", path);
	close(fd);
}

void probe_epoll(void)
{
	int pipes[2];
	struct epoll_event event = {.events = EPOLLIN, .data.u32 = 42};
	int fd = epoll_create1(EPOLL_CLOEXEC);

	if (fd < 0)
		fail_errno("epoll_create1");
	if (pipe2(pipes, O_CLOEXEC) < 0)
		fail_errno("pipe2");
	if (epoll_ctl(fd, EPOLL_CTL_ADD, pipes[0], &event) < 0)
		fail_errno("EPOLL_CTL_ADD");
	if (epoll_wait(fd, &event, 1, 0) != 0)
		fail("an event came before anything happened");
	if (write_all(pipes[1], "x", 1) < 0)
		fail_errno("write");
	if (epoll_wait(fd, &event, 1, PATIENCE_MS) != 1 || event.data.u32 != 42)
		fail("no event for a pipe that can be read");
	pass("an event came");
}

void probe_eventfd(void)
{
	uint64_t count = 0;
	int fd = eventfd(2, EFD_CLOEXEC);

	if (fd < 0)
		fail_errno("eventfd");
	if (eventfd_write(fd, 3) < 0 || eventfd_read(fd, &count) < 0)
		fail_errno("eventfd");
	if (count != 5)
		fail("2 + 3 gave %llu", (unsigned long long)count);
	pass("counted");
}

void probe_timerfd(void)
{
	struct itimerspec soon = {.it_value.tv_nsec = 1000000};
	int fd = timerfd_create(CLOCK_BOOTTIME, TFD_CLOEXEC);

	if (fd < 0)
		fail_errno("timerfd_create");
	if (timerfd_settime(fd, 0, &soon, NULL) < 0)
		fail_errno("timerfd_settime");
	expect_readable(fd, "a timer of 1 ms");
	pass("a timer fired");
}

void probe_signalfd(void)
{
	struct signalfd_siginfo info;
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, NULL);
	int fd = signalfd(-1, &set, SFD_CLOEXEC);
	if (fd < 0)
		fail_errno("signalfd");
	kill(getpid(), SIGUSR1);
	expect_readable(fd, "a signalfd with its signal pending");
	if (read(fd, &info, sizeof(info)) != (ssize_t)sizeof(info) || info.ssi_signo != SIGUSR1)
		fail("another signal was read than was sent");
	pass("a signal was read");
}

void probe_pidfd(void)
{
	siginfo_t info;
	pid_t child = fork();

	if (child < 0)
		fail_errno("fork");
	if (child == 0)
		for (;;)
			pause();
	int fd = (int)syscall(SYS_pidfd_open, child, 0);
	if (fd < 0)
		fail_errno("pidfd_open");
	if (syscall(SYS_pidfd_send_signal, fd, SIGTERM, NULL, 0) < 0)
		fail_errno("pidfd_send_signal");
	expect_readable(fd, "the pidfd of an ended process");
	if (waitid(P_PIDFD, (id_t)fd, &info, WEXITED) < 0)
		fail_errno("waitid(P_PIDFD)");
	pass("a process was signalled and awaited");
}

void probe_inotify(void)
{
	struct inotify_event event;
	int fd = inotify_init1(IN_CLOEXEC);

	if (fd < 0)
		fail_errno("inotify_init1");
	touch("file");
	if (inotify_add_watch(fd, "file", IN_MODIFY) < 0)
		fail_errno("inotify_add_watch");
	touch("file");
	expect_readable(fd, "inotify");
	if (read(fd, &event, sizeof(event)) != (ssize_t)sizeof(event) || !(event.mask & IN_MODIFY))
		fail("no IN_MODIFY for a file that was written");
	pass("a write was reported");
}

void probe_fanotify(void)
{
	struct fanotify_event_metadata event;
	int fd = fanotify_init(FAN_CLASS_NOTIF | FAN_CLOEXEC, O_RDONLY);

	if (fd < 0)
		fail_errno("fanotify_init");
	touch("file");
	if (fanotify_mark(fd, FAN_MARK_ADD, FAN_MODIFY, AT_FDCWD, "file") < 0)
		fail_errno("fanotify_mark");
	touch("file");
	expect_readable(fd, "fanotify");
	if (read(fd, &event, sizeof(event)) != (ssize_t)sizeof(event) || !(event.mask & FAN_MODIFY))
		fail("no FAN_MODIFY for a file that was written");
	pass("a write was reported");
}

void probe_posix_mqueue(void)
{
	char message[16];
	struct mq_attr attributes = {.mq_maxmsg = 2, .mq_msgsize = sizeof(message)};
	mqd_t queue = mq_open("/osbuilder-probe", O_RDWR | O_CREAT | O_EXCL, 0600, &attributes);

	if (queue < 0)
		fail_errno("mq_open");
	if (mq_send(queue, "probe", 5, 0) < 0)
		fail_errno("mq_send");
	if (mkdir("mnt", 0755) < 0 || mount("mqueue", "mnt", "mqueue", 0, NULL) < 0)
		fail_errno("mount -t mqueue");
	if (!exists("mnt/osbuilder-probe"))
		fail("the queue is not listed in its filesystem");
	if (mq_receive(queue, message, sizeof(message), NULL) != 5 || memcmp(message, "probe", 5) != 0)
		fail("the message did not come back as it was sent");
	pass("a message was sent, listed and received");
}

void probe_sysvipc(void)
{
	struct {
		long type;
		char text[8];
	} message = {.type = 1, .text = "probe"};
	int memory = shmget(IPC_PRIVATE, 4096, 0600);
	int queue = msgget(IPC_PRIVATE, 0600);
	int semaphore = semget(IPC_PRIVATE, 1, 0600);

	if (memory < 0)
		fail_errno("shmget");
	if (queue < 0)
		fail_errno("msgget");
	if (semaphore < 0)
		fail_errno("semget");
	char *mapped = shmat(memory, NULL, 0);
	if (mapped == (char *)-1)
		fail_errno("shmat");
	mapped[0] = 1;
	if (msgsnd(queue, &message, sizeof(message.text), 0) < 0)
		fail_errno("msgsnd");
	if (msgrcv(queue, &message, sizeof(message.text), 1, IPC_NOWAIT) != (ssize_t)sizeof(message.text))
		fail_errno("msgrcv");
	struct sembuf up = {.sem_op = 1, .sem_flg = IPC_NOWAIT};
	if (semop(semaphore, &up, 1) < 0)
		fail_errno("semop");
	pass("memory, messages and semaphores used");
}

static void *map_ring(int ring, size_t size, off_t offset)
{
	void *memory = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring, offset);

	if (memory == MAP_FAILED)
		fail_errno("mapping a ring");
	return memory;
}

/* One request that does nothing, through both rings (io_uring(7)). */
void probe_io_uring(void)
{
	struct io_uring_params params = {0};
	int ring = (int)syscall(SYS_io_uring_setup, 1, &params);

	if (ring < 0)
		fail_errno("io_uring_setup");
	char *sent = map_ring(ring, params.sq_off.array + params.sq_entries * sizeof(unsigned int), IORING_OFF_SQ_RING);
	char *done = map_ring(ring, params.cq_off.cqes + params.cq_entries * sizeof(struct io_uring_cqe), IORING_OFF_CQ_RING);
	struct io_uring_sqe *request = map_ring(ring, params.sq_entries * sizeof(*request), IORING_OFF_SQES);
	unsigned int *tail = (unsigned int *)(sent + params.sq_off.tail), *head = (unsigned int *)(done + params.cq_off.head);
	unsigned int *mask = (unsigned int *)(done + params.cq_off.ring_mask);
	struct io_uring_cqe *results = (struct io_uring_cqe *)(done + params.cq_off.cqes);

	request->opcode = IORING_OP_NOP;
	request->user_data = 42;
	*(unsigned int *)(sent + params.sq_off.array) = 0;
	__atomic_store_n(tail, *tail + 1, __ATOMIC_RELEASE);
	if (syscall(SYS_io_uring_enter, ring, 1, 1, IORING_ENTER_GETEVENTS, NULL, 0) != 1)
		fail_errno("io_uring_enter");
	const struct io_uring_cqe *result = &results[*head & *mask];
	if (result->user_data != 42 || result->res != 0)
		fail("the result is not that of the request (%llu, %d)", (unsigned long long)result->user_data, result->res);
	pass("a request went through the rings");
}
