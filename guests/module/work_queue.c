// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The work queue: descriptors in a ring, a doorbell, completion records. A
 * descriptor names the interrupt that the device raises when it is done.
 */

#include <linux/dma-mapping.h>
#include <linux/iopoll.h>
#include <linux/ktime.h>
#include <linux/pci.h>
#include <linux/sched/signal.h>

#include "imstest.h"

#define RING_BYTES	(IMSTEST_WQ_ENTRIES * sizeof(struct imstest_work_descriptor))
#define RECORDS_BYTES	(IMSTEST_WQ_ENTRIES * sizeof(struct imstest_completion_record))

/* Longer than any emulated device takes; a user who wants less says so. */
#define TIMEOUT_MAX_MS	60000
#define STOP_MAX_US	100000

static_assert(sizeof(struct imstest_work_descriptor) == 32);
static_assert(sizeof(struct imstest_completion_record) == 16);

/**
 * imstest_work_queue_init() - allocate and start the work queue
 * @function:	the function, its control BAR mapped and bus mastering on
 *
 * Return: 0, -ENOMEM, -EIO when the device refuses the ring.
 */
int imstest_work_queue_init(struct imstest_function *function)
{
	struct imstest_work_queue *queue = &function->queue;
	struct device *dev = &function->pdev->dev;

	queue->ring = dma_alloc_coherent(dev, RING_BYTES, &queue->ring_dma, GFP_KERNEL);
	if (!queue->ring)
		return -ENOMEM;

	queue->records = dma_alloc_coherent(dev, RECORDS_BYTES, &queue->records_dma, GFP_KERNEL);
	if (!queue->records)
		return -ENOMEM;

	return imstest_work_queue_start(function);
}

/**
 * imstest_work_queue_exit() - undo imstest_work_queue_init(), however far it came
 * @function:	the function; it is no bus master any more when this returns
 */
void imstest_work_queue_exit(struct imstest_function *function)
{
	struct imstest_work_queue *queue = &function->queue;
	struct device *dev = &function->pdev->dev;
	u32 status;

	imstest_write(function, IMSTEST_CONTROL, 0);
	/* A descriptor may still be under way, and gets its time. */
	readl_poll_timeout(function->control + IMSTEST_STATUS, status,
			   !(status & IMSTEST_STATUS_WQ_ACTIVE), 10, STOP_MAX_US);
	/* Whatever the device makes of that: it does not write to memory that is freed. */
	pci_clear_master(function->pdev);

	if (queue->records)
		dma_free_coherent(dev, RECORDS_BYTES, queue->records, queue->records_dma);
	queue->records = NULL;
	if (queue->ring)
		dma_free_coherent(dev, RING_BYTES, queue->ring, queue->ring_dma);
	queue->ring = NULL;
}

/**
 * imstest_work_queue_start() - hand the ring to the device, after a reset or an error too
 * @function:	the function
 *
 * Return: 0, -EIO when the device does not take it.
 */
int imstest_work_queue_start(struct imstest_function *function)
{
	struct imstest_work_queue *queue = &function->queue;

	/* Size and base are writable while it is disabled. */
	imstest_write(function, IMSTEST_CONTROL, 0);
	imstest_write(function, IMSTEST_WQ_SIZE, IMSTEST_WQ_ENTRIES);
	imstest_write(function, IMSTEST_WQ_BASE_LO, lower_32_bits(queue->ring_dma));
	imstest_write(function, IMSTEST_WQ_BASE_HI, upper_32_bits(queue->ring_dma));
	imstest_write(function, IMSTEST_CONTROL, IMSTEST_CONTROL_WQ_ENABLE);
	queue->tail = imstest_read(function, IMSTEST_WQ_HEAD);

	if (imstest_read(function, IMSTEST_STATUS) & IMSTEST_STATUS_WQ_ACTIVE)
		return 0;
	pci_err(function->pdev, "the device refuses the work queue, status %#x\n",
		imstest_read(function, IMSTEST_STATUS));
	return -EIO;
}

static int wait_for_record(struct imstest_function *function,
			   const struct imstest_completion_record *record, u32 timeout_ms)
{
	const __le32 pending = cpu_to_le32(IMSTEST_COMPLETION_PENDING);
	ktime_t end = ktime_add_ms(ktime_get(), timeout_ms);

	for (;;) {
		/* Before the look: whoever slept for long looks once more. */
		bool expired = ktime_compare(ktime_get(), end) >= 0;

		if (READ_ONCE(record->status) != pending)
			return 0;
		if (expired)
			return -ETIMEDOUT;
		if (READ_ONCE(function->leaving))
			return -ENODEV;
		if (signal_pending(current))
			return -EINTR;
		usleep_range(10, 20);
	}
}

/**
 * imstest_fire() - submit one descriptor and wait for its completion record
 * @function:	the function
 * @fire:	store, index and bound of the wait; the rest is written
 *
 * The store and index go to the device unchecked: how it refuses them is a
 * result.
 *
 * Return: 0 when the device has written the record, whatever its status;
 * -EINVAL for a store that a descriptor cannot hold or a time-out above a
 * minute, -ETIMEDOUT, -EINTR for a signal, -ENODEV when the driver is unbound
 * meanwhile.
 */
int imstest_fire(struct imstest_function *function, struct imstest_fire *fire)
{
	struct imstest_work_queue *queue = &function->queue;
	u32 slot = queue->tail % IMSTEST_WQ_ENTRIES;
	struct imstest_completion_record *record = &queue->records[slot];
	dma_addr_t record_dma = queue->records_dma + slot * sizeof(*record);
	int ret;

	if (fire->store > U16_MAX || fire->timeout_ms > TIMEOUT_MAX_MS)
		return -EINVAL;

	*record = (struct imstest_completion_record) {
		.status	= cpu_to_le32(IMSTEST_COMPLETION_PENDING),
	};
	queue->ring[slot] = (struct imstest_work_descriptor) {
		.opcode		= IMSTEST_OPCODE_INTERRUPT,
		.store		= cpu_to_le16(fire->store),
		.index		= cpu_to_le32(fire->index),
		.cookie		= cpu_to_le64(queue->tail),
		.completion	= cpu_to_le64(record_dma),
	};

	/* The descriptor and the cleared record are in memory before the doorbell. */
	dma_wmb();
	imstest_write(function, IMSTEST_WQ_TAIL, ++queue->tail);

	ret = wait_for_record(function, record, fire->timeout_ms);
	/* The device writes the status last. */
	dma_rmb();
	fire->status = le32_to_cpu(record->status);
	fire->sequence = le32_to_cpu(record->sequence);
	fire->device = imstest_read(function, IMSTEST_STATUS);
	return ret;
}

/**
 * imstest_move_fire() - move an interrupt, and have it raised at once
 * @function:	the function
 * @fire:	as for imstest_fire(), and the CPU; the effective CPU is written
 *
 * Nothing comes between the end of the move and the doorbell. The kernel may
 * put the move off: then the effective CPU is still the old one.
 *
 * Return: -EINVAL for an unknown store, -ENOENT when no such interrupt is
 * allocated, what imstest_interrupt_move() returns, or imstest_fire().
 */
int imstest_move_fire(struct imstest_function *function, struct imstest_fire *fire)
{
	struct imstest_interrupt *interrupt;
	int ret;

	if (fire->store == IMSTEST_STORE_NONE || fire->store >= IMSTEST_STORES)
		return -EINVAL;
	interrupt = imstest_interrupt_find(function, fire->store, fire->index);
	if (!interrupt)
		return -ENOENT;
	ret = imstest_interrupt_move(interrupt, fire->cpu);
	if (ret)
		return ret;
	fire->cpu = imstest_effective_cpu(irq_get_irq_data(interrupt->virq));
	return imstest_fire(function, fire);
}
