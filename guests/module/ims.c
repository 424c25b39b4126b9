// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The Interrupt Message Store: entries in an array of the device, and which of
 * them are taken. Its IRQ domain stands on the device's MSI parent,
 *
 *	vector -- remapping -- IMS
 *
 * and is the kernel's where that makes one (ims_device_domain.c), else our own
 * (ims_own_domain.c).
 *
 * An entry's message names a remapping entry and never changes while it is in
 * use. A move to another CPU rewrites the remapping entry only: no callback
 * here is called for it, and the store is not touched.
 */

#include <linux/bitfield.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/pci.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <asm/irqdomain.h>

#include "imstest.h"
#include "virte.h"

static const char ims_source[] = "IMS";
void * const imstest_ims_source = (void *)ims_source;

/* What is in an entry's control besides the mask. */
static u32 control_of(const struct imstest_range *range)
{
	return range->bound ? IMSTEST_IMS_CONTROL_PASID_VALID |
			      FIELD_PREP(IMSTEST_IMS_CONTROL_PASID, range->pasid) : 0;
}

static u32 ims_read(struct imstest_function *function, u32 index, u32 field)
{
	return ioread32(function->ims + index * IMSTEST_IMS_ENTRY_SIZE + field);
}

static void ims_write(struct imstest_function *function, u32 index, u32 field, u32 value)
{
	iowrite32(value, function->ims + index * IMSTEST_IMS_ENTRY_SIZE + field);
}

/**
 * imstest_ims_mask() - mask an entry; once this returns, the device raises it no more
 * @function:	the function
 * @index:	the entry
 */
void imstest_ims_mask(struct imstest_function *function, u32 index)
{
	ims_write(function, index, IMSTEST_IMS_CONTROL,
		  function->ims_bound[index] | IMSTEST_IMS_CONTROL_MASK);
	/* The write is posted. What the device sent before it is ahead of the answer. */
	ims_read(function, index, IMSTEST_IMS_CONTROL);
}

/**
 * imstest_ims_unmask() - unmask an entry
 * @function:	the function
 * @index:	the entry
 */
void imstest_ims_unmask(struct imstest_function *function, u32 index)
{
	ims_write(function, index, IMSTEST_IMS_CONTROL, function->ims_bound[index]);
}

/**
 * imstest_ims_pasid() - tell the PASID of an entry
 * @pdev:	a device with this driver
 * @index:	the entry
 * @pasid:	is written when there is one
 *
 * Return: whether it is bound to one.
 */
bool imstest_ims_pasid(struct pci_dev *pdev, u32 index, u32 *pasid)
{
	const struct imstest_function *function = pci_get_drvdata(pdev);
	u32 bound = function->ims_bound[index];

	if (!(bound & IMSTEST_IMS_CONTROL_PASID_VALID))
		return false;
	*pasid = FIELD_GET(IMSTEST_IMS_CONTROL_PASID, bound);
	return true;
}

/**
 * imstest_ims_store() - write the message of an entry, which is masked
 * @function:	the function
 * @index:	the entry
 * @msg:	the message
 */
void imstest_ims_store(struct imstest_function *function, u32 index, const struct msi_msg *msg)
{
	ims_write(function, index, IMSTEST_IMS_ADDRESS_LO, msg->address_lo);
	ims_write(function, index, IMSTEST_IMS_ADDRESS_HI, msg->address_hi);
	ims_write(function, index, IMSTEST_IMS_DATA, msg->data);
	function->ims_messages[index] = *msg;
}

/*
 * Whether a domain is that of a remapping unit. Others stand on the vector
 * domain too, those of PCI host bridges that hide in another function (VMD) or
 * in a hypervisor.
 */
static bool is_remapping(const struct irq_domain *domain)
{
	if (domain->parent != x86_vector_domain)
		return false;
	if (virte_domain_is(domain))
		return true;
#if HAVE_REMAPPING_TOKENS
	return domain->bus_token == DOMAIN_BUS_DMAR || domain->bus_token == DOMAIN_BUS_AMDVI;
#else
	/* As intel_setup_irq_remapping() and amd_iommu_create_irq_domain() name them. */
	return domain->name && (str_has_prefix(domain->name, "INTEL-IR-") ||
				str_has_prefix(domain->name, "AMD-IR-"));
#endif
}

/**
 * imstest_ims_init() - find the MSI parent and put the IMS domain on it
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
	int ret;

	/* Before the per-device MSI domains of v6.2: the shared domain, not the parent of all. */
	if (parent && parent->bus_token == DOMAIN_BUS_PCI_MSI)
		parent = parent->parent;
	if (!parent)
		return -ENODEV;

	function->msi_parent = parent;
	function->remapping = is_remapping(parent);
	function->desc.dev = &pdev->dev;
	if (!function->remapping) {
		if (parent != x86_vector_domain)
			pci_warn(pdev, "the MSI parent %s does not remap: no IMS\n", parent->name);
		return 0;
	}

	ret = imstest_ims_domain_init(function);
	function->ims_ready = !ret;
	return ret == -EOPNOTSUPP ? 0 : ret;
}

/**
 * imstest_ims_exit() - undo imstest_ims_init(), however far it came
 * @function:	the function, without IMS interrupts
 */
void imstest_ims_exit(struct imstest_function *function)
{
	function->ims_ready = false;
	imstest_ims_domain_exit(function);
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
	u32 index = interrupt->index;

	clear_bit(index, function->ims_used);
	imstest_interrupt_delete(interrupt);
	imstest_ims_domain_free(function, index, virq);
	return 0;
}

/*
 * Entries that are asked for at once: full frames of the call. The kernel makes
 * their interrupts without a pause, 2048 of them for 149 s under lockdep and KASAN.
 */
#define IMS_AT_ONCE	(4U * VIRTE_FRAME_ENTRIES)

/* Whether the domain has many entries done at once: the vIRTE domain does, a remapping domain not. */
static bool ims_at_once(const struct imstest_function *function)
{
	return !HAVE_PCI_IMS && virte_domain_is(function->msi_parent);
}

/**
 * imstest_ims_give_back() - give back the messages of entries that are about to be freed
 * @function:	the function
 * @first:	the first entry; none has a handler
 * @last:	the last one
 *
 * Freeing does that too, but one by one.
 */
void imstest_ims_give_back(struct imstest_function *function, u32 first, u32 last)
{
	struct imstest_interrupt *interrupt;
	unsigned int virqs[VIRTE_FRAME_ENTRIES], count = 0;
	unsigned long index;

	if (!ims_at_once(function))
		return;
	xa_for_each_range(&function->interrupts[IMSTEST_STORE_IMS], index, interrupt, first, last) {
		virqs[count++] = interrupt->virq;
		if (count == ARRAY_SIZE(virqs)) {
			virte_give_back(function->msi_parent, virqs, count);
			count = 0;
		}
	}
	virte_give_back(function->msi_parent, virqs, count);
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

	imstest_ims_give_back(function, 0, U32_MAX);
	xa_for_each(&function->interrupts[store], index, interrupt)
		imstest_ims_free(interrupt);
}

/* Allocate entries at once, all or none; done is written. */
static int ims_alloc_entries(struct imstest_function *function, struct imstest_range *range,
			     u32 count)
{
	u32 index = range->index + range->done, i;
	int virq, ret;

	for (i = 0; i < count; i++)
		function->ims_bound[index + i] = control_of(range);
	virq = imstest_ims_domain_alloc(function, index, count);
	if (virq < 0)
		return virq;

	for (i = 0; i < count; i++) {
		ret = imstest_interrupt_add(function, IMSTEST_STORE_IMS, index + i, virq + i);
		if (ret)
			goto err_free_rest;
		set_bit(index + i, function->ims_used);
		range->done++;
	}
	return 0;

err_free_rest:
	for (; i < count; i++)
		imstest_ims_domain_free(function, index + i, virq + i);
	return ret;
}

/**
 * imstest_ims_alloc() - allocate a run of IMS entries, all or none
 * @function:	the function
 * @range:	index (or IMSTEST_ANY), count and PASID; index and done are written
 *
 * Return: 0, -EPERM when the policy in force refuses, -EOPNOTSUPP without an IMS
 * domain, or without the vIRTE call for entries bound to a PASID, -EINVAL for
 * entries that the device does not have or what is no PASID, -EBUSY when one is
 * in use, -ENOSPC when no run of free entries is long enough, or what the IRQ
 * domains answer.
 */
int imstest_ims_alloc(struct imstest_function *function, struct imstest_range *range)
{
	u32 entries = function->ims_entries;
	int ret;

	ret = imstest_policy_check(function);
	if (ret)
		return ret;
	if (!function->ims_ready)
		return -EOPNOTSUPP;
	/* An IRTE names no PASID that a message could be held against. */
	if (range->bound && !virte_domain_is(function->msi_parent))
		return -EOPNOTSUPP;
	if (range->bound && !FIELD_FIT(IMSTEST_IMS_CONTROL_PASID, range->pasid))
		return -EINVAL;
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

	while (range->done < range->count) {
		ret = ims_alloc_entries(function, range, ims_at_once(function) ?
					min(range->count - range->done, IMS_AT_ONCE) : 1);
		if (ret)
			goto err_free_entries;
		/* A remapping domain is asked for one at a time, of thousands. */
		cond_resched();
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
	stored->pending = !!(imstest_read(function, IMSTEST_IMS_PENDING +
					  stored->index / 32 * sizeof(u32)) &
			     BIT(stored->index % 32));
	return 0;
}
