// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * imsctl: the guest's end of the harness. Words in, one JSON object a line out.
 *
 *	imsctl OP [KEY=VALUE]...
 *	imsctl serve [PORT]
 *
 * Every answer has "op", "errno" (0 or a name such as "ENOSPC") and "error".
 * Errors of the kernel are passed on as they are. The exit status is 0 when
 * errno is. docs/guest-module.md lists the operations; "imsctl help" does, too.
 */

#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <termios.h>
#include <unistd.h>

#include "json.h"
#include "request.h"

#define LINE_SIZE	4096
#define VIRTIO_PORTS	"/sys/class/virtio-ports"
#define PORT_SECONDS	5

static int write_all(int fd, const char *text, size_t length)
{
	while (length) {
		ssize_t written = write(fd, text, length);

		if (written < 0) {
			if (errno == EINTR)
				continue;
			return errno;
		}
		text += written;
		length -= written;
	}
	return 0;
}

/* Run a request and answer it. Returns the request's errno; *lost is set when nobody reads. */
static int answer(struct request *request, int fd, bool *lost)
{
	const char *name, *tag, *text;
	size_t length;
	int error;

	json_begin();
	json_string("op", request->count ? request->words[0] : "");
	error = request->error[0] ? EINVAL : dispatch(request);
	tag = find(request, "tag");
	if (tag)
		json_string("tag", tag);

	name = strerrorname_np(error);
	if (!error)
		json_unsigned("errno", 0);
	else if (name)
		json_string("errno", name);
	else
		json_number("errno", error);
	json_string("error", !error ? "" : request->error[0] ? request->error : strerror(error));
	text = json_end(&length);
	*lost = write_all(fd, text, length);
	if (!error && request->then)
		request->then();
	return error;
}

/* Lines from a file descriptor, however they arrive. */
struct reader {
	int fd;
	bool persistent;	/* a port: its end only means that nobody is there yet */
	char buffer[LINE_SIZE];
	size_t used;
};

static ssize_t read_more(struct reader *reader)
{
	ssize_t got;

	for (;;) {
		got = read(reader->fd, reader->buffer + reader->used,
			   sizeof(reader->buffer) - reader->used);
		if (got > 0 || (got < 0 && errno != EINTR) || !reader->persistent)
			return got;
		/* A virtio port without a peer has no event to wait for but this. */
		if (!got)
			usleep(20000);
	}
}

/*
 * The next line without its end, in a buffer that the next call reuses.
 * Returns false at the end of input. A line that does not fit is dropped
 * whole, and *length is LINE_SIZE.
 */
static bool next_line(struct reader *reader, char *line, size_t *length)
{
	bool dropped = false;

	for (;;) {
		char *end = memchr(reader->buffer, '\n', reader->used);
		size_t taken;
		ssize_t got;

		if (end) {
			*length = end - reader->buffer;
			memcpy(line, reader->buffer, *length);
			line[*length] = '\0';
			taken = *length + 1;
			reader->used -= taken;
			memmove(reader->buffer, reader->buffer + taken, reader->used);
			if (dropped)
				*length = LINE_SIZE;
			return true;
		}
		if (reader->used == sizeof(reader->buffer)) {
			dropped = true;
			reader->used = 0;
		}
		got = read_more(reader);
		if (got <= 0)
			return false;
		reader->used += got;
	}
}

/* Find the device of a virtio-serial port by the name that the host gave it. */
static bool find_port(const char *name, char *device, size_t size)
{
	DIR *ports = opendir(VIRTIO_PORTS);
	struct dirent *entry;
	bool found = false;

	while (ports && !found && (entry = readdir(ports))) {
		char path[512], line[64] = "";
		FILE *file;

		snprintf(path, sizeof(path), VIRTIO_PORTS "/%s/name", entry->d_name);
		file = fopen(path, "re");
		if (!file)
			continue;
		if (fgets(line, sizeof(line), file))
			line[strcspn(line, "\n")] = '\0';
		fclose(file);
		found = !strcmp(line, name);
		snprintf(device, size, "/dev/%s", entry->d_name);
	}
	if (ports)
		closedir(ports);
	return found;
}

/* Open a device, or a port by its name. A port comes a moment after its driver. */
static int open_port(const char *name)
{
	char device[512];
	int tries;

	if (strchr(name, '/'))
		return open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
	for (tries = PORT_SECONDS * 100; tries; tries--) {
		if (find_port(name, device, sizeof(device)))
			return open(device, O_RDWR | O_NOCTTY | O_CLOEXEC);
		usleep(10000);
	}
	errno = ENODEV;
	return -1;
}

static int serve(const char *port)
{
	static struct reader reader;
	char line[LINE_SIZE];
	int in = STDIN_FILENO, to = STDOUT_FILENO;
	bool lost = false;
	size_t length;

	if (port) {
		struct termios termios;

		in = open_port(port);
		if (in < 0) {
			fprintf(stderr, "imsctl: %s: %s\n", port, strerror(errno));
			return 1;
		}
		to = in;
		/* On a terminal line: no echo, no translation. */
		if (!tcgetattr(in, &termios)) {
			cfmakeraw(&termios);
			tcsetattr(in, TCSANOW, &termios);
		}
	}
	reader.fd = in;
	reader.persistent = !!port;

	while (!lost && next_line(&reader, line, &length)) {
		struct request request = {};

		if (length == LINE_SIZE)
			fail(&request, EINVAL, "a line of more than %d bytes", LINE_SIZE - 1);
		else if (strlen(line) != length)
			fail(&request, EINVAL, "a NUL byte in the line");
		else
			split(&request, line);
		answer(&request, to, &lost);
	}
	return lost;
}

int main(int argc, char **argv)
{
	struct request request = {};
	bool lost;
	int i;

	if (argc > 1 && !strcmp(argv[1], "serve") && argc <= 3)
		return serve(argc == 3 ? argv[2] : NULL);

	for (i = 1; i < argc && i <= WORDS_MAX; i++)
		request.words[request.count++] = argv[i];
	if (argc == 1)
		request.words[request.count++] = "help";
	if (argc > WORDS_MAX + 1)
		fail(&request, EINVAL, "%.80s: more than %d words", argv[WORDS_MAX + 1], WORDS_MAX);
	return answer(&request, STDOUT_FILENO, &lost) || lost;
}
