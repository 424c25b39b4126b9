// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The IRQ domain of IMS where the kernel makes none: x86 refuses per-device MSI
 * domains that it does not know, so this is a plain hierarchical one.
 */

#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/pci.h>
#include <asm/hw_irq.h>

#include "imstest.h"

#if !HAVE_PCI_IMS

static void own_mask(struct irq_data *irqd)
{
	imstest_ims_mask(irq_data_get_irq_chip_data(irqd), irqd_to_hwirq(irqd));
}

static void own_unmask(struct irq_data *irqd)
{
	imstest_ims_unmask(irq_data_get_irq_chip_data(irqd), irqd_to_hwirq(irqd));
}

static void own_write_msi_msg(struct irq_data *irqd, struct msi_msg *msg)
{
	imstest_ims_store(irq_data_get_irq_chip_data(irqd), irqd_to_hwirq(irqd), msg);
}

static struct irq_chip own_chip = {
	.name			= "IR-IMS",
	.irq_ack		= irq_chip_ack_parent,
	.irq_mask		= own_mask,
	.irq_unmask		= own_unmask,
	.irq_retrigger		= irq_chip_retrigger_hierarchy,
	.irq_set_affinity	= irq_chip_set_affinity_parent,
	.irq_write_msi_msg	= own_write_msi_msg,
	.flags			= IRQCHIP_SKIP_SET_WAKE | IRQCHIP_AFFINITY_PRE_STARTUP,
};

static int own_domain_alloc(struct irq_domain *domain, unsigned int virq, unsigned int nr_irqs,
			    void *arg)
{
	struct irq_alloc_info *info = arg;
	unsigned int i;
	int ret;

	ret = irq_domain_alloc_irqs_parent(domain, virq, nr_irqs, info);
	if (ret < 0)
		return ret;

	for (i = 0; i < nr_irqs; i++)
		irq_domain_set_info(domain, virq + i, info->hwirq + i, &own_chip,
				    domain->host_data, handle_edge_irq, NULL, "edge");
	return 0;
}

/* The remapping level is active by now: its entry is live before a message names it. */
static int own_domain_activate(struct irq_domain *domain, struct irq_data *irqd, bool reserve)
{
	struct msi_msg msg;
	int ret;

	ret = imstest_compose(irqd->parent_data, &msg);
	if (ret)
		return ret;
	own_write_msi_msg(irqd, &msg);
	return 0;
}

static void own_domain_deactivate(struct irq_domain *domain, struct irq_data *irqd)
{
	struct msi_msg null = {};

	own_write_msi_msg(irqd, &null);
}

static const struct irq_domain_ops own_domain_ops = {
	.alloc		= own_domain_alloc,
	.free		= irq_domain_free_irqs_common,
	.activate	= own_domain_activate,
	.deactivate	= own_domain_deactivate,
};

/**
 * imstest_ims_domain_init() - make the IMS domain
 * @function:	the function, with a remapping domain for its MSI parent
 *
 * Return: 0, -ENOMEM.
 */
int imstest_ims_domain_init(struct imstest_function *function)
{
	char name[48];

	snprintf(name, sizeof(name), "IR-IMS-%s", pci_name(function->pdev));
	function->ims_fwnode = irq_domain_alloc_named_fwnode(name);
	if (!function->ims_fwnode)
		return -ENOMEM;

	function->ims_domain = irq_domain_create_hierarchy(function->msi_parent, 0,
							   function->ims_entries,
							   function->ims_fwnode, &own_domain_ops,
							   function);
	return function->ims_domain ? 0 : -ENOMEM;
}

/**
 * imstest_ims_domain_exit() - undo imstest_ims_domain_init(), however far it came
 * @function:	the function, without IMS interrupts
 */
void imstest_ims_domain_exit(struct imstest_function *function)
{
	if (function->ims_domain)
		irq_domain_remove(function->ims_domain);
	function->ims_domain = NULL;
	if (function->ims_fwnode)
		irq_domain_free_fwnode(function->ims_fwnode);
	function->ims_fwnode = NULL;
}

/**
 * imstest_ims_domain_alloc() - allocate the Linux interrupts of free entries
 * @function:	the function
 * @index:	the first entry
 * @count:	of entries; on a remapping domain 1
 *
 * Return: the first number, or what the IRQ domains answer.
 */
int imstest_ims_domain_alloc(struct imstest_function *function, u32 index, u32 count)
{
	struct irq_alloc_info info = {
		.type	= X86_IRQ_ALLOC_TYPE_PCI_MSIX,
		.desc	= &function->desc,
		.hwirq	= index,
		.data	= imstest_ims_source,
	};

	return irq_domain_alloc_irqs(function->ims_domain, count,
				     dev_to_node(&function->pdev->dev), &info);
}

/**
 * imstest_ims_domain_free() - free the Linux interrupt of an entry
 * @function:	the function
 * @index:	the entry
 * @virq:	its Linux interrupt number
 */
void imstest_ims_domain_free(struct imstest_function *function, u32 index, unsigned int virq)
{
	/* irq_domain_free_irqs() is not exported everywhere; this ends in it. */
	irq_dispose_mapping(virq);
}

#endif /* !HAVE_PCI_IMS */
