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

#if HAVE_MSI_PARENT

/* A host that stays busy is given up. The waits add up to two milliseconds. */
#define BUSY_TRIES	20
#define BUSY_WAIT_US	100

static_assert(sizeof(struct virte_frame) == 128);

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

/* Carry out the call in @frame and fill in its answers. */
static u32 carry_out(struct virte *virte, struct virte_frame *frame)
{
	unsigned int number = raw_smp_processor_id() % VIRTE_FRAMES;
	void __iomem *io = virte->frames + number * VIRTE_FRAME_SIZE;
	unsigned long flags;
	u32 status;

	raw_spin_lock_irqsave(&virte->frame_locks[number], flags);
	memcpy_toio(io + offsetof(struct virte_frame, call), &frame->call, sizeof(frame->call));
	memcpy_toio(io + offsetof(struct virte_frame, request), &frame->request,
		    sizeof(frame->request));
	status = ioread32(virte->registers + VIRTE_CALL + number * sizeof(u32));
	memcpy_fromio(&frame->called, io + offsetof(struct virte_frame, called),
		      sizeof(frame->called));
	memcpy_fromio(&frame->answer, io + offsetof(struct virte_frame, answer),
		      sizeof(frame->answer));
	raw_spin_unlock_irqrestore(&virte->frame_locks[number], flags);
	return status;
}

static int call_until_ready(struct virte *virte, struct virte_frame *frame)
{
	unsigned int tries = BUSY_TRIES;
	u32 status;

	while ((status = carry_out(virte, frame)) == VIRTE_STATUS_BUSY && --tries)
		udelay(min_t(u32, le32_to_cpu(frame->called.retry_us), BUSY_WAIT_US));
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
 * @features:	VIRTE_FEATURE_*, all of which are needed
 *
 * Return: 0 when it is in force, -EOPNOTSUPP when less was granted (and given
 * back), or the errno of the status.
 */
int virte_call_negotiate(struct virte *virte, u32 features)
{
	struct virte_frame frame = {
		.call = {
			.operation	= cpu_to_le16(VIRTE_OPERATION_NEGOTIATE),
			.version	= cpu_to_le32(VIRTE_VERSION_1_0),
			.features	= cpu_to_le32(features),
		},
	};
	int ret;

	ret = call_until_ready(virte, &frame);
	if (ret || le32_to_cpu(frame.called.features) == features)
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
	struct virte_frame frame = {
		.call.operation	= cpu_to_le16(VIRTE_OPERATION_RELEASE),
	};

	return call_until_ready(virte, &frame);
}

/**
 * virte_call() - make a call about one interrupt
 * @virte:	the function
 * @operation:	VIRTE_OPERATION_*
 * @request:	what is asked
 * @answer:	what was answered; with an error its message is the null message
 *
 * Return: 0, -EAGAIN when the host stays busy, or the errno of the status.
 */
int virte_call(struct virte *virte, u16 operation, const struct virte_entry_request *request,
	       struct virte_entry_answer *answer)
{
	struct virte_frame frame = {
		.call = {
			.operation	= cpu_to_le16(operation),
			.count		= cpu_to_le16(1),
		},
		.request = *request,
	};
	int ret;

	ret = call_until_ready(virte, &frame);
	*answer = ret ? (struct virte_entry_answer) {} : frame.answer;
	return ret;
}

#endif /* HAVE_MSI_PARENT */
