// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What devices have for their MSI domain: the vIRTE domain itself where each
 * device has MSI domains of its own on a parent, else a PCI/MSI domain on it
 * that all of them share, as the kernel has one on the remapping domain.
 */

#include <linux/irqdomain.h>
#include <linux/msi.h>
#include <asm/irqdomain.h>
#include <asm/msi.h>

#include "imstest.h"
#include "virte.h"

#if HAVE_MSI_PARENT

/* The vector domain knows what x86 asks of any MSI domain. */
static bool virte_init_dev_msi_info(struct device *dev, struct irq_domain *domain,
				    struct irq_domain *real_parent, struct msi_domain_info *info)
{
	struct irq_domain *parent = domain->parent;

	return parent->msi_parent_ops->init_dev_msi_info(dev, parent, real_parent, info);
}

#if HAVE_PCI_IMS
#define VIRTE_FLAG_IMS		MSI_FLAG_PCI_IMS
#else
#define VIRTE_FLAG_IMS		0
#endif

static const struct msi_parent_ops virte_msi_parent_ops = {
	.supported_flags	= X86_VECTOR_MSI_FLAGS_SUPPORTED | MSI_FLAG_MULTI_PCI_MSI |
				  VIRTE_FLAG_IMS,
	.prefix			= "vIRTE-",
	.init_dev_msi_info	= virte_init_dev_msi_info,
};

/**
 * virte_msi_init() - make the vIRTE domain an MSI parent
 * @virte:	the function, with its domain
 *
 * Return: 0.
 */
int virte_msi_init(struct virte *virte)
{
	/* What x86 takes for a domain that remaps, which this one does. */
	irq_domain_update_bus_token(virte->domain, DOMAIN_BUS_DMAR);
	virte->domain->flags |= IRQ_DOMAIN_FLAG_MSI_PARENT;
	virte->domain->msi_parent_ops = &virte_msi_parent_ops;
	virte->msi_domain = virte->domain;
	return 0;
}

/**
 * virte_msi_exit() - nothing to undo
 * @virte:	the function; no device uses the domain
 */
void virte_msi_exit(struct virte *virte)
{
}

#else

static struct irq_chip virte_msi_chip = {
	.name			= "vIRTE-PCI-MSI",
	.irq_mask		= pci_msi_mask_irq,
	.irq_unmask		= pci_msi_unmask_irq,
	.irq_ack		= irq_chip_ack_parent,
	.irq_retrigger		= irq_chip_retrigger_hierarchy,
	.flags			= IRQCHIP_SKIP_SET_WAKE | IRQCHIP_AFFINITY_PRE_STARTUP,
};

/* The vectors of a block need not be in a row: each message has a route of its own. */
static int virte_msi_prepare(struct irq_domain *domain, struct device *dev, int nvec,
			     msi_alloc_info_t *info)
{
	int ret;

	ret = pci_msi_prepare(domain, dev, nvec, info);
	info->flags &= ~X86_IRQ_ALLOC_CONTIGUOUS_VECTORS;
	return ret;
}

static struct msi_domain_ops virte_msi_ops = {
	.msi_prepare		= virte_msi_prepare,
};

static struct msi_domain_info virte_msi_info = {
	.flags			= MSI_FLAG_USE_DEF_DOM_OPS | MSI_FLAG_USE_DEF_CHIP_OPS |
				  MSI_FLAG_MULTI_PCI_MSI | MSI_FLAG_PCI_MSIX,
	.ops			= &virte_msi_ops,
	.chip			= &virte_msi_chip,
	.handler		= handle_edge_irq,
	.handler_name		= "edge",
};

/**
 * virte_msi_init() - make the PCI/MSI domain
 * @virte:	the function, with its domain
 *
 * Return: 0, -ENOMEM.
 */
int virte_msi_init(struct virte *virte)
{
	virte->msi_fwnode = irq_domain_alloc_named_fwnode("VIRTE-MSI");
	if (!virte->msi_fwnode)
		return -ENOMEM;
	virte->msi_domain = pci_msi_create_irq_domain(virte->msi_fwnode, &virte_msi_info,
						      virte->domain);
	return virte->msi_domain ? 0 : -ENOMEM;
}

/**
 * virte_msi_exit() - undo virte_msi_init(), however far it came
 * @virte:	the function; no device uses the domain
 */
void virte_msi_exit(struct virte *virte)
{
	if (virte->msi_domain)
		irq_domain_remove(virte->msi_domain);
	virte->msi_domain = NULL;
	if (virte->msi_fwnode)
		irq_domain_free_fwnode(virte->msi_fwnode);
	virte->msi_fwnode = NULL;
}

#endif /* HAVE_MSI_PARENT */
