// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Driver of the IMS test function.
 *
 * The function is a device model outside the guest. It raises MSI, MSI-X and IMS
 * interrupts and waits for an answer to each, so that a lost, doubled or
 * misdirected one is named from outside. This driver does what it is told through
 * /dev/imstest and reports: allocation, handlers, masks, affinity, all with the
 * kernel's own errno. It holds no policy. docs/device.md is the contract with the
 * device, docs/guest-module.md the one with user space.
 */

#include <linux/bitfield.h>
#include <linux/dma-mapping.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/slab.h>

#include "imstest.h"
#include "virte.h"

static int imstest_map(struct imstest_function *function)
{
	struct pci_dev *pdev = function->pdev;

	function->control = pci_iomap(pdev, IMSTEST_BAR_CONTROL, IMSTEST_BAR_CONTROL_SIZE);
	function->ims = pci_iomap(pdev, IMSTEST_BAR_IMS, IMSTEST_BAR_IMS_SIZE);
	if (!function->control || !function->ims)
		return -ENOMEM;

	/* A function may come without MSI-X. */
	if (pdev->msix_cap)
		function->msix_table = pci_iomap(pdev, IMSTEST_BAR_MSIX, IMSTEST_BAR_MSIX_SIZE);
	return 0;
}

static void imstest_unmap(struct imstest_function *function)
{
	if (function->msix_table)
		pci_iounmap(function->pdev, function->msix_table);
	if (function->ims)
		pci_iounmap(function->pdev, function->ims);
	if (function->control)
		pci_iounmap(function->pdev, function->control);
}

static int imstest_identify(struct imstest_function *function)
{
	u32 id = imstest_read(function, IMSTEST_ID);
	u32 version = imstest_read(function, IMSTEST_VERSION);

	/* The minor number in the low half grows compatibly. */
	if (id != IMSTEST_ID_VALUE || version >> 16 != IMSTEST_VERSION_VALUE >> 16) {
		pci_err(function->pdev, "id %#x, version %#x: not a register map known here\n",
			id, version);
		return -ENODEV;
	}

	function->ims_entries = min_t(u32, IMSTEST_IMS_ENTRIES,
				      FIELD_GET(IMSTEST_IMS_CAPABILITY_ENTRIES,
						imstest_read(function, IMSTEST_IMS_CAPABILITY)));
	return 0;
}

static int imstest_probe(struct pci_dev *pdev, const struct pci_device_id *id)
{
	struct imstest_function *function;
	u32 store;
	int ret;

	function = kvzalloc(sizeof(*function), GFP_KERNEL);
	if (!function)
		return -ENOMEM;
	function->pdev = pdev;
	INIT_LIST_HEAD(&function->placeholders);
	for (store = 0; store < IMSTEST_STORES; store++)
		xa_init(&function->interrupts[store]);

	ret = pci_enable_device(pdev);
	if (ret)
		goto err_free_function;
	ret = pci_request_regions(pdev, "imstest");
	if (ret)
		goto err_disable_device;
	ret = imstest_map(function);
	if (ret)
		goto err_unmap;
	ret = imstest_identify(function);
	if (ret)
		goto err_unmap;
	ret = dma_set_mask_and_coherent(&pdev->dev, DMA_BIT_MASK(64));
	if (ret)
		goto err_unmap;
	pci_set_master(pdev);

	ret = imstest_control_add(function);
	if (ret)
		goto err_unmap;

	pci_set_drvdata(pdev, function);
	return 0;

err_unmap:
	imstest_unmap(function);
	pci_release_regions(pdev);
err_disable_device:
	pci_disable_device(pdev);
err_free_function:
	kvfree(function);
	return ret;
}

/* The next kernel, or the firmware, finds a device that writes nowhere and raises nothing. */
static void imstest_shutdown(struct pci_dev *pdev)
{
	imstest_control_remove(pci_get_drvdata(pdev));
}

static void imstest_remove(struct pci_dev *pdev)
{
	struct imstest_function *function = pci_get_drvdata(pdev);

	imstest_control_remove(function);
	imstest_unmap(function);
	pci_release_regions(pdev);
	pci_disable_device(pdev);
	kvfree(function);
}

static const struct pci_device_id imstest_ids[] = {
	{ PCI_DEVICE(IMSTEST_VENDOR_ID, IMSTEST_DEVICE_ID) },
	{ }
};
MODULE_DEVICE_TABLE(pci, imstest_ids);

static struct pci_driver imstest_driver = {
	.name		= "imstest",
	.id_table	= imstest_ids,
	.probe		= imstest_probe,
	.remove		= imstest_remove,
	.shutdown	= imstest_shutdown,
};

static int __init imstest_init(void)
{
	int ret;

	ret = imstest_control_init();
	if (ret)
		return ret;
	ret = virte_init();
	if (ret)
		goto err_control_exit;
	ret = pci_register_driver(&imstest_driver);
	if (ret)
		goto err_virte_exit;
	return 0;

err_virte_exit:
	virte_exit();
err_control_exit:
	imstest_control_exit();
	return ret;
}

static void __exit imstest_exit(void)
{
	pci_unregister_driver(&imstest_driver);
	virte_exit();
	imstest_control_exit();
}

module_init(imstest_init);
module_exit(imstest_exit);

MODULE_DESCRIPTION("Test driver for MSI, MSI-X and IMS interrupts");
MODULE_LICENSE("GPL");
