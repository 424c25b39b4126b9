// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Operations that keep the guest itself in order: clock, random numbers, SSH
 * server, kernel log. The harness uses them; they need no module.
 *
 * A guest may be one of many that continue from the same saved state. What must
 * differ between them is therefore brought from outside, after the start.
 */

#define _GNU_SOURCE
#include <ctype.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/random.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/klog.h>
#include <sys/reboot.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "json.h"
#include "request.h"

#define SEED_SIZE	32
#define HOST_KEY	"/etc/imsh/host_key"
#define CLIENT_KEY	"/root/.ssh/authorized_keys"
#define SSH_LOG		"/run/dropbear.log"
#define READ_SIZE	16384

/* syslog(2) */
#define SYSLOG_READ_ALL		3
#define SYSLOG_READ_CLEAR	4
#define SYSLOG_SIZE_BUFFER	10

/* Bytes in hexadecimal. Returns 0 or EINVAL. */
static int hex(struct request *request, const char *name, unsigned char *bytes, size_t size,
	       size_t *count)
{
	const char *word = find(request, name);
	char digits[3] = {};

	if (!word)
		return needed(request, name);
	for (*count = 0; word[0]; word += 2, (*count)++) {
		if (*count == size || !isxdigit((unsigned char)word[0]) ||
		    !isxdigit((unsigned char)word[1]))
			return fail(request, EINVAL, "%s: not up to %zu bytes in hexadecimal",
				    name, size);
		memcpy(digits, word, 2);
		bytes[*count] = strtoul(digits, NULL, 16);
	}
	return 0;
}

static int seed_random_numbers(struct request *request, const unsigned char *seed)
{
	struct {
		struct rand_pool_info info;
		unsigned char bytes[SEED_SIZE];
	} pool = { .info = { .entropy_count = SEED_SIZE * 8, .buf_size = SEED_SIZE } };
	int fd = open("/dev/urandom", O_WRONLY | O_CLOEXEC);
	int error = 0;

	memcpy(pool.bytes, seed, SEED_SIZE);
	/* The second makes every CPU's generator start again from the pool, at once. */
	if (fd < 0 || ioctl(fd, RNDADDENTROPY, &pool) || ioctl(fd, RNDRESEEDCRNG))
		error = fail(request, errno, "/dev/urandom: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	return error;
}

/* The kernel's own watchdogs; one that is not built in barks at nobody. */
static int set_watchdogs(struct request *request)
{
	static const struct {
		const char *word, *path;
	} watchdogs[] = {
		{ "soft_lockup", "/proc/sys/kernel/watchdog_thresh" },
		{ "hung_task", "/proc/sys/kernel/hung_task_timeout_secs" },
		{ "rcu_stall", "/sys/module/rcupdate/parameters/rcu_cpu_stall_timeout" },
	};
	uint32_t seconds;
	int error, fd;

	for (size_t i = 0; i < ARRAY_SIZE(watchdogs); i++) {
		error = number(request, watchdogs[i].word, &seconds, 0);
		if (error)
			return error;
		fd = seconds ? open(watchdogs[i].path, O_WRONLY | O_CLOEXEC) : -1;
		if (fd < 0)
			continue;
		if (dprintf(fd, "%u\n", seconds) < 0)
			error = fail(request, errno, "%s: %s", watchdogs[i].path, strerror(errno));
		close(fd);
		if (error)
			return error;
	}
	return 0;
}

static int op_fresh(struct request *request)
{
	unsigned char seed[SEED_SIZE];
	uint32_t seconds, nanoseconds;
	struct timespec now;
	size_t count;
	int error;

	if ((error = needed(request, "time")) ||
	    (error = number(request, "time", &seconds, 0)) ||
	    (error = number(request, "nanoseconds", &nanoseconds, 0)) ||
	    (error = hex(request, "seed", seed, sizeof(seed), &count)))
		return error;
	if (count != sizeof(seed))
		return fail(request, EINVAL, "seed: not %d bytes", SEED_SIZE);

	if ((error = set_watchdogs(request)))
		return error;
	now = (struct timespec){ .tv_sec = seconds, .tv_nsec = nanoseconds };
	if (clock_settime(CLOCK_REALTIME, &now))
		return fail(request, errno, "setting the clock: %s", strerror(errno));
	return seed_random_numbers(request, seed);
}

static int write_file(struct request *request, const char *path, const void *data, size_t size)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	int error = 0;

	if (fd < 0 || write(fd, data, size) != (ssize_t)size)
		error = fail(request, errno, "%s: %s", path, strerror(errno));
	if (fd >= 0)
		close(fd);
	return error;
}

/* Returns once the server listens: without -F it goes into the background then. */
static int start_server(struct request *request)
{
	/* -s, -j, -k: no passwords, no forwarding. */
	static char *const arguments[] = { "dropbear", "-s", "-j", "-k", "-E",
					   "-P", "/run/dropbear.pid", "-r", HOST_KEY,
					   "-p", "22", NULL };
	char said[160] = "";
	int status, fd;
	ssize_t got;
	pid_t pid;

	pid = vfork();
	if (pid < 0)
		return fail(request, errno, "vfork: %s", strerror(errno));
	if (!pid) {
		fd = open(SSH_LOG, O_WRONLY | O_CREAT | O_APPEND, 0600);
		dup2(fd, STDERR_FILENO);
		execv("/usr/sbin/dropbear", arguments);
		_exit(127);
	}
	while (waitpid(pid, &status, 0) < 0)
		if (errno != EINTR)
			return fail(request, errno, "waitpid: %s", strerror(errno));
	if (!status)
		return 0;
	fd = open(SSH_LOG, O_RDONLY | O_CLOEXEC);
	got = read(fd, said, sizeof(said) - 1);
	if (got > 0)
		said[got] = '\0';
	close(fd);
	return fail(request, EIO, "the SSH server ended (status %#x): %s", status, said);
}

static int op_ssh(struct request *request)
{
	unsigned char host_key[128];
	char client_key[160];
	size_t count;
	int error;

	if ((error = needed(request, "client_key")) ||
	    (error = hex(request, "host_key", host_key, sizeof(host_key), &count)))
		return error;
	if ((size_t)snprintf(client_key, sizeof(client_key), "ssh-ed25519 %s imsh\n",
			     find(request, "client_key")) >= sizeof(client_key))
		return fail(request, ERANGE, "client_key: longer than any such key");
	if ((error = write_file(request, HOST_KEY, host_key, count)) ||
	    (error = write_file(request, CLIENT_KEY, client_key, strlen(client_key))))
		return error;
	return start_server(request);
}

static int op_log(struct request *request)
{
	int size = klogctl(SYSLOG_SIZE_BUFFER, NULL, 0);
	uint32_t clear;
	char *text;
	int error;

	error = number(request, "clear", &clear, 0);
	if (error)
		return error;
	text = calloc(1, size > 0 ? size + 1 : 1);
	if (!text)
		return ENOMEM;
	if (size < 0 || klogctl(clear ? SYSLOG_READ_CLEAR : SYSLOG_READ_ALL, text, size) < 0)
		error = fail(request, errno, "syslog(2): %s", strerror(errno));
	else
		json_string("text", text);
	free(text);
	return error;
}

static int op_read(struct request *request)
{
	const char *path = find(request, "path");
	char *text = NULL;
	size_t used = 0;
	ssize_t got = 0;
	int fd;

	if (!path)
		return needed(request, "path");
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return fail(request, errno, "%s: %s", path, strerror(errno));
	/* What /proc and /sys make as it is read has no size of its own. */
	do {
		char *larger = realloc(text, used + READ_SIZE + 1);

		if (!larger) {
			errno = ENOMEM;
			got = -1;
			break;
		}
		text = larger;
		got = read(fd, text + used, READ_SIZE);
		if (got > 0)
			used += got;
	} while (got > 0);
	if (got < 0) {
		got = fail(request, errno, "%s: %s", path, strerror(errno));
	} else {
		text[used] = '\0';
		json_string("text", text);
	}
	free(text);
	close(fd);
	return got;
}

/* Only what comes back is an error. */
static void start_loaded_kernel(void)
{
	reboot(RB_KEXEC);
	fprintf(stderr, "imsctl: the loaded kernel does not start: %s\n", strerror(errno));
}

/* Open the file that a key names. Returns 0 or an errno. */
static int open_named(struct request *request, const char *name, int *fd)
{
	const char *path = find(request, name);

	if (!path)
		return needed(request, name);
	*fd = open(path, O_RDONLY | O_CLOEXEC);
	return *fd < 0 ? fail(request, errno, "%s: %s", path, strerror(errno)) : 0;
}

static int load_kernel(struct request *request, int kernel, int image)
{
	FILE *file = fopen("/proc/cmdline", "re");
	char line[READ_SIZE];
	bool got = file && fgets(line, sizeof(line), file);

	if (file)
		fclose(file);
	if (!got)
		return fail(request, EIO, "/proc/cmdline: nothing to read");
	line[strcspn(line, "\n")] = '\0';
	if (syscall(SYS_kexec_file_load, kernel, image, strlen(line) + 1, line, 0UL))
		return fail(request, errno, "kexec_file_load(2): %s", strerror(errno));
	return 0;
}

static int op_kexec(struct request *request)
{
	int kernel = -1, image = -1, error;

	if (!(error = open_named(request, "kernel", &kernel)) &&
	    !(error = open_named(request, "image", &image)))
		error = load_kernel(request, kernel, image);
	if (kernel >= 0)
		close(kernel);
	if (image >= 0)
		close(image);
	if (!error)
		request->then = start_loaded_kernel;
	return error;
}

const struct operation guest_operations[] = {
	{ "fresh", " time nanoseconds seed soft_lockup hung_task rcu_stall ",
	  "after a restore: set the clock (seconds since 1970) and the watchdogs (seconds), "
	  "seed random numbers (64 hex digits)",
	  op_fresh },
	{ "ssh", " host_key client_key ",
	  "start the SSH server: host_key in its own form in hex, client_key in base64", op_ssh },
	{ "log", " clear ", "the kernel's log; clear=1: what was logged so far is not shown again",
	  op_log },
	{ "read", " path ", "a text file: path=", op_read },
	{ "kexec", " kernel image ", "start another kernel in the place of this one, with its "
	  "command line: kernel= and image= name files", op_kexec },
};

const size_t guest_operations_count = ARRAY_SIZE(guest_operations);
