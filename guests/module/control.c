// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * /dev/imstest: what user space can do with the bound functions.
 *
 * One mutex serialises user space and unbinding. Interrupt handlers take no lock.
 */

#include <linux/fs.h>
#include <linux/ktime.h>
#include <linux/miscdevice.h>
#include <linux/module.h>
#include <linux/pci.h>
#include <linux/sched/signal.h>
#include <linux/uaccess.h>

#include "imstest.h"

/* Held by every ioctl, and while a function comes or goes. */
static DEFINE_MUTEX(imstest_lock);

/* Bound functions by number; the lowest free number comes first. */
static DEFINE_XARRAY_ALLOC(imstest_functions);

/**
 * struct imstest_store_ops - what differs between the stores
 * @alloc:	allocate a range
 * @free:	free one interrupt while others of the store stay
 * @free_all:	free every interrupt of the store
 * @stored:	read a message back from the store
 */
struct imstest_store_ops {
	int (*alloc)(struct imstest_function *function, struct imstest_range *range);
	int (*free)(struct imstest_interrupt *interrupt);
	void (*free_all)(struct imstest_function *function, u32 store);
	int (*stored)(struct imstest_function *function, struct imstest_stored *stored);
};

static const struct imstest_store_ops imstest_stores[IMSTEST_STORES] = {
	[IMSTEST_STORE_MSI] = {
		.alloc		= imstest_msi_alloc,
		.free		= imstest_msi_free,
		.free_all	= imstest_pci_free_all,
		.stored		= imstest_msi_stored,
	},
	[IMSTEST_STORE_MSIX] = {
		.alloc		= imstest_msix_alloc,
		.free		= imstest_msix_free,
		.free_all	= imstest_pci_free_all,
		.stored		= imstest_msix_stored,
	},
	[IMSTEST_STORE_IMS] = {
		.alloc		= imstest_ims_alloc,
		.free		= imstest_ims_free,
		.free_all	= imstest_ims_free_all,
		.stored		= imstest_ims_stored,
	},
};

static const struct imstest_store_ops *imstest_store(u32 store)
{
	return store == IMSTEST_STORE_NONE || store >= IMSTEST_STORES ? NULL :
	       &imstest_stores[store];
}

/**
 * imstest_each() - do something with each interrupt of a range
 * @function:	the function
 * @range:	the interrupts; done is written
 * @action:	what to do; may free the interrupt
 *
 * Return: 0, -ENOENT for one that is not allocated, or the first error of @action.
 */
static int imstest_each(struct imstest_function *function, struct imstest_range *range,
			int (*action)(struct imstest_interrupt *interrupt, u32 argument))
{
	struct imstest_interrupt *interrupt;
	unsigned long index;
	int ret;

	if (!range->count) {
		xa_for_each(&function->interrupts[range->store], index, interrupt) {
			ret = action(interrupt, range->argument);
			if (ret)
				return ret;
			range->done++;
			/* Thousands of entries, on a kernel that does not preempt. */
			cond_resched();
		}
		return 0;
	}

	for (; range->done < range->count; range->done++) {
		interrupt = imstest_interrupt_find(function, range->store,
						   range->index + range->done);
		ret = interrupt ? action(interrupt, range->argument) : -ENOENT;
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

static int imstest_check_idle(struct imstest_interrupt *interrupt, u32 argument)
{
	return interrupt->requested ? -EBUSY : 0;
}

static int imstest_free_one(struct imstest_interrupt *interrupt, u32 argument)
{
	return imstest_stores[interrupt->store].free(interrupt);
}

static int imstest_alloc(struct imstest_function *function, struct imstest_range *range)
{
	/* A message of MSI or MSI-X carries no PASID. */
	if (range->bound && range->store != IMSTEST_STORE_IMS)
		return -EINVAL;
	return imstest_stores[range->store].alloc(function, range);
}

/**
 * imstest_free() - free the interrupts of a range
 * @function:	the function
 * @range:	the interrupts; done is written
 *
 * Return: 0, -ENOENT for one that is not allocated, -EBUSY for one that has a
 * handler (nothing is freed then), -EOPNOTSUPP for a part of a store that is
 * only freed as a whole.
 */
static int imstest_free(struct imstest_function *function, struct imstest_range *range)
{
	int ret;

	ret = imstest_each(function, range, imstest_check_idle);
	if (ret) {
		range->done = 0;
		return ret;
	}
	if (range->done == imstest_interrupt_count(function, range->store)) {
		if (range->done)
			imstest_stores[range->store].free_all(function, range->store);
		return 0;
	}
	if (range->store == IMSTEST_STORE_IMS)
		imstest_ims_give_back(function, range->index, range->index + range->count - 1);
	range->done = 0;
	return imstest_each(function, range, imstest_free_one);
}

static int imstest_request(struct imstest_function *function, struct imstest_range *range)
{
	return imstest_each(function, range, imstest_interrupt_request);
}

static int imstest_release(struct imstest_function *function, struct imstest_range *range)
{
	return imstest_each(function, range, imstest_interrupt_release);
}

static int imstest_mask(struct imstest_function *function, struct imstest_range *range)
{
	return imstest_each(function, range, imstest_interrupt_mask);
}

static int imstest_unmask(struct imstest_function *function, struct imstest_range *range)
{
	return imstest_each(function, range, imstest_interrupt_unmask);
}

static int imstest_move(struct imstest_function *function, struct imstest_range *range)
{
	return imstest_each(function, range, imstest_interrupt_move);
}

static int imstest_release_quietly(struct imstest_interrupt *interrupt, u32 argument)
{
	if (interrupt->requested)
		imstest_interrupt_release(interrupt, 0);
	return 0;
}

static void imstest_free_store(struct imstest_function *function, u32 store)
{
	struct imstest_range all = { .store = store };

	imstest_each(function, &all, imstest_release_quietly);
	if (all.done)
		imstest_stores[store].free_all(function, store);
}

/**
 * imstest_cycle_once() - allocate, request, release and free a range once
 * @function:	the function
 * @range:	the interrupts
 *
 * Return: 0, or the first error; the range is free again in either case.
 */
static int imstest_cycle_once(struct imstest_function *function, const struct imstest_range *range)
{
	struct imstest_range all = *range;
	int ret;

	all.argument = 0;
	all.done = 0;
	ret = imstest_alloc(function, &all);
	if (ret)
		goto out_free;

	all.done = 0;
	ret = imstest_request(function, &all);
out_free:
	imstest_free_store(function, range->store);
	return ret;
}

/**
 * imstest_cycle() - run imstest_cycle_once() many times
 * @function:	the function
 * @range:	the interrupts, rounds in argument; done is written with whole rounds
 *
 * Return: 0, -EBUSY when the store is in use, -EINTR for a signal, or the
 * first error.
 */
static int imstest_cycle(struct imstest_function *function, struct imstest_range *range)
{
	int ret;

	if (imstest_interrupt_count(function, range->store))
		return -EBUSY;

	for (; range->done < range->argument; range->done++) {
		if (signal_pending(current))
			return -EINTR;
		ret = imstest_cycle_once(function, range);
		if (ret)
			return ret;
		cond_resched();
	}
	return 0;
}

static void imstest_free_everything(struct imstest_function *function)
{
	u32 store;

	for (store = IMSTEST_STORE_MSI; store < IMSTEST_STORES; store++)
		imstest_free_store(function, store);
}

/* Free everything, reset the device's own state and start its queue again. */
static int imstest_reset(struct imstest_function *function, struct imstest_hold *hold)
{
	imstest_free_everything(function);
	imstest_placeholders_drop(function, hold);
	imstest_write(function, IMSTEST_CONTROL, IMSTEST_CONTROL_RESET);
	return imstest_work_queue_start(function);
}

static int imstest_function_facts(struct imstest_function *function,
				  struct imstest_function_facts *facts)
{
	struct pci_dev *pdev = function->pdev;

	if (function->remapping)
		facts->features |= IMSTEST_HAS_REMAPPING;
#if HAVE_DYNAMIC_MSIX
	if (pci_msix_can_alloc_dyn(pdev))
		facts->features |= IMSTEST_HAS_DYNAMIC_MSIX;
#endif
	if (imstest_read(function, IMSTEST_IMS_CAPABILITY) & IMSTEST_IMS_CAPABILITY_MAPPED)
		facts->features |= IMSTEST_IMS_MAPPED;
	if (function->ims_ready)
		facts->features |= IMSTEST_HAS_IMS | (HAVE_PCI_IMS ? IMSTEST_IMS_BY_KERNEL : 0);

	strscpy(facts->slot, pci_name(pdev), sizeof(facts->slot));
	strscpy(facts->msi_parent, function->msi_parent->name, sizeof(facts->msi_parent));
	facts->msi_max = max(pci_msi_vec_count(pdev), 0);
	facts->msix_max = max(pci_msix_vec_count(pdev), 0);
	facts->ims_max = function->ims_entries;
	facts->msi = imstest_interrupt_count(function, IMSTEST_STORE_MSI);
	facts->msix = imstest_interrupt_count(function, IMSTEST_STORE_MSIX);
	facts->ims = imstest_interrupt_count(function, IMSTEST_STORE_IMS);
	facts->placeholders = function->placeholders_held;
	facts->status = imstest_read(function, IMSTEST_STATUS);
	facts->refused = imstest_read(function, IMSTEST_REFUSED);
	facts->unanswered = imstest_read(function, IMSTEST_UNANSWERED);
	return 0;
}

static int imstest_stored(struct imstest_function *function, struct imstest_stored *stored)
{
	const struct imstest_store_ops *ops = imstest_store(stored->store);

	return ops ? ops->stored(function, stored) : -EINVAL;
}

/* The argument of an ioctl. Those for one function begin with its number. */
union imstest_argument {
	u32 function;
	struct imstest_range range;
	struct imstest_fire fire;
	struct imstest_facts facts;
	struct imstest_stored stored;
	struct imstest_function_facts function_facts;
	struct imstest_hold hold;
	struct imstest_irqs irqs;
	struct imstest_policy policy;
};

static const struct {
	unsigned int command;
	int (*handler)(struct imstest_function *function, struct imstest_range *range);
} imstest_range_ioctls[] = {
	{ IMSTEST_IOC_ALLOC,	imstest_alloc },
	{ IMSTEST_IOC_REQUEST,	imstest_request },
	{ IMSTEST_IOC_RELEASE,	imstest_release },
	{ IMSTEST_IOC_FREE,	imstest_free },
	{ IMSTEST_IOC_MASK,	imstest_mask },
	{ IMSTEST_IOC_UNMASK,	imstest_unmask },
	{ IMSTEST_IOC_MOVE,	imstest_move },
	{ IMSTEST_IOC_CYCLE,	imstest_cycle },
};

static int imstest_range_ioctl(struct imstest_function *function, unsigned int command,
			       struct imstest_range *range)
{
	unsigned int i;
	u64 start;
	int ret;

	for (i = 0; i < ARRAY_SIZE(imstest_range_ioctls); i++) {
		if (imstest_range_ioctls[i].command != command)
			continue;
		if (!imstest_store(range->store))
			return -EINVAL;
		range->done = 0;
		start = ktime_get_ns();
		ret = imstest_range_ioctls[i].handler(function, range);
		/* Stores are posted. Once this returns, the device has seen them. */
		imstest_read(function, IMSTEST_STATUS);
		range->nanoseconds = ktime_get_ns() - start;
		return ret;
	}
	return -ENOTTY;
}

static int imstest_function_ioctl(unsigned int command, union imstest_argument *argument)
{
	struct imstest_function *function = xa_load(&imstest_functions, argument->function);

	if (!function)
		return -ENODEV;

	switch (command) {
	case IMSTEST_IOC_FUNCTION:
		return imstest_function_facts(function, &argument->function_facts);
	case IMSTEST_IOC_FIRE:
		return imstest_fire(function, &argument->fire);
	case IMSTEST_IOC_MOVE_FIRE:
		return imstest_move_fire(function, &argument->fire);
	case IMSTEST_IOC_FACTS:
		return imstest_interrupt_facts(function, &argument->facts);
	case IMSTEST_IOC_STORED:
		return imstest_stored(function, &argument->stored);
	case IMSTEST_IOC_WRITE:
		if (!imstest_store(argument->stored.store))
			return -EINVAL;
		return imstest_interrupt_write(function, &argument->stored);
	case IMSTEST_IOC_HOLD:
		return imstest_placeholders_hold(function, &argument->hold);
	case IMSTEST_IOC_DROP:
		return imstest_placeholders_drop(function, &argument->hold);
	case IMSTEST_IOC_RESET:
		return imstest_reset(function, &argument->hold);
	default:
		return imstest_range_ioctl(function, command, &argument->range);
	}
}

static long imstest_ioctl(struct file *file, unsigned int command, unsigned long user)
{
	void __user *to = (void __user *)user;
	size_t size = _IOC_SIZE(command);
	union imstest_argument argument = {};
	int ret;

	if (_IOC_TYPE(command) != 'I' || size > sizeof(argument))
		return -ENOTTY;
	if (copy_from_user(&argument, to, size))
		return -EFAULT;

	ret = mutex_lock_interruptible(&imstest_lock);
	if (ret)
		return ret;
	if (command == IMSTEST_IOC_IRQS)
		ret = imstest_machine_irqs(&argument.irqs);
	else if (command == IMSTEST_IOC_POLICY)
		ret = imstest_policy(&argument.policy);
	else
		ret = imstest_function_ioctl(command, &argument);
	mutex_unlock(&imstest_lock);

	/* After an error too: "done" says how far it came. */
	if (copy_to_user(to, &argument, size))
		return -EFAULT;
	return ret;
}

static const struct file_operations imstest_fops = {
	.owner		= THIS_MODULE,
	.unlocked_ioctl	= imstest_ioctl,
	.compat_ioctl	= compat_ptr_ioctl,
};

static struct miscdevice imstest_misc = {
	.minor	= MISC_DYNAMIC_MINOR,
	.name	= "imstest",
	.fops	= &imstest_fops,
	.mode	= 0600,
};

/**
 * imstest_control_add() - open a function to user space
 * @function:	the function, its BARs mapped and bus mastering on
 *
 * Return: 0, or the error of what could not be set up; nothing is left then.
 */
int imstest_control_add(struct imstest_function *function)
{
	int ret;

	mutex_lock(&imstest_lock);
	ret = imstest_ims_init(function);
	if (ret)
		goto err_exit;
	ret = imstest_work_queue_init(function);
	if (ret)
		goto err_exit;
	ret = xa_alloc(&imstest_functions, &function->number, function, xa_limit_32b, GFP_KERNEL);
	if (ret)
		goto err_exit;
	mutex_unlock(&imstest_lock);
	return 0;

err_exit:
	imstest_work_queue_exit(function);
	imstest_ims_exit(function);
	mutex_unlock(&imstest_lock);
	return ret;
}

/**
 * imstest_control_remove() - close a function to user space, and free all it has
 * @function:	the function
 *
 * Afterwards the device sends nothing any more. Doing it twice does no harm: a
 * function that was shut down may still be removed.
 */
void imstest_control_remove(struct imstest_function *function)
{
	struct imstest_hold hold = {};

	WRITE_ONCE(function->leaving, true);
	mutex_lock(&imstest_lock);
	xa_cmpxchg(&imstest_functions, function->number, function, NULL, GFP_KERNEL);
	imstest_work_queue_exit(function);
	imstest_free_everything(function);
	imstest_placeholders_drop(function, &hold);
	imstest_ims_exit(function);
	mutex_unlock(&imstest_lock);
}

/**
 * imstest_control_init() - make /dev/imstest
 *
 * Return: 0, or what misc_register() answers.
 */
int imstest_control_init(void)
{
	return misc_register(&imstest_misc);
}

/**
 * imstest_control_exit() - undo imstest_control_init(); no function is bound any more
 */
void imstest_control_exit(void)
{
	misc_deregister(&imstest_misc);
}
