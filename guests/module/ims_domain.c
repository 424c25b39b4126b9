// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The Interrupt Message Store: a hierarchical IRQ domain on the device's MSI
 * parent.
 *
 *	vector -- remapping -- IMS
 *
 * Mainline has no interface for this: x86 refuses per-device MSI domains that
 * it does not know. A plain hierarchical domain needs none.
 *
 * An entry's message names a remapping entry and never changes while it is in
 * use. A move to another CPU rewrites the remapping entry only: no callback
 * here is called for it, and the store is not touched.
 */

#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/pci.h>
#include <asm/hw_irq.h>
#include <asm/irqdomain.h>

#include "imstest.h"

static u32 ims_read(struct imstest_function *function, u32 index, u32 field)
{
	return ioread32(function->ims + index * IMSTEST_IMS_ENTRY_SIZE + field);
}

static void ims_write(struct imstest_function *function, u32 index, u32 field, u32 value)
{
	iowrite32(value, function->ims + index * IMSTEST_IMS_ENTRY_SIZE + field);
}

static void ims_mask(struct irq_data *irqd)
{
	ims_write(irq_data_get_irq_chip_data(irqd), irqd_to_hwirq(irqd), IMSTEST_IMS_CONTROL,
		  IMSTEST_IMS_CONTROL_MASK);
}

static void ims_unmask(struct irq_data *irqd)
{
	ims_write(irq_data_get_irq_chip_data(irqd), irqd_to_hwirq(irqd), IMSTEST_IMS_CONTROL, 0);
}

static void ims_write_msi_msg(struct irq_data *irqd, struct msi_msg *msg)
{
	struct imstest_function *function = irq_data_get_irq_chip_data(irqd);
	u32 index = irqd_to_hwirq(irqd);

	ims_write(function, index, IMSTEST_IMS_ADDRESS_LO, msg->address_lo);
	ims_write(function, index, IMSTEST_IMS_ADDRESS_HI, msg->address_hi);
	ims_write(function, index, IMSTEST_IMS_DATA, msg->data);
	function->ims_messages[index] = *msg;
}

static struct irq_chip ims_chip = {
	.name			= "IR-IMS",
	.irq_ack		= irq_chip_ack_parent,
	.irq_mask		= ims_mask,
	.irq_unmask		= ims_unmask,
	.irq_retrigger		= irq_chip_retrigger_hierarchy,
	.irq_set_affinity	= irq_chip_set_affinity_parent,
	.irq_write_msi_msg	= ims_write_msi_msg,
	.flags			= IRQCHIP_SKIP_SET_WAKE | IRQCHIP_AFFINITY_PRE_STARTUP,
};

static int ims_domain_alloc(struct irq_domain *domain, unsigned int virq, unsigned int nr_irqs,
			    void *arg)
{
	struct irq_alloc_info *info = arg;
	int ret;

	/* The remapping domain gives out one entry a call for this kind. */
	if (WARN_ON_ONCE(nr_irqs != 1))
		return -EINVAL;

	ret = irq_domain_alloc_irqs_parent(domain, virq, nr_irqs, info);
	if (ret < 0)
		return ret;

	irq_domain_set_info(domain, virq, info->hwirq, &ims_chip, domain->host_data,
			    handle_edge_irq, NULL, "edge");
	return 0;
}

/* The remapping level is active by now: its entry is live before a message names it. */
static int ims_domain_activate(struct irq_domain *domain, struct irq_data *irqd, bool reserve)
{
	struct msi_msg msg;
	int ret;

	ret = imstest_compose(irqd->parent_data, &msg);
	if (ret)
		return ret;
	ims_write_msi_msg(irqd, &msg);
	return 0;
}

static void ims_domain_deactivate(struct irq_domain *domain, struct irq_data *irqd)
{
	struct msi_msg null = {};

	ims_write_msi_msg(irqd, &null);
}

static const struct irq_domain_ops ims_domain_ops = {
	.alloc		= ims_domain_alloc,
	.free		= irq_domain_free_irqs_common,
	.activate	= ims_domain_activate,
	.deactivate	= ims_domain_deactivate,
};

/**
 * imstest_ims_init() - find the MSI parent and stack the IMS domain on it
 * @function:	the function, its BARs mapped
 *
 * Without remapping there is no IMS domain, and nothing is wrong: MSI and
 * MSI-X still work, and imstest_ims_alloc() refuses.
 *
 * Return: 0, -ENODEV when the device has no MSI domain, -ENOMEM.
 */
int imstest_ims_init(struct imstest_function *function)
{
	struct pci_dev *pdev = function->pdev;
	struct irq_domain *parent = dev_get_msi_domain(&pdev->dev);
	char name[48];

	/* Before the per-device MSI domains of v6.2: the shared domain, not the parent of all. */
	if (parent && parent->bus_token == DOMAIN_BUS_PCI_MSI)
		parent = parent->parent;
	if (!parent)
		return -ENODEV;

	function->msi_parent = parent;
	function->remapping = parent != x86_vector_domain;
	function->desc.dev = &pdev->dev;
	if (!function->remapping)
		return 0;

	snprintf(name, sizeof(name), "IR-IMS-%s", pci_name(pdev));
	function->ims_fwnode = irq_domain_alloc_named_fwnode(name);
	if (!function->ims_fwnode)
		return -ENOMEM;

	function->ims_domain = irq_domain_create_hierarchy(parent, 0, function->ims_entries,
							   function->ims_fwnode, &ims_domain_ops,
							   function);
	return function->ims_domain ? 0 : -ENOMEM;
}

/**
 * imstest_ims_exit() - undo imstest_ims_init(), however far it came
 * @function:	the function, without IMS interrupts
 */
void imstest_ims_exit(struct imstest_function *function)
{
	if (function->ims_domain)
		irq_domain_remove(function->ims_domain);
	function->ims_domain = NULL;
	if (function->ims_fwnode)
		irq_domain_free_fwnode(function->ims_fwnode);
	function->ims_fwnode = NULL;
}

/**
 * imstest_ims_free() - free one IMS entry
 * @interrupt:	the entry, without a handler
 *
 * Return: 0.
 */
int imstest_ims_free(struct imstest_interrupt *interrupt)
{
	struct imstest_function *function = interrupt->function;
	unsigned int virq = interrupt->virq;

	clear_bit(interrupt->index, function->ims_used);
	imstest_interrupt_delete(interrupt);
	/* irq_domain_free_irqs() is not exported everywhere; this ends in it. */
	irq_dispose_mapping(virq);
	return 0;
}

/**
 * imstest_ims_free_all() - free every IMS entry
 * @function:	the function; no entry has a handler
 * @store:	IMSTEST_STORE_IMS
 */
void imstest_ims_free_all(struct imstest_function *function, u32 store)
{
	struct imstest_interrupt *interrupt;
	unsigned long index;

	xa_for_each(&function->interrupts[store], index, interrupt)
		imstest_ims_free(interrupt);
}

static int ims_alloc_entry(struct imstest_function *function, u32 index)
{
	struct irq_alloc_info info = {
		.type	= X86_IRQ_ALLOC_TYPE_PCI_MSIX,
		.desc	= &function->desc,
		.hwirq	= index,
	};
	int virq, ret;

	virq = irq_domain_alloc_irqs(function->ims_domain, 1, dev_to_node(&function->pdev->dev),
				     &info);
	if (virq < 0)
		return virq;

	ret = imstest_interrupt_add(function, IMSTEST_STORE_IMS, index, virq);
	if (ret) {
		irq_dispose_mapping(virq);
		return ret;
	}
	set_bit(index, function->ims_used);
	return 0;
}

/**
 * imstest_ims_alloc() - allocate a run of IMS entries, all or none
 * @function:	the function
 * @range:	index (or IMSTEST_ANY) and count; index and done are written
 *
 * Return: 0, -EOPNOTSUPP without remapping, -EINVAL for entries that the
 * device does not have, -EBUSY when one is in use, -ENOSPC when no run of free
 * entries is long enough, or what the IRQ domains answer.
 */
int imstest_ims_alloc(struct imstest_function *function, struct imstest_range *range)
{
	u32 entries = function->ims_entries;
	int ret;

	if (!function->ims_domain)
		return -EOPNOTSUPP;
	if (!range->count || range->count > entries)
		return -EINVAL;

	if (range->index == IMSTEST_ANY) {
		range->index = bitmap_find_next_zero_area(function->ims_used, entries, 0,
							  range->count, 0);
		if (range->index >= entries)
			return -ENOSPC;
	}
	if (range->index > entries - range->count)
		return -EINVAL;
	if (find_next_bit(function->ims_used, range->index + range->count, range->index) <
	    range->index + range->count)
		return -EBUSY;

	for (; range->done < range->count; range->done++) {
		ret = ims_alloc_entry(function, range->index + range->done);
		if (ret)
			goto err_free_entries;
	}
	return 0;

err_free_entries:
	while (range->done)
		imstest_ims_free(imstest_interrupt_find(function, IMSTEST_STORE_IMS,
							range->index + --range->done));
	return ret;
}

/**
 * imstest_ims_stored() - read an IMS entry back from the device
 * @function:	the function
 * @stored:	index; the rest is written
 *
 * Return: 0, -EINVAL for an entry that the device does not have.
 */
int imstest_ims_stored(struct imstest_function *function, struct imstest_stored *stored)
{
	if (stored->index >= function->ims_entries)
		return -EINVAL;

	stored->address = (u64)ims_read(function, stored->index, IMSTEST_IMS_ADDRESS_HI) << 32 |
			  ims_read(function, stored->index, IMSTEST_IMS_ADDRESS_LO);
	stored->data = ims_read(function, stored->index, IMSTEST_IMS_DATA);
	stored->masked = !!(ims_read(function, stored->index, IMSTEST_IMS_CONTROL) &
			    IMSTEST_IMS_CONTROL_MASK);
	return 0;
}
