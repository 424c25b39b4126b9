// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The vIRTE domain, in the place of the remapping domain:
 *
 *	vector -- vIRTE -+- PCI/MSI
 *			 +- PCI/MSI-X
 *			 +- IMS
 *
 * Activation asks the hypervisor for a message, an affinity change asks it for a
 * new route, and both pass its refusal on. The message is the hypervisor's: this
 * domain hands it up and never looks into it.
 */

#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/log2.h>
#include <linux/msi.h>
#include <asm/hw_irq.h>
#include <asm/irqdomain.h>

#include "imstest.h"
#include "virte.h"

/* Where the vector domain sends the interrupt now. */
static struct virte_entry_request route_of(struct irq_data *irqd)
{
	struct irq_data *parent = irqd->parent_data;
	struct virte_entry_request route = {};
	struct msi_msg msg = {};

	/* Compatibility format: it says all that there is to say about a route. */
	parent->chip->irq_compose_msi_msg(parent, &msg);
	route.destination = cpu_to_le32(irqd_cfg(parent)->dest_apicid);
	route.vector = msg.arch_data.vector;
	route.delivery_mode = msg.arch_data.delivery_mode;
	if (msg.arch_addr_lo.dest_mode_logical)
		route.flags |= VIRTE_ENTRY_LOGICAL;
	if (msg.arch_addr_lo.redirect_hint)
		route.flags |= VIRTE_ENTRY_REDIRECTION_HINT;
	return route;
}

static unsigned int number_of(struct irq_data *irqd)
{
	struct virte_block *block = irq_data_get_irq_chip_data(irqd);

	return irqd->irq - block->virq;
}

/* A refused move, once more: the vector domain has made its part already. */
static int route_late(struct irq_data *irqd)
{
	struct virte_block *block = irq_data_get_irq_chip_data(irqd);
	struct virte_irq *irq = &block->irqs[number_of(irqd)];
	struct virte_entry_request route = route_of(irqd);
	int ret;

	ret = virte_block_route(block, number_of(irqd), &route);
	if (ret)
		return ret;
	irq->late = false;
	irq_data_update_effective_affinity(irqd, cpumask_of(irq->next_cpu));
	return 0;
}

static int virte_set_affinity(struct irq_data *irqd, const struct cpumask *mask, bool force)
{
	struct virte_block *block = irq_data_get_irq_chip_data(irqd);
	struct virte_irq *irq = &block->irqs[number_of(irqd)];
	unsigned int cpu = cpumask_first(irq_data_get_effective_affinity_mask(irqd));
	struct irq_data *parent = irqd->parent_data;
	struct virte_entry_request route;
	int ret;

	if (irq->late) {
		ret = route_late(irqd);
		if (ret)
			return ret;
	}

	ret = parent->chip->irq_set_affinity(parent, mask, force);
	if (ret < 0 || ret == IRQ_SET_MASK_OK_DONE || !irqd_is_activated(irqd))
		return ret;

	route = route_of(irqd);
	ret = virte_block_route(block, number_of(irqd), &route);
	if (!ret)
		return IRQ_SET_MASK_OK_DONE;

	/*
	 * The old route is in force, and the vector domain keeps the old vector
	 * until an interrupt arrives at the new one: none does.
	 */
	irq->late = true;
	irq->next_cpu = cpumask_first(irq_data_get_effective_affinity_mask(irqd));
	irq_data_update_effective_affinity(irqd, cpumask_of(cpu));
	return ret;
}

static void virte_compose_msi_msg(struct irq_data *irqd, struct msi_msg *msg)
{
	struct virte_block *block = irq_data_get_irq_chip_data(irqd);

	*msg = block->message;
	if (block->mapped)
		msg->data |= number_of(irqd);
}

static struct irq_chip virte_chip = {
	.name			= "vIRTE",
	.irq_ack		= irq_chip_ack_parent,
	.irq_retrigger		= irq_chip_retrigger_hierarchy,
	.irq_set_affinity	= virte_set_affinity,
	.irq_compose_msi_msg	= virte_compose_msi_msg,
	.flags			= IRQCHIP_SKIP_SET_WAKE | IRQCHIP_AFFINITY_PRE_STARTUP,
};

/*
 * What a request for @count interrupts is for. Return the number of interrupts of
 * one MAP: the messages of an MSI capability are one block, others are blocks of
 * one. Interrupts of IMS with indices in a row may be asked for at once: one PASID
 * is that of all.
 */
static int source_of(const struct irq_alloc_info *info, unsigned int count,
		     struct virte_entry_request *source)
{
	struct pci_dev *pdev = info->desc ? msi_desc_to_pci_dev(info->desc) : NULL;
	u32 pasid;

	if (!pdev)
		return -EINVAL;

	source->requester = cpu_to_le16(pci_dev_id(pdev));
	source->segment = cpu_to_le16(pci_domain_nr(pdev->bus));
	if (info->type == X86_IRQ_ALLOC_TYPE_PCI_MSI) {
		source->store = VIRTE_STORE_MSI;
		/* Three messages take the place of four, in the capability as in the call. */
		source->count = cpu_to_le16(roundup_pow_of_two(count));
		return count;
	}
	if (info->type != X86_IRQ_ALLOC_TYPE_PCI_MSIX)
		return -EINVAL;

	source->count = cpu_to_le16(1);
	/* The type of IMS is the kernel's for MSI-X: who allocates it says what it is. */
	if (info->data == imstest_ims_source) {
		source->store = VIRTE_STORE_IMS;
		source->index = cpu_to_le32(info->hwirq);
		if (imstest_ims_pasid(pdev, info->hwirq, &pasid)) {
			source->flags = VIRTE_ENTRY_PASID;
			source->pasid = cpu_to_le32(pasid);
		}
		return 1;
	}
	/* The number in a PCI/MSI domain that devices share is not the index. */
	source->store = VIRTE_STORE_MSIX;
	source->index = cpu_to_le32(info->desc->msi_index);
	return count == 1 ? 1 : -EINVAL;
}

static int block_make(struct irq_domain *domain, const struct virte_entry_request *source,
		      struct pci_dev *pdev, unsigned int virq, unsigned int count)
{
	struct virte_block *block;
	unsigned int i;

	block = virte_block_add(domain->host_data, source, pdev, virq, count);
	if (!block)
		return -ENOMEM;
	for (i = 0; i < count; i++) {
		irq_domain_set_hwirq_and_chip(domain, virq + i, virq + i, &virte_chip, block);
#if HAVE_MOVE_PCNTXT
		/* A move does not touch the store: it need not wait for the next interrupt. */
		irq_set_status_flags(virq + i, IRQ_MOVE_PCNTXT);
#endif
	}
	return 0;
}

static int virte_domain_alloc(struct irq_domain *domain, unsigned int virq, unsigned int nr_irqs,
			      void *arg)
{
	struct virte_entry_request source = {};
	struct irq_alloc_info *info = arg;
	struct virte_block *block;
	unsigned int made = 0;
	struct pci_dev *pdev;
	int ret, each;

	each = source_of(info, nr_irqs, &source);
	if (each < 0)
		return each;
	pdev = msi_desc_to_pci_dev(info->desc);

	ret = irq_domain_alloc_irqs_parent(domain, virq, nr_irqs, arg);
	if (ret < 0)
		return ret;
	for (; made < nr_irqs; made += each) {
		ret = block_make(domain, &source, pdev, virq + made, each);
		if (ret)
			goto err_drop_blocks;
		le32_add_cpu(&source.index, 1);
	}

	/*
	 * One interrupt is mapped when it is activated, with its route. Many are
	 * mapped here, without, 64 in a call; and so is one whose doorbell page needs
	 * a mapping, which activation is no place for.
	 */
	if (nr_irqs > each || virte_doorbell_wanted(pdev)) {
		ret = virte_blocks_map(domain->host_data, virq, nr_irqs, each);
		if (ret && nr_irqs > each)
			goto err_drop_blocks;
		/*
		 * The PCI core makes ENOSPC of any error here (kernel/irq/msi.c,
		 * msi_handle_pci_fail()), and passes those of activation on.
		 */
		block = irq_domain_get_irq_data(domain, virq)->chip_data;
		block->refused = ret;
	}
	return 0;

err_drop_blocks:
	virte_blocks_drop(domain->host_data, virq, made);
	irq_domain_free_irqs_parent(domain, virq, nr_irqs);
	return ret;
}

static void virte_domain_free(struct irq_domain *domain, unsigned int virq, unsigned int nr_irqs)
{
	virte_blocks_drop(domain->host_data, virq, nr_irqs);
	irq_domain_free_irqs_common(domain, virq, nr_irqs);
}

/*
 * With @reserve the vector is a placeholder for many: a pair is wanted, a route
 * not yet. An error here is the error of the driver's own call.
 */
static int virte_domain_activate(struct irq_domain *domain, struct irq_data *irqd, bool reserve)
{
	struct virte_block *block = irq_data_get_irq_chip_data(irqd);
	struct virte_entry_request route;

	if (block->refused)
		return block->refused;
	if (reserve)
		return virte_block_route(block, number_of(irqd), NULL);
	route = route_of(irqd);
	return virte_block_route(block, number_of(irqd), &route);
}

static void virte_domain_deactivate(struct irq_domain *domain, struct irq_data *irqd)
{
	struct virte_block *block = irq_data_get_irq_chip_data(irqd);

	/* Parking is never refused. The vector is free when this returns. */
	virte_block_route(block, number_of(irqd), NULL);
	block->irqs[number_of(irqd)].late = false;
}

static const struct irq_domain_ops virte_domain_ops = {
	.alloc		= virte_domain_alloc,
	.free		= virte_domain_free,
	.activate	= virte_domain_activate,
	.deactivate	= virte_domain_deactivate,
};

/**
 * virte_domain_init() - make the domain
 * @virte:	the function
 *
 * Return: 0, -ENOMEM.
 */
int virte_domain_init(struct virte *virte)
{
	virte->fwnode = irq_domain_alloc_named_fwnode("VIRTE");
	if (!virte->fwnode)
		return -ENOMEM;

	virte->domain = irq_domain_create_hierarchy(x86_vector_domain, 0, 0, virte->fwnode,
						    &virte_domain_ops, virte);
	if (!virte->domain)
		return -ENOMEM;

#if HAVE_ISOLATED_MSI
	virte->domain->flags |= IRQ_DOMAIN_FLAG_ISOLATED_MSI;
#else
	virte->domain->flags |= IRQ_DOMAIN_FLAG_MSI_REMAP;
#endif
	return 0;
}

/**
 * virte_domain_exit() - undo virte_domain_init(), however far it came
 * @virte:	the function; no device uses the domain
 */
void virte_domain_exit(struct virte *virte)
{
	if (virte->domain)
		irq_domain_remove(virte->domain);
	virte->domain = NULL;
	if (virte->fwnode)
		irq_domain_free_fwnode(virte->fwnode);
	virte->fwnode = NULL;
}

/**
 * virte_domain_is() - tell the vIRTE domain
 * @domain:	any domain
 *
 * Return: whether it is one of ours.
 */
bool virte_domain_is(const struct irq_domain *domain)
{
	return domain->ops == &virte_domain_ops;
}
