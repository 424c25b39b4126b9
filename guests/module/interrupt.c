// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One interrupt, whatever store its message is in: handler, mask, CPU, facts.
 */

#include <linux/interrupt.h>
#include <linux/io-64-nonatomic-lo-hi.h>
#include <linux/irq.h>
#include <linux/msi.h>
#include <linux/percpu.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/hw_irq.h>

#include "imstest.h"

static const u32 event_banks[IMSTEST_STORES] = {
	[IMSTEST_STORE_MSI]	= IMSTEST_EVENT_MSI,
	[IMSTEST_STORE_MSIX]	= IMSTEST_EVENT_MSIX,
	[IMSTEST_STORE_IMS]	= IMSTEST_EVENT_IMS,
};

static const char * const store_names[IMSTEST_STORES] = {
	[IMSTEST_STORE_MSI]	= "msi",
	[IMSTEST_STORE_MSIX]	= "msix",
	[IMSTEST_STORE_IMS]	= "ims",
};

/**
 * imstest_interrupt_add() - keep an allocated interrupt
 * @function:	whose it is
 * @store:	IMSTEST_STORE_*
 * @index:	index in the store
 * @virq:	Linux interrupt number
 *
 * Return: 0, -ENOMEM, -EBUSY when there is one already.
 */
int imstest_interrupt_add(struct imstest_function *function, u32 store, u32 index,
			  unsigned int virq)
{
	struct imstest_interrupt *interrupt;
	int ret;

	interrupt = kzalloc(sizeof(*interrupt), GFP_KERNEL);
	if (!interrupt)
		return -ENOMEM;

	interrupt->runs = alloc_percpu(u32);
	if (!interrupt->runs) {
		ret = -ENOMEM;
		goto err_free_interrupt;
	}

	interrupt->function = function;
	interrupt->store = store;
	interrupt->index = index;
	interrupt->virq = virq;
	interrupt->event = function->control + event_banks[store] +
			   index * IMSTEST_EVENT_SLOT_SIZE;
	snprintf(interrupt->name, sizeof(interrupt->name), "imstest%u-%s-%u", function->number,
		 store_names[store], index);

	ret = xa_insert(&function->interrupts[store], index, interrupt, GFP_KERNEL);
	if (ret)
		goto err_free_runs;
	return 0;

err_free_runs:
	free_percpu(interrupt->runs);
err_free_interrupt:
	kfree(interrupt);
	return ret;
}

/**
 * imstest_interrupt_delete() - forget an interrupt that has no handler
 * @interrupt:	the interrupt; the caller frees its Linux interrupt number
 */
void imstest_interrupt_delete(struct imstest_interrupt *interrupt)
{
	xa_erase(&interrupt->function->interrupts[interrupt->store], interrupt->index);
	free_percpu(interrupt->runs);
	kfree(interrupt);
}

/**
 * imstest_interrupt_find() - look an allocated interrupt up
 * @function:	whose it is
 * @store:	IMSTEST_STORE_*, one of the three
 * @index:	index in the store
 *
 * Return: the interrupt, NULL when none is allocated there.
 */
struct imstest_interrupt *imstest_interrupt_find(struct imstest_function *function, u32 store,
						 u32 index)
{
	return xa_load(&function->interrupts[store], index);
}

/**
 * imstest_interrupt_count() - count the allocated interrupts of a store
 * @function:	whose they are
 * @store:	IMSTEST_STORE_*, one of the three
 *
 * Return: how many there are.
 */
u32 imstest_interrupt_count(struct imstest_function *function, u32 store)
{
	struct imstest_interrupt *interrupt;
	unsigned long index;
	u32 count = 0;

	xa_for_each(&function->interrupts[store], index, interrupt)
		count++;
	return count;
}

/*
 * Take one event and answer it. The device hands out sequence numbers from 1 on:
 * 0 says that nothing is outstanding, and the answer makes the device name it.
 */
static irqreturn_t imstest_handler(int virq, void *data)
{
	struct imstest_interrupt *interrupt = data;
	u32 sequence = ioread32(interrupt->event);
	u64 cpu = smp_processor_id();

	this_cpu_inc(*interrupt->runs);
	if (sequence)
		WRITE_ONCE(interrupt->last_sequence, sequence);
	else
		atomic_inc(&interrupt->spurious);

	writeq(cpu << 32 | sequence, interrupt->event);
	return IRQ_HANDLED;
}

/**
 * imstest_interrupt_request() - install the handler
 * @interrupt:	the interrupt
 * @argument:	unused
 *
 * Return: 0, -EALREADY when it has the handler, or what request_irq() answers.
 */
int imstest_interrupt_request(struct imstest_interrupt *interrupt, u32 argument)
{
	int ret;

	if (interrupt->requested)
		return -EALREADY;

	/* Mask at the chip at once; by default the core waits for one more interrupt. */
	irq_set_status_flags(interrupt->virq, IRQ_DISABLE_UNLAZY);

	/* The CPU that the handler runs on is a result: not in a thread. */
	ret = request_irq(interrupt->virq, imstest_handler, IRQF_NO_THREAD, interrupt->name,
			  interrupt);
	if (ret)
		return ret;

	interrupt->requested = true;
	interrupt->masked = false;
	return 0;
}

/**
 * imstest_interrupt_release() - remove the handler
 * @interrupt:	the interrupt
 * @argument:	unused
 *
 * Return: 0, -EINVAL when it has no handler.
 */
int imstest_interrupt_release(struct imstest_interrupt *interrupt, u32 argument)
{
	if (!interrupt->requested)
		return -EINVAL;

	free_irq(interrupt->virq, interrupt);
	interrupt->requested = false;
	interrupt->masked = false;
	return 0;
}

/**
 * imstest_interrupt_mask() - mask at the chip, and wait for a running handler
 * @interrupt:	the interrupt
 * @argument:	unused
 *
 * Return: 0, -EINVAL without a handler, -EALREADY when it is masked.
 */
int imstest_interrupt_mask(struct imstest_interrupt *interrupt, u32 argument)
{
	if (!interrupt->requested)
		return -EINVAL;
	if (interrupt->masked)
		return -EALREADY;

	disable_irq(interrupt->virq);
	interrupt->masked = true;
	return 0;
}

/**
 * imstest_interrupt_unmask() - unmask at the chip
 * @interrupt:	the interrupt
 * @argument:	unused
 *
 * Return: 0, -EINVAL without a handler, -EALREADY when it is not masked.
 */
int imstest_interrupt_unmask(struct imstest_interrupt *interrupt, u32 argument)
{
	if (!interrupt->requested)
		return -EINVAL;
	if (!interrupt->masked)
		return -EALREADY;

	interrupt->masked = false;
	enable_irq(interrupt->virq);
	return 0;
}

/**
 * imstest_interrupt_write() - put a message into the store, whatever was composed for it
 * @function:	the function
 * @stored:	store, index, address and data
 *
 * The entry is masked around the write where it has a mask bit. Linux knows of
 * nothing else: it writes its own message when it next has a reason to.
 *
 * Return: 0, -ENOENT for an interrupt that is not allocated, -EINVAL for an MSI
 * message but the first: the others have no message of their own.
 */
int imstest_interrupt_write(struct imstest_function *function, const struct imstest_stored *stored)
{
	struct imstest_interrupt *interrupt = imstest_interrupt_find(function, stored->store,
								     stored->index);
	struct msi_msg msg = {
		.address_lo	= lower_32_bits(stored->address),
		.address_hi	= upper_32_bits(stored->address),
		.data		= stored->data,
	};

	if (!interrupt)
		return -ENOENT;
	if (stored->store == IMSTEST_STORE_MSI && stored->index)
		return -EINVAL;

	if (stored->store == IMSTEST_STORE_IMS) {
		imstest_ims_mask(function, stored->index);
		imstest_ims_store(function, stored->index, &msg);
		imstest_ims_unmask(function, stored->index);
	} else {
		pci_write_msi_msg(interrupt->virq, &msg);
	}
	/* Stores are posted. Once this returns, the device has seen them. */
	imstest_read(function, IMSTEST_STATUS);
	return 0;
}

/**
 * imstest_interrupt_move() - set the affinity to one CPU
 * @interrupt:	the interrupt
 * @cpu:	Linux CPU number
 *
 * A handler that still runs takes over what arrives on the new CPU meanwhile
 * (IRQS_PENDING): it is waited for, so that who answers next is the new CPU.
 *
 * Return: 0, -EINVAL for a CPU that cannot exist, or what irq_set_affinity() answers.
 */
int imstest_interrupt_move(struct imstest_interrupt *interrupt, u32 cpu)
{
	if (cpu >= nr_cpu_ids || !cpu_possible(cpu))
		return -EINVAL;
	synchronize_irq(interrupt->virq);
	return irq_set_affinity(interrupt->virq, cpumask_of(cpu));
}

static void imstest_cached_message(struct imstest_interrupt *interrupt, struct msi_msg *msg)
{
	if (interrupt->store == IMSTEST_STORE_IMS) {
		*msg = interrupt->function->ims_messages[interrupt->index];
		return;
	}

	get_cached_msi_msg(interrupt->virq, msg);
	/* The messages of one MSI capability share a descriptor and differ in the low data bits. */
	if (interrupt->store == IMSTEST_STORE_MSI)
		msg->data |= interrupt->index;
}

/**
 * imstest_interrupt_facts() - what the kernel knows of an interrupt
 * @function:	whose it is
 * @facts:	store, and index from which to look; the rest is written
 *
 * Return: 0, -EINVAL for an unknown store, -ENOENT when none is allocated
 * there or behind, -EFAULT for a bad pointer.
 */
int imstest_interrupt_facts(struct imstest_function *function, struct imstest_facts *facts)
{
	u32 __user *counts = u64_to_user_ptr(facts->counts);
	struct imstest_interrupt *interrupt;
	unsigned long index = facts->index;
	const struct irq_cfg *cfg;
	unsigned int cpu, room = facts->cpus;
	struct irq_data *irqd;
	struct msi_msg msg;

	if (facts->store == IMSTEST_STORE_NONE || facts->store >= IMSTEST_STORES)
		return -EINVAL;
	interrupt = xa_find(&function->interrupts[facts->store], &index, U32_MAX, XA_PRESENT);
	if (!interrupt)
		return -ENOENT;
	irqd = irq_get_irq_data(interrupt->virq);
	if (!irqd)
		return -ENOENT;
	/* As for a move: where the next one arrives is where it is answered. */
	synchronize_irq(interrupt->virq);

	facts->index = interrupt->index;
	facts->virq = interrupt->virq;
	facts->hwirq = irqd_to_hwirq(irqd);
	facts->state = (interrupt->requested ? IMSTEST_REQUESTED : 0) |
		       (interrupt->masked ? IMSTEST_MASKED : 0);
	facts->cpu = imstest_effective_cpu(irqd);
	cfg = imstest_vector(irqd);
	facts->vector = cfg ? cfg->vector : 0;
	facts->destination = cfg ? cfg->dest_apicid : 0;
	facts->last_sequence = READ_ONCE(interrupt->last_sequence);
	facts->spurious = atomic_read(&interrupt->spurious);

	imstest_cached_message(interrupt, &msg);
	facts->cached_address = (u64)msg.address_hi << 32 | msg.address_lo;
	facts->cached_data = msg.data;

	/* Left at zero when the hierarchy composes none. */
	imstest_compose(irqd, &msg);
	facts->composed_address = (u64)msg.address_hi << 32 | msg.address_lo;
	facts->composed_data = msg.data;

	facts->cpus = nr_cpu_ids;
	for (cpu = 0; cpu < min(room, nr_cpu_ids); cpu++) {
		u32 runs = cpu_possible(cpu) ? *per_cpu_ptr(interrupt->runs, cpu) : 0;

		if (put_user(runs, &counts[cpu]))
			return -EFAULT;
	}
	return 0;
}
