// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * May this kernel use IMS? The rules that have been proposed, each by itself, and
 * the one that combines them: docs/ims-policy.md.
 *
 * The rule that is in force is user space's choice. It is none at first, because
 * most tests are about what IMS does and not about whether it may be used.
 */

#include <linux/string.h>

#include "imstest.h"
#include "virte.h"

/* Of enum imstest_rule; IMSTEST_RULE_NONE: everything is allowed. Under the lock of control.c. */
static u32 rule_in_force = IMSTEST_RULE_NONE;

static bool say(struct imstest_verdict *verdict, bool allowed, const char *why)
{
	verdict->allowed = allowed;
	strscpy(verdict->why, why, sizeof(verdict->why));
	return allowed;
}

static bool rule_iommu(const struct imstest_platform *platform, struct imstest_verdict *verdict)
{
	if (!platform->dmar.there)
		return say(verdict, false, "no DMAR table: no IOMMU");
	if (!platform->dmar.sound)
		return say(verdict, false, platform->dmar.fault);
	if (platform->remapping < platform->units)
		return say(verdict, false, "a unit does not remap interrupts");
	return say(verdict, true, "every unit remaps interrupts");
}

static bool rule_table_format(const struct imstest_platform *platform,
			      struct imstest_verdict *verdict)
{
	if (!platform->dmar.there)
		return say(verdict, false, "no DMAR table: no IOMMU");
	if (!platform->dmar.sound)
		return say(verdict, false, platform->dmar.fault);
	if (!platform->dmar.speaks)
		return say(verdict, false, "DMAR is of the old format");
	if (platform->dmar.ims != IMSTEST_IMS_DIRECT)
		return say(verdict, false, "DMAR does not allow IMS");
	return say(verdict, true, "DMAR allows IMS");
}

/* As Linux kernel commit 810531a1af53 ("iommu/vt-d: Enable PCI/IMS") (in v6.2 to v6.9). */
static bool rule_caching_mode(const struct imstest_platform *platform,
			      struct imstest_verdict *verdict)
{
	if (!rule_iommu(platform, verdict))
		return false;
	if (platform->caching_mode)
		return say(verdict, false, "a unit is in caching mode");
	return say(verdict, true, "no unit is in caching mode");
}

static bool rule_cpuid(const struct imstest_platform *platform, struct imstest_verdict *verdict)
{
	if (platform->hypervisor)
		return say(verdict, false, "CPUID shows a hypervisor");
	return say(verdict, true, "CPUID shows no hypervisor");
}

static bool rule_call(const struct imstest_platform *platform, struct imstest_verdict *verdict)
{
	if (!platform->granted)
		return say(verdict, false, "no hypervisor has granted the call");
	return say(verdict, true, "the hypervisor has granted the call");
}

static bool rule_firmware_flag(const struct imstest_platform *platform,
			       struct imstest_verdict *verdict)
{
	if (!platform->vire.there)
		return say(verdict, false, "no VIRE table: undefined");
	if (!platform->vire.sound)
		return say(verdict, false, platform->vire.fault);
	if (platform->vire.ims == IMSTEST_IMS_DIRECT)
		return say(verdict, true, "VIRE: pairs of the kernel's own work");
	if (platform->vire.ims == IMSTEST_IMS_UNDEFINED)
		return say(verdict, false, "VIRE: undefined");
	if (platform->granted)
		return say(verdict, true, "VIRE: the call is needed, and granted");
	return say(verdict, false, "VIRE: the call is needed, and not granted");
}

/* What was agreed comes first, then what was said. What can only be guessed has no voice. */
static bool rule_combined(const struct imstest_platform *platform, struct imstest_verdict *verdict)
{
	if (rule_call(platform, verdict))
		return true;
	if (!rule_iommu(platform, verdict))
		return false;

	if (platform->vire.speaks && platform->dmar.speaks &&
	    (platform->vire.ims == IMSTEST_IMS_DIRECT) !=
	    (platform->dmar.ims == IMSTEST_IMS_DIRECT))
		return say(verdict, false, "VIRE and DMAR contradict each other");
	if (platform->vire.there)
		return rule_firmware_flag(platform, verdict);
	return rule_table_format(platform, verdict);
}

static bool (* const rules[IMSTEST_RULES])(const struct imstest_platform *platform,
					   struct imstest_verdict *verdict) = {
	[IMSTEST_RULE_IOMMU]		= rule_iommu,
	[IMSTEST_RULE_TABLE_FORMAT]	= rule_table_format,
	[IMSTEST_RULE_CACHING_MODE]	= rule_caching_mode,
	[IMSTEST_RULE_CPUID]		= rule_cpuid,
	[IMSTEST_RULE_FIRMWARE_FLAG]	= rule_firmware_flag,
	[IMSTEST_RULE_CALL]		= rule_call,
	[IMSTEST_RULE_COMBINED]		= rule_combined,
};

/**
 * imstest_policy() - what each rule says of this platform now; put one in force
 * @policy:	enforce; the rest is written
 *
 * Return: 0, -EINVAL for a rule that there is not.
 */
int imstest_policy(struct imstest_policy *policy)
{
	struct imstest_platform platform;
	unsigned int rule;

	if (policy->enforce > IMSTEST_RULE_KEEP)
		return -EINVAL;
	if (policy->enforce != IMSTEST_RULE_KEEP)
		rule_in_force = policy->enforce;

	imstest_platform(&platform);
	platform.granted = virte_granted(NULL);
	for (rule = 0; rule < IMSTEST_RULES; rule++)
		rules[rule](&platform, &policy->rules[rule]);
	policy->enforced = rule_in_force;
	return 0;
}

/**
 * imstest_policy_check() - whether a function may use IMS by the rule in force
 * @function:	the function
 *
 * The call counts where it is the one that makes the function's interrupts: what
 * was bound before the negotiation is still in the old scheme.
 *
 * Return: 0, -EPERM.
 */
int imstest_policy_check(struct imstest_function *function)
{
	struct imstest_platform platform;
	struct imstest_verdict verdict;

	if (rule_in_force == IMSTEST_RULE_NONE)
		return 0;
	imstest_platform(&platform);
	platform.granted = virte_granted(function->msi_parent);
	return rules[rule_in_force](&platform, &verdict) ? 0 : -EPERM;
}
