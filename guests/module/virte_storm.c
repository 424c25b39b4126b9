// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * Storms. The host quenches an interrupt that storms: its messages are blocked
 * until the guest revives it. Any answer brings the notice that some interrupt is
 * quenched; which one, QUERY tells.
 */

#include <linux/jiffies.h>
#include <linux/workqueue.h>

#include "imstest.h"
#include "virte.h"

/* Time for what storms to calm down. It bounds the calls that a lasting storm costs, too. */
#define REVIVAL_DELAY	(HZ / 10)

/* A host that wants to wait is asked again: its answer brings the notice. */
static void revive(struct virte_block *block, __le32 handle)
{
	struct virte_entry_request request = { .handle = handle };
	struct virte_entry_answer answer;
	int ret;

	ret = virte_call(block->virte, VIRTE_OPERATION_REVIVE, &request, &answer, 1);
	if (!ret)
		pci_info(block->pdev, "interrupt %u stormed and is revived\n",
			 block->virq + le32_to_cpu(handle) - block->handle);
}

static void revive_quenched(struct virte *virte)
{
	struct virte_batch *batch = &virte->batch;
	unsigned int i;

	virte_call(virte, VIRTE_OPERATION_QUERY, batch->requests, batch->answers, batch->count);
	for (i = 0; i < batch->count; i++)
		if (le16_to_cpu(batch->answers[i].state) & VIRTE_STATE_QUENCHED)
			revive(batch->blocks[i], batch->requests[i].handle);
	batch->count = 0;
}

static void virte_storm_work(struct work_struct *work)
{
	struct virte *virte = container_of(to_delayed_work(work), struct virte, revival);
	struct virte_batch *batch = &virte->batch;
	struct virte_block *block;
	unsigned int i;

	/* No handle goes away meanwhile: what is not mapped when it is seen is not quenched. */
	mutex_lock(&virte->blocks_lock);
	list_for_each_entry(block, &virte->blocks, node) {
		for (i = 0; READ_ONCE(block->mapped) && i < le16_to_cpu(block->source.count); i++) {
			batch->requests[batch->count] = (struct virte_entry_request) {
				.handle	= cpu_to_le32(block->handle + i),
			};
			batch->blocks[batch->count++] = block;
			if (batch->count == VIRTE_FRAME_ENTRIES)
				revive_quenched(virte);
		}
	}
	if (batch->count)
		revive_quenched(virte);
	mutex_unlock(&virte->blocks_lock);
}

/**
 * virte_storm_init() - be ready for notices
 * @virte:	the function
 */
void virte_storm_init(struct virte *virte)
{
	mutex_init(&virte->blocks_lock);
	INIT_LIST_HEAD(&virte->blocks);
	INIT_DELAYED_WORK(&virte->revival, virte_storm_work);
}

/**
 * virte_storm_exit() - wait for a revival that runs
 * @virte:	the function, in the old scheme
 */
void virte_storm_exit(struct virte *virte)
{
	cancel_delayed_work_sync(&virte->revival);
}

/**
 * virte_storm_notice() - look for quenched interrupts soon; callable wherever a call is
 * @virte:	the function
 */
void virte_storm_notice(struct virte *virte)
{
	schedule_delayed_work(&virte->revival, REVIVAL_DELAY);
}
