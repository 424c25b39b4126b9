// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Gives a PCI device, which has no driver meanwhile, an MSI parent that stands on
 * the vector domain and remaps nothing: as those host bridges have it that hide
 * in another function. Unloading gives the real one back.
 */

#include <linux/irqdomain.h>
#include <linux/module.h>
#include <linux/msi.h>
#include <linux/pci.h>
#include <asm/irqdomain.h>

static char *slot;
module_param(slot, charp, 0);
MODULE_PARM_DESC(slot, "PCI name of the device");

static struct device *device;
static struct fwnode_handle *fwnode;
static struct irq_domain *foreign, *real;
/* The PCI core looks for the flags of an MSI domain here. */
static struct msi_domain_info info;

static const struct irq_domain_ops foreign_ops = {
	.alloc	= irq_domain_alloc_irqs_parent,
	.free	= irq_domain_free_irqs_common,
};

static void foreign_exit(void)
{
	if (real)
		dev_set_msi_domain(device, real);
	if (foreign)
		irq_domain_remove(foreign);
	if (fwnode)
		irq_domain_free_fwnode(fwnode);
	put_device(device);
}

static int __init foreign_init(void)
{
	device = slot ? bus_find_device_by_name(&pci_bus_type, NULL, slot) : NULL;
	if (!device)
		return -ENODEV;

	fwnode = irq_domain_alloc_named_fwnode("FOREIGN");
	if (fwnode)
		foreign = irq_domain_create_hierarchy(x86_vector_domain, 0, 16, fwnode,
						      &foreign_ops, &info);
	if (!foreign) {
		foreign_exit();
		return -ENOMEM;
	}

	real = dev_get_msi_domain(device);
	dev_set_msi_domain(device, foreign);
	return 0;
}

module_init(foreign_init);
module_exit(foreign_exit);

MODULE_DESCRIPTION("A foreign MSI parent");
MODULE_LICENSE("GPL");
