// SPDX-License-Identifier: GPL-2.0-or-later
/* Operations that need no module: CPUs, binding the driver. */

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/utsname.h>
#include <unistd.h>

#include "imstest_regs.h"
#include "imstest_uapi.h"
#include "json.h"
#include "request.h"

#define PCI_DEVICES	"/sys/bus/pci/devices"
#define PCI_DRIVER	"/sys/bus/pci/drivers/imstest"
#define CPUS		"/sys/devices/system/cpu"

static int read_word(const char *path, char *word, size_t size)
{
	FILE *file = fopen(path, "re");
	int error = 0;

	if (!file)
		return errno;
	if (!fgets(word, size, file))
		error = EIO;
	else
		word[strcspn(word, "\n")] = '\0';
	fclose(file);
	return error;
}

static int write_word(struct request *request, const char *path, const char *word)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int error = 0;

	if (fd < 0)
		return fail(request, errno, "%s: %s", path, strerror(errno));
	if (write(fd, word, strlen(word)) < 0)
		error = fail(request, errno, "writing %s to %s: %s", word, path, strerror(errno));
	close(fd);
	return error;
}

static int op_cpus(struct request *request)
{
	char line[8192], possible[256], online[256];
	FILE *file;
	long cpu = -1;
	int error;

	if ((error = read_word(CPUS "/possible", possible, sizeof(possible))) ||
	    (error = read_word(CPUS "/online", online, sizeof(online))))
		return fail(request, error, CPUS ": %s", strerror(error));
	file = fopen("/proc/cpuinfo", "re");
	if (!file)
		return fail(request, errno, "/proc/cpuinfo: %s", strerror(errno));

	json_string("possible", possible);
	json_string("online", online);
	json_open_array("cpus");
	while (fgets(line, sizeof(line), file)) {
		char *colon = strchr(line, ':');

		if (!colon)
			continue;
		if (!strncmp(line, "processor", strlen("processor"))) {
			cpu = strtol(colon + 1, NULL, 10);
		} else if (!strncmp(line, "apicid", strlen("apicid"))) {
			json_open_object(NULL);
			json_number("cpu", cpu);
			json_number("apic_id", strtol(colon + 1, NULL, 10));
			json_close_object();
		}
	}
	json_close_array();
	fclose(file);
	return 0;
}

static int op_cpu(struct request *request)
{
	const char *state = find(request, "state");
	char path[64];
	uint32_t id;
	int error;

	if ((error = needed(request, "id")) || (error = needed(request, "state")) ||
	    (error = number(request, "id", &id, 0)))
		return error;
	if (strcmp(state, "online") && strcmp(state, "offline"))
		return fail(request, EINVAL, "state=%s: not online or offline", state);

	snprintf(path, sizeof(path), CPUS "/cpu%u/online", id);
	return write_word(request, path, strcmp(state, "online") ? "0" : "1");
}

/* The PCI name in slot=..., or that of the first test function. */
static int parse_slot(struct request *request, char *slot, size_t size)
{
	const char *word = find(request, "slot");
	char path[512], id[16];
	struct dirent *entry;
	DIR *directory;
	int error = ENODEV;

	if (word) {
		if ((size_t)snprintf(slot, size, "%s", word) >= size)
			return fail(request, ERANGE, "slot: longer than any PCI name");
		return 0;
	}
	directory = opendir(PCI_DEVICES);
	if (!directory)
		return fail(request, errno, PCI_DEVICES ": %s", strerror(errno));
	while (error && (entry = readdir(directory))) {
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/vendor", entry->d_name);
		if (read_word(path, id, sizeof(id)) ||
		    strtoul(id, NULL, 16) != IMSTEST_VENDOR_ID)
			continue;
		snprintf(path, sizeof(path), PCI_DEVICES "/%s/device", entry->d_name);
		if (read_word(path, id, sizeof(id)) ||
		    strtoul(id, NULL, 16) != IMSTEST_DEVICE_ID)
			continue;
		snprintf(slot, size, "%s", entry->d_name);
		error = 0;
	}
	closedir(directory);
	return error ? fail(request, error, "no function %04x:%04x on the PCI bus",
			    IMSTEST_VENDOR_ID, IMSTEST_DEVICE_ID) : 0;
}

static int op_driver(struct request *request)
{
	char path[64], slot[256];
	int error = parse_slot(request, slot, sizeof(slot));

	if (error)
		return error;
	json_string("slot", slot);
	snprintf(path, sizeof(path), PCI_DRIVER "/%s", request->operation->name);
	return write_word(request, path, slot);
}

/* A register of config space, past any driver. The kernel makes one access of it. */
static int op_config(struct request *request)
{
	char path[512], slot[256];
	uint32_t offset, size, value;
	ssize_t done;
	int fd, error;

	if ((error = parse_slot(request, slot, sizeof(slot))) ||
	    (error = needed(request, "offset")) ||
	    (error = number(request, "offset", &offset, 0)) ||
	    (error = number(request, "size", &size, 4)) ||
	    (error = number(request, "value", &value, 0)))
		return error;
	if ((size != 1 && size != 2 && size != 4) || offset % size)
		return fail(request, EINVAL, "size=%u at offset=%u: not an aligned 1, 2 or 4",
			    size, offset);
	if (size < sizeof(value) && value >> (8 * size))
		return fail(request, ERANGE, "value=%#x: more than %u bytes", value, size);

	snprintf(path, sizeof(path), PCI_DEVICES "/%s/config", slot);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return fail(request, errno, "%s: %s", path, strerror(errno));
	done = find(request, "value") ? pwrite(fd, &value, size, offset) :
					pread(fd, &value, size, offset);
	if (done != (ssize_t)size)
		error = fail(request, done < 0 ? errno : ENXIO, "%s: no %u bytes at %#x", path,
			     size, offset);
	close(fd);
	json_unsigned("value", value);
	return error;
}

static int op_ping(struct request *request)
{
	unsigned char bytes[8];
	char digits[2 * sizeof(bytes) + 1];
	struct utsname name;
	size_t i;

	if (getrandom(bytes, sizeof(bytes), 0) != sizeof(bytes))
		return fail(request, errno, "getrandom: %s", strerror(errno));
	for (i = 0; i < sizeof(bytes); i++)
		snprintf(digits + 2 * i, 3, "%02x", bytes[i]);
	uname(&name);
	json_string("release", name.release);
	json_bool("module", !access(IMSTEST_PATH, F_OK));
	json_string("random", digits);
	return 0;
}

const struct operation system_operations[] = {
	{ "cpus", " ", "possible and online CPUs and their APIC ids", op_cpus },
	{ "cpu", " id state ", "take a CPU off or on: id=N state=online|offline", op_cpu },
	{ "bind", " slot ", "bind the driver: [slot=PCI name]", op_driver },
	{ "unbind", " slot ", "unbind the driver: [slot=PCI name]", op_driver },
	{ "config", " slot offset size value ", "a register of config space: "
	  "offset= [size=4] [value=N: write it] [slot=PCI name]", op_config },
	{ "ping", " ", "answer; kernel release, whether the module is there, 8 random bytes", op_ping },
};

const size_t system_operations_count = ARRAY_SIZE(system_operations);
