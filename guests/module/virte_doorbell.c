// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A message of the new scheme is a write to a doorbell page, and so a DMA as any
 * other. Where the guest translates a device's DMA, the page is mapped for it at
 * its own address: the pair goes into the store as the hypervisor gave it.
 *
 * No DMA address is ever that of a page: the DMA layer leaves out what the host
 * bridge decodes (drivers/iommu/dma-iommu.c, iova_reserve_pci_windows()).
 */

#include <linux/iommu.h>
#include <linux/pci.h>

#include "imstest.h"
#include "virte.h"

/* The domain that translates a device's DMA, NULL when its addresses are the memory's. */
static struct iommu_domain *translation(struct pci_dev *pdev)
{
	struct iommu_domain *domain = iommu_get_domain_for_dev(&pdev->dev);

	return domain && domain->type & __IOMMU_DOMAIN_PAGING ? domain : NULL;
}

/**
 * virte_doorbell_wanted() - whether a device's messages need a mapping
 * @pdev:	the device
 *
 * Return: whether they do.
 */
bool virte_doorbell_wanted(struct pci_dev *pdev)
{
	return translation(pdev);
}

/**
 * virte_doorbell_map() - map the page that a message is written to; may sleep
 * @virte:	the function
 * @pdev:	the device that sends the message
 * @address:	the message's; one elsewhere than in the doorbell pages needs no mapping
 *
 * Return: 0, -EBUSY when the device's user has something else there, or what
 * iommu_map() answers.
 */
int virte_doorbell_map(struct virte *virte, struct pci_dev *pdev, u64 address)
{
	struct resource *pages = &virte->pdev->resource[VIRTE_BAR_DOORBELLS];
	struct iommu_domain *domain = translation(pdev);
	phys_addr_t page = address & PAGE_MASK, there;
	int prot = IOMMU_WRITE | IOMMU_NOEXEC | IOMMU_MMIO;

	if (!domain || page < pages->start || page > pages->end)
		return 0;
	there = iommu_iova_to_phys(domain, page);
	if (there)
		return there == page ? 0 : -EBUSY;
#if HAVE_MAP_GFP
	return iommu_map(domain, page, page, PAGE_SIZE, prot, GFP_KERNEL);
#else
	return iommu_map(domain, page, page, PAGE_SIZE, prot);
#endif
}

/**
 * virte_doorbell_unmap() - undo every virte_doorbell_map() for a device
 * @virte:	the function
 * @pdev:	the device, without interrupts
 */
void virte_doorbell_unmap(struct virte *virte, struct pci_dev *pdev)
{
	struct resource *pages = &virte->pdev->resource[VIRTE_BAR_DOORBELLS];
	struct iommu_domain *domain = translation(pdev);
	resource_size_t page;

	if (!domain)
		return;
	for (page = pages->start; page < pages->end; page += PAGE_SIZE)
		if (iommu_iova_to_phys(domain, page) == page)
			iommu_unmap(domain, page, PAGE_SIZE);
}
