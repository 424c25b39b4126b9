/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's side of the vIRTE call: what its files share.
 *
 * virte_main.c		PCI driver, and which devices the new scheme is for
 * virte_call.c		a call: frame, register, errno
 * virte_block.c		what one MAP is for, and the calls about it
 * virte_domain.c	the IRQ domain in the place of the remapping domain
 * virte_msi.c		the domain that devices are given: that one, or one on it
 * virte_doorbell.c	the way of a device's messages where the guest translates DMA
 * virte_storm.c		quenched interrupts, found and revived
 */

#ifndef VIRTE_H
#define VIRTE_H

#include <linux/irqdomain.h>
#include <linux/list.h>
#include <linux/mutex.h>
#include <linux/msi.h>
#include <linux/pci.h>
#include <linux/spinlock.h>
#include <linux/workqueue.h>

#include "virte_regs.h"

/**
 * struct virte_batch - one call about several interrupts
 * @count:	of them
 * @blocks:	whose interrupts they are
 * @requests:	what is asked
 * @answers:	what was answered
 */
struct virte_batch {
	unsigned int count;
	struct virte_block *blocks[VIRTE_FRAME_ENTRIES];
	struct virte_entry_request requests[VIRTE_FRAME_ENTRIES];
	struct virte_entry_answer answers[VIRTE_FRAME_ENTRIES];
};

/**
 * struct virte - the bound function
 * @pdev:	the PCI device
 * @registers:	register BAR
 * @frames:	call frames
 * @frame_locks: each frame is one caller's at a time
 * @fwnode:	name of @domain
 * @domain:	the IRQ domain
 * @msi_fwnode:	name of @msi_domain, where that is one of its own
 * @msi_domain:	what devices have for their MSI domain
 * @blocks_lock:	orders @blocks and @batch
 * @blocks:	what has been allocated in @domain
 * @batch:	what the next call is about: there is always memory for giving back
 * @revival:	looks for quenched interrupts
 * @adopted:	devices that have @msi_domain
 */
struct virte {
	struct pci_dev *pdev;
	void __iomem *registers;
	void __iomem *frames;
	raw_spinlock_t frame_locks[VIRTE_FRAMES];
	struct fwnode_handle *fwnode;
	struct irq_domain *domain;
	struct fwnode_handle *msi_fwnode;
	struct irq_domain *msi_domain;
	struct mutex blocks_lock;
	struct list_head blocks;
	struct virte_batch batch;
	struct delayed_work revival;
	struct list_head adopted;
};

/**
 * struct virte_irq - what one Linux interrupt of a block needs
 * @routed:	its handle has a route: it is not parked
 * @late:	a move was refused: the vector domain is ahead of the route
 * @next_cpu:	where the vector domain wants it meanwhile
 */
struct virte_irq {
	bool routed;
	bool late;
	unsigned int next_cpu;
};

/**
 * struct virte_block - the interrupts that one MAP is for
 * @node:	in virte.blocks
 * @virte:	the function
 * @pdev:	the device whose interrupts they are
 * @lock:	orders calls about the block
 * @source:	what MAP says of it, without a route
 * @virq:	its first Linux interrupt
 * @held:	Linux interrupts that are not freed
 * @refused:	errno of a MAP at allocation, for the activation to return
 * @mapped:	@message and @handle are the hypervisor's
 * @handle:	of the first interrupt; the others follow
 * @message:	of the first interrupt; null while not mapped
 * @irqs:	by number in the block
 */
struct virte_block {
	struct list_head node;
	struct virte *virte;
	struct pci_dev *pdev;
	raw_spinlock_t lock;
	struct virte_entry_request source;
	unsigned int virq;
	unsigned int held;
	int refused;
	bool mapped;
	u32 handle;
	struct msi_msg message;
	struct virte_irq irqs[];
};

/* virte_call.c */
void virte_call_init(struct virte *virte);
int virte_call_negotiate(struct virte *virte, u32 needed, u32 wanted);
int virte_call_release(struct virte *virte);
int virte_call(struct virte *virte, u16 operation, const struct virte_entry_request *requests,
	       struct virte_entry_answer *answers, unsigned int count);

/* virte_block.c */
struct virte_block *virte_block_add(struct virte *virte, const struct virte_entry_request *source,
				    struct pci_dev *pdev, unsigned int virq, unsigned int count);
int virte_block_route(struct virte_block *block, unsigned int number,
		      const struct virte_entry_request *route);
int virte_blocks_map(struct virte *virte, unsigned int virq, unsigned int count,
		     unsigned int each);
void virte_blocks_drop(struct virte *virte, unsigned int virq, unsigned int count);
void virte_give_back(struct irq_domain *domain, const unsigned int *virqs, unsigned int count);

/* virte_domain.c */
int virte_domain_init(struct virte *virte);
void virte_domain_exit(struct virte *virte);
bool virte_domain_is(const struct irq_domain *domain);

/* virte_msi.c */
int virte_msi_init(struct virte *virte);
void virte_msi_exit(struct virte *virte);

/* virte_doorbell.c */
bool virte_doorbell_wanted(struct pci_dev *pdev);
int virte_doorbell_map(struct virte *virte, struct pci_dev *pdev, u64 address);
void virte_doorbell_unmap(struct virte *virte, struct pci_dev *pdev);

/* virte_storm.c */
void virte_storm_init(struct virte *virte);
void virte_storm_exit(struct virte *virte);
void virte_storm_notice(struct virte *virte);

/* virte_main.c */
int virte_init(void);
void virte_exit(void);
bool virte_granted(const struct irq_domain *domain);

#endif /* VIRTE_H */
