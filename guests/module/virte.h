/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * The guest's side of the vIRTE call: what its files share.
 *
 * virte_main.c		PCI driver, and which devices the new scheme is for
 * virte_call.c		a call: frame, register, errno
 * virte_domain.c	the IRQ domain in the place of the remapping domain
 */

#ifndef VIRTE_H
#define VIRTE_H

#include <linux/irqdomain.h>
#include <linux/list.h>
#include <linux/pci.h>
#include <linux/spinlock.h>

#include "virte_regs.h"

/**
 * struct virte - the bound function
 * @pdev:	the PCI device
 * @registers:	register BAR
 * @frames:	call frames
 * @frame_locks: each frame is one caller's at a time
 * @fwnode:	name of @domain
 * @domain:	the IRQ domain
 * @adopted:	devices whose MSI parent @domain is
 */
struct virte {
	struct pci_dev *pdev;
	void __iomem *registers;
	void __iomem *frames;
	raw_spinlock_t frame_locks[VIRTE_FRAMES];
	struct fwnode_handle *fwnode;
	struct irq_domain *domain;
	struct list_head adopted;
};

/* virte_call.c */
void virte_call_init(struct virte *virte);
int virte_call_negotiate(struct virte *virte, u32 features);
int virte_call_release(struct virte *virte);
int virte_call(struct virte *virte, u16 operation, const struct virte_entry_request *request,
	       struct virte_entry_answer *answer);

/* virte_domain.c */
int virte_domain_init(struct virte *virte);
void virte_domain_exit(struct virte *virte);

/* virte_main.c */
int virte_init(void);
void virte_exit(void);

#endif /* VIRTE_H */
