// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * MSI and MSI-X, allocated as any driver does, and the messages read back from
 * config space and from the table.
 */

#include <linux/bitfield.h>
#include <linux/msi.h>
#include <linux/pci.h>

#include "imstest.h"

static void pci_delete_all(struct imstest_function *function, u32 store)
{
	struct imstest_interrupt *interrupt;
	unsigned long index;

	xa_for_each(&function->interrupts[store], index, interrupt)
		imstest_interrupt_delete(interrupt);
}

/**
 * imstest_pci_free_all() - free all MSI messages or all MSI-X vectors, and disable the capability
 * @function:	the function; none of them has a handler
 * @store:	IMSTEST_STORE_MSI or IMSTEST_STORE_MSIX
 */
void imstest_pci_free_all(struct imstest_function *function, u32 store)
{
	pci_delete_all(function, store);
	pci_free_irq_vectors(function->pdev);
}

/* Allocate from index 0 on, with the capability still disabled. */
static int pci_alloc_first(struct imstest_function *function, u32 store, unsigned int flags,
			   struct imstest_range *range)
{
	struct pci_dev *pdev = function->pdev;
	int granted, ret;

	/* The core would warn of a driver's bug: asking again is the user's doing here. */
	if (pdev->msi_enabled || pdev->msix_enabled)
		return -EBUSY;
	if (range->index == IMSTEST_ANY)
		range->index = 0;
	if (range->index || !range->count || range->argument > range->count)
		return -EINVAL;

	granted = pci_alloc_irq_vectors(pdev, range->argument ?: range->count, range->count, flags);
	if (granted < 0)
		return granted;

	for (; range->done < granted; range->done++) {
		ret = imstest_interrupt_add(function, store, range->done,
					    pci_irq_vector(pdev, range->done));
		if (ret)
			goto err_free_vectors;
	}
	return 0;

err_free_vectors:
	imstest_pci_free_all(function, store);
	range->done = 0;
	return ret;
}

/**
 * imstest_msi_alloc() - allocate MSI messages
 * @function:	the function
 * @range:	index 0, count, least count; done is written with what was granted
 *
 * Return: 0, -EBUSY when MSI or MSI-X is enabled, -EINVAL for another index,
 * or what pci_alloc_irq_vectors() answers.
 */
int imstest_msi_alloc(struct imstest_function *function, struct imstest_range *range)
{
	return pci_alloc_first(function, IMSTEST_STORE_MSI, PCI_IRQ_MSI, range);
}

/**
 * imstest_msi_free() - free one MSI message
 * @interrupt:	the message
 *
 * Return: -EOPNOTSUPP: the messages of the capability come and go together.
 */
int imstest_msi_free(struct imstest_interrupt *interrupt)
{
	return -EOPNOTSUPP;
}

#if HAVE_DYNAMIC_MSIX

static int msix_add(struct imstest_function *function, u32 *index)
{
	struct pci_dev *pdev = function->pdev;
	struct msi_map map;
	int ret;

	if (!pci_msix_can_alloc_dyn(pdev))
		return -EOPNOTSUPP;

	map = pci_msix_alloc_irq_at(pdev, *index == IMSTEST_ANY ? MSI_ANY_INDEX : *index, NULL);
	if (map.index < 0)
		return map.index;

	ret = imstest_interrupt_add(function, IMSTEST_STORE_MSIX, map.index, map.virq);
	if (ret) {
		pci_msix_free_irq(pdev, map);
		return ret;
	}
	*index = map.index;
	return 0;
}

static int msix_remove(struct imstest_interrupt *interrupt)
{
	struct pci_dev *pdev = interrupt->function->pdev;
	struct msi_map map = {
		.index	= interrupt->index,
		.virq	= interrupt->virq,
	};

	if (!pci_msix_can_alloc_dyn(pdev))
		return -EOPNOTSUPP;

	imstest_interrupt_delete(interrupt);
	pci_msix_free_irq(pdev, map);
	return 0;
}

#else

static int msix_add(struct imstest_function *function, u32 *index)
{
	return -EOPNOTSUPP;
}

static int msix_remove(struct imstest_interrupt *interrupt)
{
	return -EOPNOTSUPP;
}

#endif

/**
 * imstest_msix_alloc() - allocate MSI-X vectors, or add to those that are live
 * @function:	the function
 * @range:	index, count, least count; index and done are written
 *
 * The first call enables MSI-X with vectors from index 0 on. Later ones add
 * vectors one by one, with IMSTEST_ANY one only.
 *
 * Return: 0, -EBUSY when MSI is enabled or an index is in use, -EINVAL for an
 * index that cannot be, -EOPNOTSUPP where vectors cannot be added to live
 * ones, or what the PCI core answers.
 */
int imstest_msix_alloc(struct imstest_function *function, struct imstest_range *range)
{
	int ret;

	if (!function->pdev->msix_enabled)
		return pci_alloc_first(function, IMSTEST_STORE_MSIX, PCI_IRQ_MSIX, range);

	if (!range->count || range->argument > range->count)
		return -EINVAL;
	if (range->index == IMSTEST_ANY) {
		if (range->count != 1)
			return -EINVAL;
		ret = msix_add(function, &range->index);
		range->done = !ret;
		return ret;
	}

	for (; range->done < range->count; range->done++) {
		u32 index = range->index + range->done;

		ret = msix_add(function, &index);
		if (ret)
			return ret;
	}
	return 0;
}

/**
 * imstest_msix_free() - free one of several MSI-X vectors
 * @interrupt:	the vector, without a handler
 *
 * Return: 0, -EOPNOTSUPP where the kernel or the platform only frees all at once.
 */
int imstest_msix_free(struct imstest_interrupt *interrupt)
{
	return msix_remove(interrupt);
}

/**
 * imstest_msi_stored() - read an MSI message back from config space
 * @function:	the function
 * @stored:	index; the rest is written
 *
 * Return: 0, -EINVAL when the function has no such message, or the errno of a
 * failed config access.
 */
int imstest_msi_stored(struct imstest_function *function, struct imstest_stored *stored)
{
	struct pci_dev *pdev = function->pdev;
	u32 address_lo, address_hi = 0, mask, pending;
	int pos = pdev->msi_cap;
	u16 flags, data, low;
	bool wide;
	int ret;

	if (stored->index >= max(pci_msi_vec_count(pdev), 0))
		return -EINVAL;

	ret = pci_read_config_word(pdev, pos + PCI_MSI_FLAGS, &flags);
	if (ret)
		return pcibios_err_to_errno(ret);
	wide = flags & PCI_MSI_FLAGS_64BIT;

	ret = pci_read_config_dword(pdev, pos + PCI_MSI_ADDRESS_LO, &address_lo);
	if (!ret && wide)
		ret = pci_read_config_dword(pdev, pos + PCI_MSI_ADDRESS_HI, &address_hi);
	if (!ret)
		ret = pci_read_config_word(pdev, pos + (wide ? PCI_MSI_DATA_64 : PCI_MSI_DATA_32),
					   &data);
	if (!ret && (flags & PCI_MSI_FLAGS_MASKBIT)) {
		ret = pci_read_config_dword(pdev, pos + (wide ? PCI_MSI_MASK_64 : PCI_MSI_MASK_32),
					    &mask);
		if (!ret)
			ret = pci_read_config_dword(pdev, pos + (wide ? PCI_MSI_PENDING_64 :
								 PCI_MSI_PENDING_32), &pending);
		stored->masked = !ret && (mask & BIT(stored->index));
		stored->pending = !ret && (pending & BIT(stored->index));
	}
	if (ret)
		return pcibios_err_to_errno(ret);

	stored->address = (u64)address_hi << 32 | address_lo;
	/* Message N is the base message with N in as many low bits as the count takes. */
	low = BIT(FIELD_GET(PCI_MSI_FLAGS_QSIZE, flags)) - 1;
	stored->data = (data & ~low) | (stored->index & low);
	return 0;
}

/**
 * imstest_msix_stored() - read an entry of the MSI-X table back
 * @function:	the function
 * @stored:	index; the rest is written
 *
 * Return: 0, -EINVAL when the table has no such entry.
 */
int imstest_msix_stored(struct imstest_function *function, struct imstest_stored *stored)
{
	void __iomem *entry, *pending;

	if (!function->msix_table || stored->index >= max(pci_msix_vec_count(function->pdev), 0))
		return -EINVAL;

	entry = function->msix_table + stored->index * PCI_MSIX_ENTRY_SIZE;
	stored->address = (u64)ioread32(entry + PCI_MSIX_ENTRY_UPPER_ADDR) << 32 |
			  ioread32(entry + PCI_MSIX_ENTRY_LOWER_ADDR);
	stored->data = ioread32(entry + PCI_MSIX_ENTRY_DATA);
	stored->masked = !!(ioread32(entry + PCI_MSIX_ENTRY_VECTOR_CTRL) &
			    PCI_MSIX_ENTRY_CTRL_MASKBIT);

	pending = function->msix_table + IMSTEST_MSIX_PBA_OFFSET + stored->index / 32 * sizeof(u32);
	stored->pending = !!(ioread32(pending) & BIT(stored->index % 32));
	return 0;
}
