// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Blocks: the interrupts that one MAP is for, and the calls about them.
 *
 * Many blocks are mapped, and given back, as many in a call as a frame holds.
 */

#include <linux/irq.h>
#include <linux/irqdomain.h>
#include <linux/slab.h>

#include "imstest.h"
#include "virte.h"

static const struct virte_entry_request parked = { .flags = VIRTE_ENTRY_PARKED };

static struct virte_entry_request map_request(const struct virte_block *block,
					      const struct virte_entry_request *route)
{
	struct virte_entry_request request = block->source;

	request.flags |= route->flags;
	request.destination = route->destination;
	request.vector = route->vector;
	request.delivery_mode = route->delivery_mode;
	return request;
}

static void block_mapped(struct virte_block *block, const struct virte_entry_answer *answer)
{
	block->handle = le32_to_cpu(answer->handle);
	block->message.address_lo = lower_32_bits(le64_to_cpu(answer->address));
	block->message.address_hi = upper_32_bits(le64_to_cpu(answer->address));
	block->message.data = le32_to_cpu(answer->data);
	block->mapped = true;
}

static int block_map(struct virte_block *block, const struct virte_entry_request *route)
{
	struct virte_entry_request request = map_request(block, route);
	struct virte_entry_answer answer;
	int ret;

	ret = virte_call(block->virte, VIRTE_OPERATION_MAP, &request, &answer, 1);
	if (!ret)
		block_mapped(block, &answer);
	return ret;
}

static int block_retarget(struct virte_block *block, unsigned int number,
			  const struct virte_entry_request *route)
{
	struct virte_entry_request request = *route;
	struct virte_entry_answer answer;

	request.handle = cpu_to_le32(block->handle + number);
	return virte_call(block->virte, VIRTE_OPERATION_RETARGET, &request, &answer, 1);
}

/**
 * virte_block_add() - make a block
 * @virte:	the function
 * @source:	what MAP is to say of it, without a route
 * @pdev:	the device whose interrupts they are
 * @virq:	the first Linux interrupt
 * @count:	of them
 *
 * Return: the block, NULL without memory.
 */
struct virte_block *virte_block_add(struct virte *virte, const struct virte_entry_request *source,
				    struct pci_dev *pdev, unsigned int virq, unsigned int count)
{
	struct virte_block *block;

	block = kzalloc(struct_size(block, irqs, count), GFP_KERNEL);
	if (!block)
		return NULL;
	block->virte = virte;
	block->pdev = pdev;
	block->source = *source;
	block->virq = virq;
	block->held = count;
	raw_spin_lock_init(&block->lock);

	mutex_lock(&virte->blocks_lock);
	list_add_tail(&block->node, &virte->blocks);
	mutex_unlock(&virte->blocks_lock);
	return block;
}

/**
 * virte_block_route() - set the route of an interrupt; map its block if it is not
 * @block:	the block
 * @number:	which of its interrupts
 * @route:	NULL: park it
 *
 * Return: 0, or the errno of the call; then the old route stays in force.
 */
int virte_block_route(struct virte_block *block, unsigned int number,
		      const struct virte_entry_request *route)
{
	struct virte_irq *irq = &block->irqs[number];
	unsigned long flags;
	int ret = 0;

	raw_spin_lock_irqsave(&block->lock, flags);
	if (!block->mapped && !number) {
		/* The first message can take its route with MAP. */
		ret = block_map(block, route ?: &parked);
	} else {
		if (!block->mapped)
			ret = block_map(block, &parked);
		/* What is parked, and is to be, needs no call. */
		if (!ret && (route || irq->routed))
			ret = block_retarget(block, number, route ?: &parked);
	}
	if (!ret)
		irq->routed = route;
	raw_spin_unlock_irqrestore(&block->lock, flags);
	return ret;
}

static struct virte_block *block_of(struct virte *virte, unsigned int virq)
{
	return irq_domain_get_irq_data(virte->domain, virq)->chip_data;
}

static int batch_map(struct virte *virte)
{
	struct virte_batch *batch = &virte->batch;
	unsigned int i;
	int ret, err;

	for (i = 0; i < batch->count; i++)
		batch->requests[i] = map_request(batch->blocks[i], &parked);
	ret = virte_call(virte, VIRTE_OPERATION_MAP, batch->requests, batch->answers,
			 batch->count);
	for (i = 0; i < batch->count; i++) {
		if (batch->answers[i].status != cpu_to_le32(VIRTE_STATUS_OK))
			break;
		block_mapped(batch->blocks[i], &batch->answers[i]);
		err = virte_doorbell_map(virte, batch->blocks[i]->pdev,
					 le64_to_cpu(batch->answers[i].address));
		ret = ret ?: err;
	}
	batch->count = 0;
	return ret;
}

static void batch_unmap(struct virte *virte)
{
	struct virte_batch *batch = &virte->batch;
	unsigned int i;
	int ret;

	if (!batch->count)
		return;
	for (i = 0; i < batch->count; i++) {
		batch->requests[i] = (struct virte_entry_request) {
			.handle	= cpu_to_le32(batch->blocks[i]->handle),
			.count	= batch->blocks[i]->source.count,
		};
		batch->blocks[i]->mapped = false;
	}
	ret = virte_call(virte, VIRTE_OPERATION_UNMAP, batch->requests, batch->answers,
			 batch->count);
	/* A bridge above the function is shut down after it: everything was given back. */
	WARN_ONCE(ret && ret != -ENODEV, "vIRTE: of %u handles from %#x on not all are taken back: %d\n",
		  batch->count, le32_to_cpu(batch->requests[0].handle), ret);
	batch->count = 0;
}

/* Give a block back by the next batch_unmap(), which comes by itself when the frame is full. */
static void batch_add_unmap(struct virte *virte, struct virte_block *block)
{
	if (!block->mapped)
		return;
	virte->batch.blocks[virte->batch.count++] = block;
	if (virte->batch.count == VIRTE_FRAME_ENTRIES)
		batch_unmap(virte);
}

/**
 * virte_blocks_map() - map new blocks without a route, in as few calls as can be
 * @virte:	the function
 * @virq:	the first Linux interrupt
 * @count:	of them
 * @each:	of them in a block
 *
 * Return: 0, or the errno of the first that is refused; those before stay mapped.
 */
int virte_blocks_map(struct virte *virte, unsigned int virq, unsigned int count, unsigned int each)
{
	struct virte_batch *batch = &virte->batch;
	unsigned int i;
	int ret = 0;

	mutex_lock(&virte->blocks_lock);
	for (i = 0; i < count && !ret; i += each) {
		batch->blocks[batch->count++] = block_of(virte, virq + i);
		if (batch->count == VIRTE_FRAME_ENTRIES || i + each >= count)
			ret = batch_map(virte);
	}
	mutex_unlock(&virte->blocks_lock);
	return ret;
}

/**
 * virte_blocks_drop() - free interrupts of blocks
 * @virte:	the function
 * @virq:	the first Linux interrupt
 * @count:	of them
 *
 * With the last of its interrupts a block is given back and gone: all handles at
 * once, as they came.
 */
void virte_blocks_drop(struct virte *virte, unsigned int virq, unsigned int count)
{
	struct virte_block *block, *next;
	LIST_HEAD(dropped);
	unsigned int i;

	mutex_lock(&virte->blocks_lock);
	for (i = 0; i < count; i++) {
		block = block_of(virte, virq + i);
		if (--block->held)
			continue;
		list_move_tail(&block->node, &dropped);
		batch_add_unmap(virte, block);
	}
	batch_unmap(virte);
	mutex_unlock(&virte->blocks_lock);

	list_for_each_entry_safe(block, next, &dropped, node)
		kfree(block);
}

/**
 * virte_give_back() - give blocks back ahead of freeing them, in as few calls as can be
 * @domain:	the vIRTE domain
 * @virqs:	Linux interrupts, of blocks of one and not active; to be freed next
 * @count:	of them
 *
 * The core frees interrupts one by one, and so would their handles be. These are
 * dead when this returns.
 */
void virte_give_back(struct irq_domain *domain, const unsigned int *virqs, unsigned int count)
{
	struct virte *virte = domain->host_data;
	unsigned int i;

	mutex_lock(&virte->blocks_lock);
	for (i = 0; i < count; i++)
		batch_add_unmap(virte, block_of(virte, virqs[i]));
	batch_unmap(virte);
	mutex_unlock(&virte->blocks_lock);
}
