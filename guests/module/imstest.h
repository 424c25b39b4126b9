/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Test driver for message-signalled interrupts: what its files share.
 *
 * main.c		PCI driver
 * control.c		/dev/imstest: operations on ranges of interrupts, on any store
 * interrupt.c		one interrupt: request, mask, move, its handler and its facts
 * pci_vectors.c	MSI and MSI-X: allocation, the message in the store
 * ims.c		IMS: allocation, the message in the store
 * ims_device_domain.c	the IRQ domain of IMS, where the kernel makes one for a device
 * ims_own_domain.c	the IRQ domain of IMS, where it does not
 * work_queue.c		descriptors that make the device raise an interrupt
 * placeholders.c	remapping entries taken for no interrupt
 * machine.c		every interrupt of the machine, with its domain hierarchy
 * firmware.c		what firmware, remapping units and CPUs say about the platform
 * policy.c		whether IMS may be used by that
 * virte*.c		the vIRTE call: a driver of its own, see virte.h
 * probes.c		what the kernel offers: HAVE_* in imstest_have.h, made by Kbuild
 */

#ifndef IMSTEST_H
#define IMSTEST_H

#include <linux/bitmap.h>
#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/list.h>
#include <linux/msi.h>
#include <linux/mutex.h>
#include <linux/pci.h>
#include <linux/xarray.h>

#include "imstest_have.h"
#include "imstest_regs.h"
#include "imstest_uapi.h"

#define IMSTEST_STORES		(IMSTEST_STORE_IMS + 1)
#define IMSTEST_WQ_ENTRIES	64

/**
 * struct imstest_work_queue - the ring and its completion records
 * @ring:	descriptors
 * @ring_dma:	its I/O virtual address
 * @records:	one completion record for each descriptor
 * @records_dma: their I/O virtual address
 * @tail:	free-running count of the descriptors written
 */
struct imstest_work_queue {
	struct imstest_work_descriptor *ring;
	dma_addr_t ring_dma;
	struct imstest_completion_record *records;
	dma_addr_t records_dma;
	u32 tail;
};

/**
 * struct imstest_function - one bound PCI function
 * @pdev:	the PCI device
 * @number:	its number in the user interface
 * @control:	control BAR
 * @msix_table:	MSI-X table, for reading what stands in it
 * @ims:	IMS array
 * @ims_entries: entries that the device has
 * @msi_parent:	domain that allocates one interrupt's way to a CPU
 * @remapping:	whether that is a remapping domain
 * @leaving:	it is to be unbound or shut down: what waits for the device gives up
 * @ims_ready:	there is an IMS domain
 * @ims_fwnode:	name of @ims_domain
 * @ims_domain:	IMS domain of our own, NULL where the kernel makes it
 * @ims_used:	IMS entries that are allocated
 * @ims_bound:	PASID that each IMS entry is bound to, as in IMSTEST_IMS_CONTROL
 * @ims_messages: message last written to each IMS entry
 * @desc:	what allocations in @msi_parent take the source id from
 * @interrupts:	allocated interrupts by store and index
 * @queue:	the work queue
 * @placeholders: blocks of bare remapping entries
 * @placeholders_held: entries in them
 */
struct imstest_function {
	struct pci_dev *pdev;
	u32 number;
	void __iomem *control;
	void __iomem *msix_table;
	void __iomem *ims;
	u32 ims_entries;
	struct irq_domain *msi_parent;
	bool remapping;
	bool leaving;
	bool ims_ready;
	struct fwnode_handle *ims_fwnode;
	struct irq_domain *ims_domain;
	DECLARE_BITMAP(ims_used, IMSTEST_IMS_ENTRIES);
	u32 ims_bound[IMSTEST_IMS_ENTRIES];
	struct msi_msg ims_messages[IMSTEST_IMS_ENTRIES];
	struct msi_desc desc;
	struct xarray interrupts[IMSTEST_STORES];
	struct imstest_work_queue queue;
	struct list_head placeholders;
	u32 placeholders_held;
};

/**
 * struct imstest_interrupt - one allocated interrupt
 * @function:	whose it is
 * @store:	IMSTEST_STORE_*
 * @index:	index in the store
 * @virq:	Linux interrupt number
 * @event:	its event slot
 * @requested:	it has a handler
 * @masked:	masked by imstest_interrupt_mask()
 * @last_sequence: sequence number that the handler saw last
 * @spurious:	handler runs without an event
 * @runs:	handler runs by CPU
 * @name:	what /proc/interrupts shows
 */
struct imstest_interrupt {
	struct imstest_function *function;
	u32 store;
	u32 index;
	unsigned int virq;
	void __iomem *event;
	bool requested;
	bool masked;
	u32 last_sequence;
	atomic_t spurious;
	u32 __percpu *runs;
	char name[32];
};

/**
 * struct imstest_told - one ACPI table, and what it says about IMS
 * @there:	there is such a table
 * @sound:	it is as it should be
 * @speaks:	it says something about IMS
 * @ims:	IMSTEST_IMS_*
 * @fault:	what is wrong with it
 */
struct imstest_told {
	bool there;
	bool sound;
	bool speaks;
	u8 ims;
	char fault[64];
};

/* As byte 36 of the table VIRE. */
#define IMSTEST_IMS_UNDEFINED	0
#define IMSTEST_IMS_DIRECT	1
#define IMSTEST_IMS_CALL	2

/**
 * struct imstest_platform - what can be known of the platform
 * @dmar:	the table DMAR
 * @vire:	the table VIRE
 * @units:	remapping units
 * @remapping:	those that remap interrupts
 * @caching_mode: those in caching mode
 * @hypervisor:	CPUID shows a hypervisor
 * @granted:	the vIRTE call was negotiated
 */
struct imstest_platform {
	struct imstest_told dmar;
	struct imstest_told vire;
	u32 units;
	u32 remapping;
	u32 caching_mode;
	bool hypervisor;
	bool granted;
};

static inline u32 imstest_read(const struct imstest_function *function, u32 reg)
{
	return ioread32(function->control + reg);
}

static inline void imstest_write(struct imstest_function *function, u32 reg, u32 value)
{
	iowrite32(value, function->control + reg);
}

/* control.c */
int imstest_control_add(struct imstest_function *function);
void imstest_control_remove(struct imstest_function *function);
int imstest_control_init(void);
void imstest_control_exit(void);

/* interrupt.c */
int imstest_interrupt_add(struct imstest_function *function, u32 store, u32 index,
			  unsigned int virq);
void imstest_interrupt_delete(struct imstest_interrupt *interrupt);
struct imstest_interrupt *imstest_interrupt_find(struct imstest_function *function, u32 store,
						 u32 index);
u32 imstest_interrupt_count(struct imstest_function *function, u32 store);
int imstest_interrupt_request(struct imstest_interrupt *interrupt, u32 argument);
int imstest_interrupt_release(struct imstest_interrupt *interrupt, u32 argument);
int imstest_interrupt_mask(struct imstest_interrupt *interrupt, u32 argument);
int imstest_interrupt_unmask(struct imstest_interrupt *interrupt, u32 argument);
int imstest_interrupt_move(struct imstest_interrupt *interrupt, u32 cpu);
int imstest_interrupt_write(struct imstest_function *function, const struct imstest_stored *stored);
int imstest_interrupt_facts(struct imstest_function *function, struct imstest_facts *facts);

/* pci_vectors.c */
int imstest_msi_alloc(struct imstest_function *function, struct imstest_range *range);
int imstest_msix_alloc(struct imstest_function *function, struct imstest_range *range);
int imstest_msi_free(struct imstest_interrupt *interrupt);
int imstest_msix_free(struct imstest_interrupt *interrupt);
void imstest_pci_free_all(struct imstest_function *function, u32 store);
int imstest_msi_stored(struct imstest_function *function, struct imstest_stored *stored);
int imstest_msix_stored(struct imstest_function *function, struct imstest_stored *stored);

/* ims.c */
int imstest_ims_init(struct imstest_function *function);
void imstest_ims_exit(struct imstest_function *function);
int imstest_ims_alloc(struct imstest_function *function, struct imstest_range *range);
int imstest_ims_free(struct imstest_interrupt *interrupt);
void imstest_ims_give_back(struct imstest_function *function, u32 first, u32 last);
void imstest_ims_free_all(struct imstest_function *function, u32 store);
int imstest_ims_stored(struct imstest_function *function, struct imstest_stored *stored);
bool imstest_ims_pasid(struct pci_dev *pdev, u32 index, u32 *pasid);
void imstest_ims_mask(struct imstest_function *function, u32 index);
void imstest_ims_unmask(struct imstest_function *function, u32 index);
void imstest_ims_store(struct imstest_function *function, u32 index, const struct msi_msg *msg);

/* ims.c: in irq_alloc_info.data, tells IMS from MSI-X to a domain that serves both. */
extern void * const imstest_ims_source;

/* ims_device_domain.c or ims_own_domain.c */
int imstest_ims_domain_init(struct imstest_function *function);
void imstest_ims_domain_exit(struct imstest_function *function);
int imstest_ims_domain_alloc(struct imstest_function *function, u32 index, u32 count);
void imstest_ims_domain_free(struct imstest_function *function, u32 index, unsigned int virq);

/* work_queue.c */
int imstest_work_queue_init(struct imstest_function *function);
void imstest_work_queue_exit(struct imstest_function *function);
int imstest_work_queue_start(struct imstest_function *function);
int imstest_fire(struct imstest_function *function, struct imstest_fire *fire);
int imstest_move_fire(struct imstest_function *function, struct imstest_fire *fire);

/* placeholders.c */
int imstest_placeholders_hold(struct imstest_function *function, struct imstest_hold *hold);
int imstest_placeholders_drop(struct imstest_function *function, struct imstest_hold *hold);

/* machine.c */
int imstest_machine_irqs(struct imstest_irqs *irqs);
int imstest_compose(struct irq_data *irqd, struct msi_msg *msg);
int imstest_effective_cpu(struct irq_data *irqd);
const struct irq_cfg *imstest_vector(struct irq_data *irqd);

/* firmware.c */
void imstest_platform(struct imstest_platform *platform);

/* policy.c */
int imstest_policy(struct imstest_policy *policy);
int imstest_policy_check(struct imstest_function *function);

#endif /* IMSTEST_H */
