// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What the running kernel's headers offer, found by compiling. Kbuild compiles
 * this file once for each part, with PROBE_<part> defined, and writes what came
 * of it to imstest_have.h as HAVE_<part>, 0 or 1. It is no part of the module.
 */

#include <linux/iommu.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/msi.h>
#include <linux/pci.h>

#include "imstest_regs.h"

#if defined(PROBE_KERNEL)

/* Always there: Kbuild ends with an error when this does not compile. */
static int __maybe_unused probe(struct pci_dev *pdev)
{
	return pci_msix_vec_count(pdev);
}

#elif defined(PROBE_NOTHING)

/* Never there: Kbuild ends with an error when this compiles. */
static int __maybe_unused probe(struct pci_dev *pdev)
{
	return imstest_no_such_function(pdev);
}

#elif defined(PROBE_DYNAMIC_MSIX)

/*
 * Linux kernel commit 34026364df8e ("PCI/MSI: Provide post-enable dynamic
 * allocation interfaces for MSI-X") (in v6.2)
 */
static void __maybe_unused probe(struct pci_dev *pdev)
{
	if (pci_msix_can_alloc_dyn(pdev))
		pci_msix_free_irq(pdev, pci_msix_alloc_irq_at(pdev, MSI_ANY_INDEX, NULL));
}

#elif defined(PROBE_ISOLATED_MSI)

/*
 * Linux kernel commit dcb83f6ec1bf ("genirq/msi: Rename IRQ_DOMAIN_MSI_REMAP to
 * IRQ_DOMAIN_ISOLATED_MSI") (in v6.3)
 */
static void __maybe_unused probe(struct irq_domain *domain)
{
	domain->flags |= IRQ_DOMAIN_FLAG_ISOLATED_MSI;
}

#elif defined(PROBE_MAP_GFP)

/* Linux kernel commit 1369459b2e21 ("iommu: Add a gfp parameter to iommu_map()") (in v6.3) */
static int __maybe_unused probe(struct iommu_domain *domain)
{
	return iommu_map(domain, 0, 0, PAGE_SIZE, IOMMU_WRITE, GFP_KERNEL);
}

#elif defined(PROBE_MOVE_PCNTXT)

/*
 * Before Linux kernel commit f94a18249b7f ("genirq: Remove IRQ_MOVE_PCNTXT and
 * related code") (in v6.14) a domain says so when its interrupts can be moved at
 * once; after it, when they cannot.
 */
static void __maybe_unused probe(unsigned int virq)
{
	irq_set_status_flags(virq, IRQ_MOVE_PCNTXT);
}

#elif defined(PROBE_MSI_PARENT)

/*
 * Linux kernel commit b6d5fc3a5247 ("x86/apic/vector: Provide MSI parent
 * domain") (in v6.2): a domain that stands on the vector domain can be a
 * device's MSI parent.
 */
static bool __maybe_unused probe(struct irq_domain *domain, struct msi_domain_info *info)
{
	const struct msi_parent_ops *ops = domain->parent->msi_parent_ops;

	return ops->init_dev_msi_info(NULL, domain->parent, domain, info);
}

#elif defined(PROBE_PCI_IMS)

/*
 * Linux kernel commits 0194425af0c8 ("PCI/MSI: Provide IMS (Interrupt Message
 * Store) support") and c9e5bea27383 ("PCI/MSI: Provide pci_ims_alloc/free_irq()")
 * (in v6.2), taken out again in v6.10 for want of users.
 */
static void __maybe_unused probe(struct pci_dev *pdev, const struct msi_domain_template *template)
{
	union msi_instance_cookie cookie = {};

	if (pci_create_ims_domain(pdev, template, IMSTEST_IMS_ENTRIES, pdev))
		pci_ims_free_irq(pdev, pci_ims_alloc_irq(pdev, &cookie, NULL));
}

#elif defined(PROBE_DOMAIN_MUTEX)

/* Linux kernel commit 9dbb8e3452ab ("irqdomain: Switch to per-domain locking") (in v6.3) */
static void __maybe_unused probe(struct irq_domain *domain)
{
	mutex_lock(&domain->root->mutex);
	mutex_unlock(&domain->root->mutex);
}

#elif defined(PROBE_REMAPPING_TOKENS)

/*
 * Linux kernel commits b6d5fc3a5247 ("x86/apic/vector: Provide MSI parent
 * domain"), 9a945234abea ("iommu/vt-d: Switch to MSI parent domains") (in v6.2)
 */
static bool __maybe_unused probe(struct irq_domain *domain)
{
	return domain->bus_token == DOMAIN_BUS_DMAR || domain->bus_token == DOMAIN_BUS_AMDVI;
}

#else
#error "a probe that Kbuild names is not here"
#endif
