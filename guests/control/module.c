// SPDX-License-Identifier: GPL-2.0-or-later
/* Operations on a function by the kernel module: its ioctls, and their results as JSON. */

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

#include "imstest_regs.h"
#include "imstest_uapi.h"
#include "json.h"
#include "request.h"

/* Of 700 bytes each, on the stack. */
#define IRQS_AT_ONCE	64

/* Nobody can take a request back: one that waits has to end. */
#define WAIT_MAX_MS	60000

static const char * const store_names[] = {
	[IMSTEST_STORE_MSI]	= "msi",
	[IMSTEST_STORE_MSIX]	= "msix",
	[IMSTEST_STORE_IMS]	= "ims",
};

static const char * const completion_names[] = {
	[IMSTEST_COMPLETION_PENDING]		= "pending",
	[IMSTEST_COMPLETION_SUCCESS]		= "success",
	[IMSTEST_COMPLETION_BAD_OPCODE]		= "bad opcode",
	[IMSTEST_COMPLETION_BAD_HANDLE]		= "bad handle",
	[IMSTEST_COMPLETION_BAD_RESERVED]	= "bad reserved",
	[IMSTEST_COMPLETION_BLOCKED]		= "blocked",
	[IMSTEST_COMPLETION_DISABLED]		= "disabled",
};

static int parse_store(struct request *request, uint32_t *store)
{
	const char *word = find(request, "store");
	int error = needed(request, "store");

	if (error)
		return error;
	for (*store = IMSTEST_STORE_MSI; *store < ARRAY_SIZE(store_names); ++*store)
		if (!strcmp(word, store_names[*store]))
			return 0;
	return fail(request, EINVAL, "store=%s: not msi, msix or ims", word);
}

static int parse_index(struct request *request, uint32_t *index)
{
	const char *word = find(request, "index");

	int error;

	if (word && !strcmp(word, "any")) {
		*index = IMSTEST_ANY;
		return 0;
	}
	error = number(request, "index", index, 0);
	if (!error && *index == IMSTEST_ANY)
		return fail(request, ERANGE, "index=%s: no store is that large", word);
	return error;
}

static int control_fd(struct request *request)
{
	static int fd = -1;

	/* Kept open in serve mode: opening costs more than an operation. */
	if (fd < 0)
		fd = open(IMSTEST_PATH, O_RDWR | O_CLOEXEC);
	if (fd < 0)
		return -fail(request, errno, "%s: %s", IMSTEST_PATH, strerror(errno));
	return fd;
}

int control(struct request *request, unsigned long command, void *argument)
{
	int fd = control_fd(request);

	if (fd < 0)
		return -fd;
	return ioctl(fd, command, argument) ? errno : 0;
}

/* One interrupt at or after facts->index; ENOENT when there is none. */
static int put_facts(struct request *request, struct imstest_facts *facts, uint32_t last)
{
	static uint32_t *counts;
	static uint32_t room;
	unsigned int cpu;
	int error;

	for (;;) {
		facts->cpus = room;
		facts->counts = (uintptr_t)counts;
		error = control(request, IMSTEST_IOC_FACTS, facts);
		if (error)
			return error;
		if (facts->cpus <= room)
			break;
		room = facts->cpus;
		counts = realloc(counts, room * sizeof(*counts));
		if (!counts)
			abort();
	}
	if (facts->index > last)
		return ENOENT;

	json_open_object(NULL);
	json_string("store", store_names[facts->store]);
	json_unsigned("index", facts->index);
	json_unsigned("virq", facts->virq);
	json_unsigned("hwirq", facts->hwirq);
	json_bool("requested", facts->state & IMSTEST_REQUESTED);
	json_bool("masked", facts->state & IMSTEST_MASKED);
	json_number("cpu", facts->cpu);
	json_unsigned("vector", facts->vector);
	json_unsigned("destination", facts->destination);
	json_unsigned("cached_address", facts->cached_address);
	json_unsigned("cached_data", facts->cached_data);
	json_unsigned("composed_address", facts->composed_address);
	json_unsigned("composed_data", facts->composed_data);
	json_unsigned("last_sequence", facts->last_sequence);
	json_unsigned("spurious", facts->spurious);
	json_open_array("counts");
	for (cpu = 0; cpu < facts->cpus; cpu++)
		json_unsigned(NULL, counts[cpu]);
	json_close_array();
	json_close_object();
	return 0;
}

static int put_interrupts(struct request *request, uint32_t function, uint32_t store,
			  uint32_t index, uint32_t count)
{
	uint64_t last = count ? (uint64_t)index + count - 1 : UINT32_MAX;
	struct imstest_facts facts = { .function = function, .store = store, .index = index };
	int error;

	json_open_array("interrupts");
	while (!(error = put_facts(request, &facts, last > UINT32_MAX ? UINT32_MAX : last)))
		facts.index++;
	json_close_array();
	return error == ENOENT ? 0 : error;
}

static int op_range(struct request *request, unsigned long command, const char *argument)
{
	struct imstest_range range = {};
	uint32_t facts;
	int error, failed;

	range.bound = !!find(request, "pasid");
	if ((error = parse_store(request, &range.store)) ||
	    (error = parse_index(request, &range.index)) ||
	    (error = number(request, "function", &range.function, 0)) ||
	    (error = number(request, "count", &range.count, 1)) ||
	    (error = number(request, "facts", &facts, 1)) ||
	    (error = number(request, "pasid", &range.pasid, 0)) ||
	    (error = argument ? number(request, argument, &range.argument, 0) : 0))
		return error;

	failed = control(request, command, &range);
	json_unsigned("index", range.index);
	json_unsigned("done", range.done);
	json_unsigned("nanoseconds", range.nanoseconds);
	if (!facts || command == IMSTEST_IOC_FREE || command == IMSTEST_IOC_CYCLE)
		return failed;
	error = put_interrupts(request, range.function, range.store, range.index, range.count);
	return failed ? failed : error;
}

static int op_alloc(struct request *request)
{
	return op_range(request, IMSTEST_IOC_ALLOC, "least");
}

static int op_request(struct request *request)
{
	return op_range(request, IMSTEST_IOC_REQUEST, NULL);
}

static int op_release(struct request *request)
{
	return op_range(request, IMSTEST_IOC_RELEASE, NULL);
}

static int op_free(struct request *request)
{
	return op_range(request, IMSTEST_IOC_FREE, NULL);
}

static int op_mask(struct request *request)
{
	return op_range(request, IMSTEST_IOC_MASK, NULL);
}

static int op_unmask(struct request *request)
{
	return op_range(request, IMSTEST_IOC_UNMASK, NULL);
}

static int op_move(struct request *request)
{
	int error = needed(request, "cpu");

	return error ? error : op_range(request, IMSTEST_IOC_MOVE, "cpu");
}

static int op_cycle(struct request *request)
{
	int error = needed(request, "rounds");

	return error ? error : op_range(request, IMSTEST_IOC_CYCLE, "rounds");
}

static int op_fire_with(struct request *request, unsigned long command, uint32_t cpu)
{
	struct imstest_fire fire = { .cpu = cpu };
	int error;

	if ((error = parse_store(request, &fire.store)) ||
	    (error = number(request, "index", &fire.index, 0)) ||
	    (error = number(request, "function", &fire.function, 0)) ||
	    (error = number(request, "timeout", &fire.timeout_ms, 1000)))
		return error;

	error = control(request, command, &fire);
	json_unsigned("status", fire.status);
	json_string("completion", fire.status < ARRAY_SIZE(completion_names) ?
				  completion_names[fire.status] : "unknown");
	json_unsigned("sequence", fire.sequence);
	json_unsigned("device_status", fire.device);
	if (command == IMSTEST_IOC_MOVE_FIRE)
		json_number("cpu", fire.cpu);
	return error;
}

static int op_fire(struct request *request)
{
	return op_fire_with(request, IMSTEST_IOC_FIRE, 0);
}

static int op_move_fire(struct request *request)
{
	uint32_t cpu;
	int error;

	if ((error = needed(request, "cpu")) || (error = number(request, "cpu", &cpu, 0)))
		return error;
	return op_fire_with(request, IMSTEST_IOC_MOVE_FIRE, cpu);
}

static int op_list(struct request *request)
{
	uint32_t function, store, index, count;
	int error;

	if ((error = parse_store(request, &store)) ||
	    (error = number(request, "function", &function, 0)) ||
	    (error = number(request, "index", &index, 0)) ||
	    (error = number(request, "count", &count, 0)))
		return error;
	return put_interrupts(request, function, store, index, count);
}

static int op_stored(struct request *request)
{
	struct imstest_stored stored = {};
	uint32_t function, store, index, count, i;
	int error;

	if ((error = parse_store(request, &store)) ||
	    (error = number(request, "function", &function, 0)) ||
	    (error = number(request, "index", &index, 0)) ||
	    (error = number(request, "count", &count, 1)))
		return error;

	json_open_array("messages");
	for (i = 0; i < count && !error; i++) {
		stored.function = function;
		stored.store = store;
		stored.index = index + i;
		error = control(request, IMSTEST_IOC_STORED, &stored);
		if (error)
			break;
		json_open_object(NULL);
		json_string("store", store_names[store]);
		json_unsigned("index", stored.index);
		json_unsigned("address", stored.address);
		json_unsigned("data", stored.data);
		json_bool("masked", stored.masked);
		json_bool("pending", stored.pending);
		json_close_object();
	}
	json_close_array();
	return error;
}

static int op_write(struct request *request)
{
	struct imstest_stored stored = {};
	uint32_t address;
	int error;

	if ((error = parse_store(request, &stored.store)) ||
	    (error = needed(request, "address")) ||
	    (error = needed(request, "data")) ||
	    (error = number(request, "function", &stored.function, 0)) ||
	    (error = number(request, "index", &stored.index, 0)) ||
	    (error = number(request, "address", &address, 0)) ||
	    (error = number(request, "data", &stored.data, 0)))
		return error;
	stored.address = address;
	return control(request, IMSTEST_IOC_WRITE, &stored);
}

static int op_function(struct request *request)
{
	struct imstest_function_facts facts = {};
	uint32_t wait;
	int error;

	if ((error = number(request, "function", &facts.function, 0)) ||
	    (error = number(request, "wait", &wait, 0)))
		return error;
	if (wait > WAIT_MAX_MS)
		return fail(request, ERANGE, "wait=%u: more than %d ms", wait, WAIT_MAX_MS);
	/* The driver core announces a bound driver to udev only, which is not here. */
	while ((error = control(request, IMSTEST_IOC_FUNCTION, &facts)) == ENODEV && wait--)
		usleep(1000);
	if (error)
		return error;

	json_string("slot", facts.slot);
	json_string("msi_parent", facts.msi_parent);
	json_bool("remapping", facts.features & IMSTEST_HAS_REMAPPING);
	json_string("ims_domain", !(facts.features & IMSTEST_HAS_IMS) ? "none" :
				  facts.features & IMSTEST_IMS_BY_KERNEL ? "kernel" : "module");
	json_bool("dynamic_msix", facts.features & IMSTEST_HAS_DYNAMIC_MSIX);
	json_bool("ims_mapped", facts.features & IMSTEST_IMS_MAPPED);
	json_unsigned("msi_max", facts.msi_max);
	json_unsigned("msix_max", facts.msix_max);
	json_unsigned("ims_max", facts.ims_max);
	json_unsigned("msi", facts.msi);
	json_unsigned("msix", facts.msix);
	json_unsigned("ims", facts.ims);
	json_unsigned("placeholders", facts.placeholders);
	json_unsigned("status", facts.status);
	json_unsigned("refused", facts.refused);
	json_unsigned("unanswered", facts.unanswered);
	return 0;
}

static int op_hold_with(struct request *request, unsigned long command)
{
	struct imstest_hold hold = {};
	int error;

	if ((error = number(request, "function", &hold.function, 0)) ||
	    (error = number(request, "count", &hold.count, 0)))
		return error;
	error = control(request, command, &hold);
	json_unsigned("done", hold.done);
	json_unsigned("total", hold.total);
	return error;
}

static int op_hold(struct request *request)
{
	return op_hold_with(request, IMSTEST_IOC_HOLD);
}

static int op_drop(struct request *request)
{
	return op_hold_with(request, IMSTEST_IOC_DROP);
}

static int op_reset(struct request *request)
{
	return op_hold_with(request, IMSTEST_IOC_RESET);
}

static void put_irq(const struct imstest_irq *irq)
{
	uint32_t i;

	json_open_object(NULL);
	json_unsigned("virq", irq->virq);
	json_bool("activated", irq->flags & IMSTEST_IRQ_ACTIVATED);
	json_bool("started", irq->flags & IMSTEST_IRQ_STARTED);
	json_bool("masked", irq->flags & IMSTEST_IRQ_MASKED);
	json_bool("level", irq->flags & IMSTEST_IRQ_LEVEL);
	json_number("cpu", irq->cpu);
	if (irq->flags & IMSTEST_IRQ_HAS_VECTOR) {
		json_unsigned("vector", irq->vector);
		json_unsigned("destination", irq->destination);
	}
	if (irq->flags & IMSTEST_IRQ_HAS_MESSAGE) {
		json_unsigned("address", irq->message_address);
		json_unsigned("data", irq->message_data);
	}
	json_unsigned("depth", irq->depth);
	json_open_array("levels");
	for (i = 0; i < irq->depth && i < IMSTEST_LEVELS; i++) {
		json_open_object(NULL);
		json_string("domain", irq->levels[i].domain);
		json_string("chip", irq->levels[i].chip);
		json_unsigned("hwirq", irq->levels[i].hwirq);
		json_close_object();
	}
	json_close_array();
	json_close_object();
}

static int op_irqs(struct request *request)
{
	struct imstest_irq irqs[IRQS_AT_ONCE];
	struct imstest_irqs slice = { .irqs = (uintptr_t)irqs };
	uint32_t i;
	int error;

	json_open_array("irqs");
	do {
		slice.count = IRQS_AT_ONCE;
		error = control(request, IMSTEST_IOC_IRQS, &slice);
		for (i = 0; !error && i < slice.count; i++)
			put_irq(&irqs[i]);
	} while (!error && slice.count);
	json_close_array();
	return error;
}

#define RANGE " function store index count facts "

const struct operation module_operations[] = {
	{ "alloc", RANGE "least pasid ", "allocate interrupts: store=msi|msix|ims [index=N|any] "
	  "[count=1] [least=count: be content with fewer] [pasid=N: bind IMS entries to it]",
	  op_alloc },
	{ "request", RANGE, "install the handler: store= [index=0] [count=1, 0: all]", op_request },
	{ "release", RANGE, "remove the handler: store= [index=0] [count=1, 0: all]", op_release },
	{ "free", RANGE, "free interrupts: store= [index=0] [count=1, 0: all]", op_free },
	{ "mask", RANGE, "mask at the chip: store= [index=0] [count=1, 0: all]", op_mask },
	{ "unmask", RANGE, "unmask at the chip: store= [index=0] [count=1, 0: all]", op_unmask },
	{ "move", RANGE "cpu ", "set the affinity: store= cpu=N [index=0] [count=1, 0: all]",
	  op_move },
	{ "cycle", RANGE "rounds ", "allocate, request, release, free, many times: "
	  "store= rounds=N [index=0] [count=1]", op_cycle },
	{ "fire", " function store index timeout ", "raise by a work descriptor: "
	  "store= [index=0] [timeout=1000 ms]", op_fire },
	{ "move_fire", " function store index timeout cpu ", "set the affinity, and raise at once "
	  "by a work descriptor: store= cpu=N [index=0] [timeout=1000 ms]", op_move_fire },
	{ "list", " function store index count ", "facts of the allocated interrupts: "
	  "store= [index=0] [count=0: all]", op_list },
	{ "stored", " function store index count ", "messages as they stand in the store, "
	  "read from the device: store= [index=0] [count=1]", op_stored },
	{ "write", " function store index address data ", "put a message into the store, whatever "
	  "was composed: store= address=N data=N [index=0]", op_write },
	{ "function", " function wait ", "facts of the PCI function: "
	  "[wait=0 ms: for the driver to be bound]", op_function },
	{ "irqs", " ", "every interrupt of the machine with its domain hierarchy", op_irqs },
	{ "hold", " function count ", "take remapping entries: "
	  "[count=0: until the kernel refuses]", op_hold },
	{ "drop", " function ", "give them back", op_drop },
	{ "reset", " function ", "free everything and reset the function", op_reset },
};

const size_t module_operations_count = ARRAY_SIZE(module_operations);
