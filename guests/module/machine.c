// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Every interrupt of the machine: its domain hierarchy, the message that the
 * hierarchy composes and the vector that it ends in. Read-only.
 */

#include <linux/irq.h>
#include <linux/irqdesc.h>
#include <linux/irqdomain.h>
#include <linux/irqnr.h>
#include <linux/mutex.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/uaccess.h>
#include <asm/hw_irq.h>
#include <asm/irqdomain.h>

#include "imstest.h"

/**
 * imstest_effective_cpu() - the CPU that an interrupt goes to
 * @irqd:	any level of the interrupt
 *
 * Return: the CPU, or -1 while the interrupt has none.
 */
int imstest_effective_cpu(struct irq_data *irqd)
{
	unsigned int cpu = cpumask_first(irq_data_get_effective_affinity_mask(irqd));

	return cpu < nr_cpu_ids ? (int)cpu : -1;
}

/**
 * imstest_vector() - vector and destination of an interrupt
 * @irqd:	any level of the interrupt
 *
 * Return: the CPU's side, NULL when the hierarchy does not end in the vector domain.
 */
const struct irq_cfg *imstest_vector(struct irq_data *irqd)
{
	while (irqd->parent_data)
		irqd = irqd->parent_data;
	return irqd->domain == x86_vector_domain ? irqd_cfg(irqd) : NULL;
}

/**
 * imstest_compose() - the message that an interrupt's hierarchy composes now
 * @irqd:	where to start; the first chip that composes decides, as for the core
 * @msg:	the message, zero on error
 *
 * The callback returns nothing. A message without an address is its failure.
 *
 * Return: 0, -ENXIO when no chip composes, -EIO when the chip left the message empty.
 */
int imstest_compose(struct irq_data *irqd, struct msi_msg *msg)
{
	memset(msg, 0, sizeof(*msg));

	for (; irqd; irqd = irqd->parent_data) {
		if (!irqd->chip || !irqd->chip->irq_compose_msi_msg)
			continue;
		/* The CPU's level has no vector to compose from before it has allocated. */
		if (!irqd->parent_data && !imstest_vector(irqd))
			return -ENXIO;
		irqd->chip->irq_compose_msi_msg(irqd, msg);
		return msg->address_lo ? 0 : -EIO;
	}
	return -ENXIO;
}

/*
 * Interrupts of other drivers come and go. A hierarchy that ends in the vector
 * domain is built and undone under the mutex of that domain. Where that mutex
 * is one of the core's own, what is undone is still told by its chip; there, an
 * allocation of several interrupts that fails half-way is the one thing that a
 * reader may see being freed.
 */
static void hierarchies_lock(void)
{
#if HAVE_DOMAIN_MUTEX
	mutex_lock(&x86_vector_domain->root->mutex);
#endif
}

static void hierarchies_unlock(void)
{
#if HAVE_DOMAIN_MUTEX
	mutex_unlock(&x86_vector_domain->root->mutex);
#endif
}

/*
 * The core takes the chip away, under the descriptor's lock, before it frees the
 * levels below; before there is one, it builds them. Its stand-in has no symbol.
 */
static bool has_chip(struct irq_data *irqd)
{
	return irqd->chip && strcmp(irqd->chip->name, "none");
}

static void imstest_describe_irq(struct imstest_irq *irq, unsigned int virq, struct irq_data *irqd)
{
	const struct irq_cfg *cfg = imstest_vector(irqd);
	struct irq_data *level;
	struct msi_msg msg;

	memset(irq, 0, sizeof(*irq));
	irq->virq = virq;
	irq->cpu = imstest_effective_cpu(irqd);
	if (irqd_is_activated(irqd))
		irq->flags |= IMSTEST_IRQ_ACTIVATED;
	if (irqd_is_started(irqd))
		irq->flags |= IMSTEST_IRQ_STARTED;
	if (irqd_irq_masked(irqd))
		irq->flags |= IMSTEST_IRQ_MASKED;
	if (irqd_is_level_type(irqd))
		irq->flags |= IMSTEST_IRQ_LEVEL;
	if (cfg) {
		irq->flags |= IMSTEST_IRQ_HAS_VECTOR;
		irq->vector = cfg->vector;
		irq->destination = cfg->dest_apicid;
	}
	if (!imstest_compose(irqd, &msg)) {
		irq->flags |= IMSTEST_IRQ_HAS_MESSAGE;
		irq->message_address = (u64)msg.address_hi << 32 | msg.address_lo;
		irq->message_data = msg.data;
	}

	for (level = irqd; level; level = level->parent_data) {
		struct imstest_level *to;

		if (irq->depth >= IMSTEST_LEVELS) {
			irq->depth++;
			continue;
		}
		to = &irq->levels[irq->depth++];
		if (level->domain && level->domain->name)
			strscpy(to->domain, level->domain->name, sizeof(to->domain));
		if (level->chip && level->chip->name)
			strscpy(to->chip, level->chip->name, sizeof(to->chip));
		to->hwirq = level->hwirq;
	}
}

/* Describe an interrupt, unless there is none. The descriptor itself is freed by RCU. */
static bool imstest_find_irq(struct imstest_irq *irq, unsigned int virq)
{
	struct irq_data *irqd;
	bool found = false;

	hierarchies_lock();
	rcu_read_lock();
	irqd = irq_get_irq_data(virq);
	if (irqd) {
		raw_spinlock_t *lock = &irq_data_to_desc(irqd)->lock;
		unsigned long flags;

		raw_spin_lock_irqsave(lock, flags);
		found = has_chip(irqd);
		if (found)
			imstest_describe_irq(irq, virq, irqd);
		raw_spin_unlock_irqrestore(lock, flags);
	}
	rcu_read_unlock();
	hierarchies_unlock();
	return found;
}

/**
 * imstest_machine_irqs() - describe a slice of the machine's interrupts
 * @irqs:	the slice, see struct imstest_irqs
 *
 * Interrupts of other drivers may come and go meanwhile: each that is listed is
 * whole, but the list is not of one moment.
 *
 * Return: 0, -EFAULT for a bad pointer, -ENOMEM.
 */
int imstest_machine_irqs(struct imstest_irqs *irqs)
{
	struct imstest_irq __user *to = u64_to_user_ptr(irqs->irqs);
	struct imstest_irq *irq;
	unsigned int virq, count = 0;
	int ret = 0;

	irq = kmalloc(sizeof(*irq), GFP_KERNEL);
	if (!irq)
		return -ENOMEM;

	for_each_irq_nr(virq) {
		if (virq < irqs->first || count >= irqs->count)
			continue;
		irqs->first = virq + 1;
		if (!imstest_find_irq(irq, virq))
			continue;
		if (copy_to_user(&to[count], irq, sizeof(*irq))) {
			ret = -EFAULT;
			break;
		}
		count++;
	}

	irqs->count = count;
	kfree(irq);
	return ret;
}
