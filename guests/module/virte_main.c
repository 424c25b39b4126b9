// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Driver of the function that carries the vIRTE call. docs/virte.md is the
 * contract.
 *
 * Once the hypervisor has granted the new scheme it is every device's: the MSI
 * domain of a PCI device is switched as a driver is about to be bound to it. The
 * driver knows nothing of that. Devices that are bound already keep the old
 * scheme until they are bound anew.
 *
 * Such a device depends on the function, and so do their drivers: a kernel that
 * ends (reboot, kexec) shuts them down first.
 */

#include <linux/device.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>

#include "imstest.h"
#include "virte.h"

#define FEATURES_NEEDED	(VIRTE_FEATURE_MSI | VIRTE_FEATURE_MSIX | VIRTE_FEATURE_IMS)
#define FEATURES_WANTED	(VIRTE_FEATURE_PASID | VIRTE_FEATURE_QUENCH)

/**
 * struct virte_adopted - one device of the new scheme
 * @node:	in virte.adopted
 * @pdev:	the device, held
 * @parent:	its MSI domain in the old scheme
 */
struct virte_adopted {
	struct list_head node;
	struct pci_dev *pdev;
	struct irq_domain *parent;
};

/* The function in force, of which there is one, and the devices that it has adopted. */
static DEFINE_MUTEX(virte_lock);
static struct virte *virte_in_force;

static void virte_adopt(struct virte *virte, struct pci_dev *pdev)
{
	struct irq_domain *parent = dev_get_msi_domain(&pdev->dev);
	struct virte_adopted *adopted;

	if (pdev == virte->pdev || !parent || parent == virte->msi_domain)
		return;
	adopted = kzalloc(sizeof(*adopted), GFP_KERNEL);
	if (!adopted) {
		pci_warn(pdev, "stays in the old scheme: no memory\n");
		return;
	}
	adopted->pdev = pci_dev_get(pdev);
	adopted->parent = parent;
	list_add(&adopted->node, &virte->adopted);
	/* Not for a bridge that the function is behind: it is shut down after the function. */
	device_link_add(&pdev->dev, &virte->pdev->dev, DL_FLAG_STATELESS);
	dev_set_msi_domain(&pdev->dev, virte->msi_domain);
}

static void virte_forget(struct virte *virte, struct virte_adopted *adopted)
{
	list_del(&adopted->node);
	virte_doorbell_unmap(virte, adopted->pdev);
	device_link_remove(&adopted->pdev->dev, &virte->pdev->dev);
	dev_set_msi_domain(&adopted->pdev->dev, adopted->parent);
	pci_dev_put(adopted->pdev);
	kfree(adopted);
}

static int virte_bus_event(struct notifier_block *block, unsigned long event, void *data)
{
	struct pci_dev *pdev = to_pci_dev(data);
	struct virte_adopted *adopted, *next;

	if (event != BUS_NOTIFY_BIND_DRIVER && event != BUS_NOTIFY_DEL_DEVICE)
		return NOTIFY_DONE;

	mutex_lock(&virte_lock);
	if (virte_in_force && event == BUS_NOTIFY_BIND_DRIVER)
		virte_adopt(virte_in_force, pdev);
	if (virte_in_force && event == BUS_NOTIFY_DEL_DEVICE)
		list_for_each_entry_safe(adopted, next, &virte_in_force->adopted, node)
			if (adopted->pdev == pdev)
				virte_forget(virte_in_force, adopted);
	mutex_unlock(&virte_lock);
	return NOTIFY_OK;
}

static struct notifier_block virte_bus_notifier = {
	.notifier_call	= virte_bus_event,
};

/* Back to the old scheme. The drivers of adopted devices are unbound: their messages die. */
static void virte_disown(struct virte *virte)
{
	struct virte_adopted *adopted, *next;

	mutex_lock(&virte_lock);
	virte_in_force = NULL;
	mutex_unlock(&virte_lock);

	list_for_each_entry_safe(adopted, next, &virte->adopted, node) {
		device_release_driver(&adopted->pdev->dev);
		virte_forget(virte, adopted);
	}
}

static int virte_switch(struct virte *virte)
{
	int ret;

	ret = virte_domain_init(virte);
	if (ret)
		return ret;
	ret = virte_msi_init(virte);
	if (ret)
		return ret;

	/* Who is bound meanwhile waits: the hypervisor has granted the call before we know of it. */
	mutex_lock(&virte_lock);
	ret = virte_in_force ? -EBUSY :
			       virte_call_negotiate(virte, FEATURES_NEEDED, FEATURES_WANTED);
	if (!ret)
		virte_in_force = virte;
	mutex_unlock(&virte_lock);
	if (ret)
		pci_info(virte->pdev, "the call is not in force: %d\n", ret);
	return ret;
}

static int virte_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct virte *virte;
	int ret;

	virte = devm_kzalloc(&pdev->dev, sizeof(*virte), GFP_KERNEL);
	if (!virte)
		return -ENOMEM;
	virte->pdev = pdev;
	INIT_LIST_HEAD(&virte->adopted);
	virte_call_init(virte);
	virte_storm_init(virte);

	ret = pcim_enable_device(pdev);
	if (ret)
		return ret;
	virte->registers = pcim_iomap(pdev, VIRTE_BAR_REGISTERS, 0);
	virte->frames = pcim_iomap(pdev, VIRTE_BAR_FRAMES, 0);
	if (!virte->registers || !virte->frames)
		return -ENOMEM;
	if (ioread32(virte->registers + VIRTE_ID) != VIRTE_ID_VALUE)
		return -ENODEV;
	/* The function injects the interrupts. */
	pci_set_master(pdev);
	pci_set_drvdata(pdev, virte);

	ret = virte_switch(virte);
	if (ret) {
		virte_storm_exit(virte);
		virte_msi_exit(virte);
		virte_domain_exit(virte);
		pci_clear_master(pdev);
	}
	return ret;
}

static void virte_remove(struct pci_dev *pdev)
{
	struct virte *virte = pci_get_drvdata(pdev);

	virte_disown(virte);
	virte_call_release(virte);
	virte_storm_exit(virte);
	virte_msi_exit(virte);
	virte_domain_exit(virte);
	pci_clear_master(pdev);
}

/* The next kernel may know nothing of the call. What devices still send is blocked from here on. */
static void virte_shutdown(struct pci_dev *pdev)
{
	struct virte *virte = pci_get_drvdata(pdev);

	mutex_lock(&virte_lock);
	if (virte_in_force == virte) {
		virte_in_force = NULL;
		virte_call_release(virte);
	}
	mutex_unlock(&virte_lock);
}

static const struct pci_device_id virte_ids[] = {
	{ PCI_DEVICE(VIRTE_VENDOR_ID, VIRTE_DEVICE_ID) },
	{ }
};

static struct pci_driver virte_driver = {
	.name		= "virte",
	.id_table	= virte_ids,
	.probe		= virte_probe,
	.remove		= virte_remove,
	.shutdown	= virte_shutdown,
};

/**
 * virte_granted() - whether the hypervisor has granted the call
 * @domain:	MSI parent of the device that it is asked for, NULL: of any
 *
 * Return: whether the new scheme is in force, and is that of @domain.
 */
bool virte_granted(const struct irq_domain *domain)
{
	bool granted;

	mutex_lock(&virte_lock);
	granted = virte_in_force && (!domain || domain == virte_in_force->domain);
	mutex_unlock(&virte_lock);
	return granted;
}

/**
 * virte_init() - register the driver and watch what is bound
 *
 * Return: 0, or what the driver core answers.
 */
int virte_init(void)
{
	int ret;

	ret = bus_register_notifier(&pci_bus_type, &virte_bus_notifier);
	if (ret)
		return ret;
	ret = pci_register_driver(&virte_driver);
	if (ret)
		bus_unregister_notifier(&pci_bus_type, &virte_bus_notifier);
	return ret;
}

/**
 * virte_exit() - undo virte_init()
 */
void virte_exit(void)
{
	pci_unregister_driver(&virte_driver);
	bus_unregister_notifier(&pci_bus_type, &virte_bus_notifier);
}
