// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * A call: the request goes into a frame, reading the frame's CALL register
 * carries it out, the answer stands in the frame when the read returns.
 *
 * Callable with interrupts off and under the locks of the IRQ core, not from NMI.
 */

#include <linux/delay.h>
#include <linux/io.h>

#include "imstest.h"
#include "virte.h"

/*
 * A host that stays busy is given up, and one that wants to be left alone for
 * longer at once: who calls may hold a lock of the IRQ core.
 */
#define BUSY_TRIES	20
#define BUSY_WAIT_US	2000

/*
 * A message that was sent lands for certain, as one on a bus does: this much later
 * the host is broken.
 */
#define LANDING_WAIT_US	(2 * USEC_PER_SEC)
#define LANDING_STEP_US	20

static_assert(sizeof(struct virte_frame) <= VIRTE_FRAME_SIZE);

/*
 * EAGAIN for BUSY: the core takes EBUSY of irq_set_affinity() as "put it off",
 * and tells the caller that all is well.
 */
static const int status_errnos[] = {
	[VIRTE_STATUS_OK]		= 0,
	[VIRTE_STATUS_BUSY]		= -EAGAIN,
	[VIRTE_STATUS_NO_HANDLES]	= -ENOSPC,
	[VIRTE_STATUS_DENIED]		= -EPERM,
	[VIRTE_STATUS_UNSUPPORTED]	= -EOPNOTSUPP,
	[VIRTE_STATUS_INVALID]		= -EINVAL,
	[VIRTE_STATUS_NO_SUCH_HANDLE]	= -ENOENT,
	[VIRTE_STATUS_NOT_NEGOTIATED]	= -ENODEV,
	[VIRTE_STATUS_FAILED]		= -EIO,
	[VIRTE_STATUS_NOT_ATTEMPTED]	= -ECANCELED,
};

static int status_errno(u32 status)
{
	return status < ARRAY_SIZE(status_errnos) ? status_errnos[status] : -EIO;
}

/* Carry out one call; the answers are good as far as it came. */
static u32 carry_out(struct virte *virte, const struct virte_call_request *call,
		     struct virte_call_answer *called, const struct virte_entry_request *requests,
		     struct virte_entry_answer *answers)
{
	unsigned int number = raw_smp_processor_id() % VIRTE_FRAMES;
	struct virte_frame __iomem *frame = virte->frames + number * VIRTE_FRAME_SIZE;
	unsigned int i, count = le16_to_cpu(call->count);
	unsigned long flags;
	u32 status;

	raw_spin_lock_irqsave(&virte->frame_locks[number], flags);
	memcpy_toio(&frame->call, call, sizeof(*call));
	for (i = 0; i < count; i++)
		memcpy_toio(&frame->entries[i].request, &requests[i], sizeof(*requests));
	status = ioread32(virte->registers + VIRTE_CALL + number * sizeof(u32));
	memcpy_fromio(called, &frame->called, sizeof(*called));
	for (i = 0; i < count; i++)
		memcpy_fromio(&answers[i], &frame->entries[i].answer, sizeof(*answers));
	raw_spin_unlock_irqrestore(&virte->frame_locks[number], flags);
	if (le32_to_cpu(called->notices) & VIRTE_NOTICE_QUENCHED)
		virte_storm_notice(virte);
	return status;
}

/*
 * What arrived before its route was taken away may still be on its way to the old
 * CPU and vector. Who made the call may go on to take that CPU offline, or give the
 * vector to another: like one who has invalidated a remapping entry, he waits.
 */
static void wait_for_landing(struct virte *virte)
{
	unsigned int left_us = LANDING_WAIT_US;
	u32 status;

	for (;;) {
		status = ioread32(virte->registers + VIRTE_STATUS);
		if (!(status & VIRTE_NOTICE_LANDING) || PCI_POSSIBLE_ERROR(status))
			return;
		if (left_us < LANDING_STEP_US)
			break;
		left_us -= LANDING_STEP_US;
		udelay(LANDING_STEP_US);
	}
	dev_warn(&virte->pdev->dev, "messages do not land\n");
}

static bool takes_routes(const struct virte_call_request *call)
{
	switch (le16_to_cpu(call->operation)) {
	case VIRTE_OPERATION_NEGOTIATE:
	case VIRTE_OPERATION_RELEASE:
	case VIRTE_OPERATION_RETARGET:
	case VIRTE_OPERATION_UNMAP:
		return true;
	default:
		return false;
	}
}

/*
 * While the host is busy go on behind the entries that are done. Tries and waits
 * are bounded between two that are.
 */
static int call_until_ready(struct virte *virte, struct virte_call_request *call,
			    struct virte_call_answer *called,
			    const struct virte_entry_request *requests,
			    struct virte_entry_answer *answers)
{
	unsigned int tries = 0, waited_us = 0, left = le16_to_cpu(call->count), done;
	u32 status, wait_us;

	for (;;) {
		status = carry_out(virte, call, called, requests, answers);
		if (takes_routes(call) && le32_to_cpu(called->notices) & VIRTE_NOTICE_LANDING)
			wait_for_landing(virte);
		if (status == VIRTE_STATUS_OK)
			return 0;

		done = min_t(u32, le32_to_cpu(called->done), left);
		requests += done;
		answers += done;
		left -= done;
		if (done)
			tries = waited_us = 0;
		wait_us = le32_to_cpu(called->retry_us);
		if (status != VIRTE_STATUS_BUSY || ++tries == BUSY_TRIES ||
		    wait_us > BUSY_WAIT_US - waited_us)
			break;
		waited_us += wait_us;
		call->count = cpu_to_le16(left);
		udelay(wait_us);
	}

	for (; left; left--)
		*answers++ = (struct virte_entry_answer) { .status = cpu_to_le32(status) };
	return status_errno(status);
}

/**
 * virte_call_init() - make the frames' locks
 * @virte:	the function
 */
void virte_call_init(struct virte *virte)
{
	unsigned int i;

	for (i = 0; i < VIRTE_FRAMES; i++)
		raw_spin_lock_init(&virte->frame_locks[i]);
}

/**
 * virte_call_negotiate() - ask for the new scheme
 * @virte:	the function
 * @needed:	VIRTE_FEATURE_*, all of which must be granted
 * @wanted:	those that would be good to have besides
 *
 * Return: 0 when it is in force, -EOPNOTSUPP when less was granted (and given
 * back), or the errno of the status.
 */
int virte_call_negotiate(struct virte *virte, u32 needed, u32 wanted)
{
	struct virte_call_request call = {
		.operation	= cpu_to_le16(VIRTE_OPERATION_NEGOTIATE),
		.version	= cpu_to_le32(VIRTE_VERSION_1_0),
		.features	= cpu_to_le32(needed | wanted),
	};
	struct virte_call_answer called;
	int ret;

	ret = call_until_ready(virte, &call, &called, NULL, NULL);
	if (ret || (le32_to_cpu(called.features) & needed) == needed)
		return ret;
	virte_call_release(virte);
	return -EOPNOTSUPP;
}

/**
 * virte_call_release() - return to the old scheme; every handle is dead
 * @virte:	the function
 *
 * Return: 0, or the errno of the status.
 */
int virte_call_release(struct virte *virte)
{
	struct virte_call_request call = {
		.operation	= cpu_to_le16(VIRTE_OPERATION_RELEASE),
	};
	struct virte_call_answer called;

	return call_until_ready(virte, &call, &called, NULL, NULL);
}

/**
 * virte_call() - make a call about one interrupt or several
 * @virte:	the function
 * @operation:	VIRTE_OPERATION_*
 * @requests:	what is asked
 * @answers:	what was answered; the status of one that is not done is not OK, and
 *		its message is the null message
 * @count:	of them, VIRTE_FRAME_ENTRIES at most
 *
 * Return: 0 when all are done, -EAGAIN when the host stays busy, or the errno of
 * the status of the first that was refused. What is before it stays done.
 */
int virte_call(struct virte *virte, u16 operation, const struct virte_entry_request *requests,
	       struct virte_entry_answer *answers, unsigned int count)
{
	struct virte_call_request call = {
		.operation	= cpu_to_le16(operation),
		.count		= cpu_to_le16(count),
	};
	struct virte_call_answer called;

	return call_until_ready(virte, &call, &called, requests, answers);
}
