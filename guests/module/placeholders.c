// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Placeholders: entries of the remapping table that are taken for no interrupt,
 * so that a test can see what happens when none is left.
 *
 * Every Linux interrupt costs about two kilobytes, 65536 of them too much for a
 * small guest. The remapping driver rounds a block of messages up to a power of
 * two: a block of half plus one takes all.
 */

#include <linux/irqdomain.h>
#include <linux/log2.h>
#include <linux/sched/signal.h>
#include <linux/slab.h>
#include <asm/hw_irq.h>

#include "imstest.h"

/*
 * The kernel makes the interrupts of a block without a pause: those of half the
 * table kept a CPU for 157 s under lockdep and KASAN.
 */
#define ORDER_MAX	10

/**
 * struct placeholder - one block of remapping entries
 * @node:	in imstest_function.placeholders
 * @virq:	first Linux interrupt number
 * @virqs:	how many of them stand for the block
 * @entries:	entries that the block takes
 */
struct placeholder {
	struct list_head node;
	int virq;
	u32 virqs;
	u32 entries;
};

static int placeholder_take(struct imstest_function *function, unsigned int order)
{
	struct irq_alloc_info info = {
		.type	= X86_IRQ_ALLOC_TYPE_PCI_MSI,
		.desc	= &function->desc,
	};
	struct placeholder *placeholder;

	placeholder = kmalloc(sizeof(*placeholder), GFP_KERNEL);
	if (!placeholder)
		return -ENOMEM;

	placeholder->entries = BIT(order);
	placeholder->virqs = BIT(order) / 2 + 1;
	placeholder->virq = irq_domain_alloc_irqs(function->msi_parent, placeholder->virqs,
						  dev_to_node(&function->pdev->dev), &info);
	if (placeholder->virq < 0) {
		int ret = placeholder->virq;

		kfree(placeholder);
		return ret;
	}

	list_add(&placeholder->node, &function->placeholders);
	function->placeholders_held += placeholder->entries;
	return 0;
}

/**
 * imstest_placeholders_hold() - take remapping entries
 * @function:	the function, whose source id they carry
 * @hold:	count, 0: until the kernel refuses; done and total are written
 *
 * In blocks of the largest size, until it is refused, and then of the next one: a
 * refusal costs as much as a grant.
 *
 * Return: 0, -EOPNOTSUPP without remapping, -EINTR for a signal, or what the
 * remapping domain answers to a request for a single entry. With count 0 that
 * errno is the regular end.
 */
int imstest_placeholders_hold(struct imstest_function *function, struct imstest_hold *hold)
{
	u32 want = hold->count ?: U32_MAX;
	unsigned int order = ORDER_MAX;
	int ret = 0;

	if (!function->remapping)
		return -EOPNOTSUPP;

	while (want) {
		if (signal_pending(current)) {
			ret = -EINTR;
			break;
		}
		order = min_t(unsigned int, order, ilog2(want));
		ret = placeholder_take(function, order);
		if (ret && !order)
			break;
		if (ret) {
			order--;
		} else {
			want -= BIT(order);
			hold->done += BIT(order);
		}
		cond_resched();
	}

	hold->total = function->placeholders_held;
	return ret;
}

/**
 * imstest_placeholders_drop() - give every placeholder back
 * @function:	the function
 * @hold:	done and total are written
 *
 * Return: 0.
 */
int imstest_placeholders_drop(struct imstest_function *function, struct imstest_hold *hold)
{
	struct placeholder *placeholder, *next;
	u32 i;

	list_for_each_entry_safe(placeholder, next, &function->placeholders, node) {
		/* The first of a block gives its entries back, the others their memory. */
		for (i = placeholder->virqs; i-- > 0;)
			irq_dispose_mapping(placeholder->virq + i);
		hold->done += placeholder->entries;
		function->placeholders_held -= placeholder->entries;
		list_del(&placeholder->node);
		kfree(placeholder);
		cond_resched();
	}
	hold->total = function->placeholders_held;
	return 0;
}
