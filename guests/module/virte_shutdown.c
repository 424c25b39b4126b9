// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The way back before another kernel starts, by kexec or by a reboot: it may know
 * nothing of the call. All drivers have been shut down by then, in what order they
 * may have come; so this is no driver's part.
 */

#include <linux/syscore_ops.h>

#include "imstest.h"
#include "virte.h"

#if HAVE_SYSCORE_DATA

static void virte_shutdown(void *data)
{
	virte_leave();
}

static const struct syscore_ops virte_syscore_ops = {
	.shutdown	= virte_shutdown,
};

static struct syscore virte_syscore = {
	.ops		= &virte_syscore_ops,
};

/**
 * virte_shutdown_init() - be called when the kernel ends
 */
void virte_shutdown_init(void)
{
	register_syscore(&virte_syscore);
}

/**
 * virte_shutdown_exit() - undo virte_shutdown_init()
 */
void virte_shutdown_exit(void)
{
	unregister_syscore(&virte_syscore);
}

#else

static struct syscore_ops virte_syscore_ops = {
	.shutdown	= virte_leave,
};

void virte_shutdown_init(void)
{
	register_syscore_ops(&virte_syscore_ops);
}

void virte_shutdown_exit(void)
{
	unregister_syscore_ops(&virte_syscore_ops);
}

#endif /* HAVE_SYSCORE_DATA */
