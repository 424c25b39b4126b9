// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The IRQ domain of IMS where the kernel's PCI core makes one for the device:
 * then that code is what is tested.
 */

#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/msi.h>
#include <linux/pci.h>

#include "imstest.h"

#if HAVE_PCI_IMS

static struct imstest_function *device_function(struct irq_data *irqd)
{
	struct msi_domain_info *info = irqd->domain->host_data;

	return info->data;
}

static void device_mask(struct irq_data *irqd)
{
	imstest_ims_mask(device_function(irqd), irqd_to_hwirq(irqd));
}

static void device_unmask(struct irq_data *irqd)
{
	imstest_ims_unmask(device_function(irqd), irqd_to_hwirq(irqd));
}

static void device_write_msi_msg(struct irq_data *irqd, struct msi_msg *msg)
{
	imstest_ims_store(device_function(irqd), irqd_to_hwirq(irqd), msg);
}

static void device_set_desc(msi_alloc_info_t *info, struct msi_desc *desc)
{
	info->desc = desc;
	info->hwirq = desc->msi_index;
	info->data = imstest_ims_source;
}

static const struct msi_domain_template device_template = {
	.chip = {
		.name			= "IMS",
		.irq_mask		= device_mask,
		.irq_unmask		= device_unmask,
		.irq_write_msi_msg	= device_write_msi_msg,
	},
	.ops = {
		.set_desc		= device_set_desc,
	},
	.info = {
		.flags			= MSI_FLAG_ALLOC_SIMPLE_MSI_DESCS |
					  MSI_FLAG_FREE_MSI_DESCS | MSI_FLAG_PCI_IMS,
		.bus_token		= DOMAIN_BUS_PCI_DEVICE_IMS,
	},
};

/**
 * imstest_ims_domain_init() - have the IMS domain made
 * @function:	the function, with a remapping domain for its MSI parent
 *
 * Return: 0, -EOPNOTSUPP when the kernel refuses.
 */
int imstest_ims_domain_init(struct imstest_function *function)
{
	return pci_create_ims_domain(function->pdev, &device_template, function->ims_entries,
				     function) ? 0 : -EOPNOTSUPP;
}

/**
 * imstest_ims_domain_exit() - nothing to undo: the domain goes when the driver is unbound
 * @function:	the function, without IMS interrupts
 */
void imstest_ims_domain_exit(struct imstest_function *function)
{
}

/**
 * imstest_ims_domain_alloc() - allocate the Linux interrupt of a free entry
 * @function:	the function
 * @index:	the entry
 * @count:	1
 *
 * The PCI core gives out the first free entry. Any other is asked of the MSI
 * core, whose domain it is.
 *
 * Return: its number, or what the kernel answers.
 */
int imstest_ims_domain_alloc(struct imstest_function *function, u32 index, u32 count)
{
	struct device *dev = &function->pdev->dev;
	union msi_instance_cookie cookie = {};
	struct msi_map map;
	int ret;

	if (index != find_first_zero_bit(function->ims_used, function->ims_entries)) {
		ret = msi_domain_alloc_irqs_range(dev, MSI_SECONDARY_DOMAIN, index, index);
		return ret ?: msi_domain_get_virq(dev, MSI_SECONDARY_DOMAIN, index);
	}

	map = pci_ims_alloc_irq(function->pdev, &cookie, NULL);
	if (map.index < 0)
		return map.index;
	if (map.index != index) {
		pci_err(function->pdev, "IMS entry %d instead of the first free, %u\n", map.index,
			index);
		pci_ims_free_irq(function->pdev, map);
		return -EIO;
	}
	return map.virq;
}

/**
 * imstest_ims_domain_free() - free the Linux interrupt of an entry
 * @function:	the function
 * @index:	the entry
 * @virq:	its Linux interrupt number
 */
void imstest_ims_domain_free(struct imstest_function *function, u32 index, unsigned int virq)
{
	struct msi_map map = {
		.index	= index,
		.virq	= virq,
	};

	pci_ims_free_irq(function->pdev, map);
}

#endif /* HAVE_PCI_IMS */
