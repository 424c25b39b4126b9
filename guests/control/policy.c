// SPDX-License-Identifier: GPL-2.0-or-later
/* Whether IMS may be used, by the kernel module's rules. */

#include <errno.h>
#include <string.h>

#include "imstest_uapi.h"
#include "json.h"
#include "request.h"

static const char * const rule_names[] = {
	[IMSTEST_RULE_IOMMU]		= "iommu",
	[IMSTEST_RULE_TABLE_FORMAT]	= "table_format",
	[IMSTEST_RULE_CACHING_MODE]	= "caching_mode",
	[IMSTEST_RULE_CPUID]		= "cpuid",
	[IMSTEST_RULE_FIRMWARE_FLAG]	= "firmware_flag",
	[IMSTEST_RULE_CALL]		= "call",
	[IMSTEST_RULE_COMBINED]		= "combined",
	[IMSTEST_RULE_NONE]		= "none",
};

static int op_policy(struct request *request)
{
	struct imstest_policy policy = { .enforce = IMSTEST_RULE_KEEP };
	const char *word = find(request, "enforce");
	uint32_t rule;
	int error;

	if (word) {
		for (rule = 0; rule < ARRAY_SIZE(rule_names); rule++)
			if (!strcmp(word, rule_names[rule]))
				policy.enforce = rule;
		if (policy.enforce == IMSTEST_RULE_KEEP)
			return fail(request, EINVAL, "enforce=%s: no such rule", word);
	}
	error = control(request, IMSTEST_IOC_POLICY, &policy);
	if (error)
		return error;

	json_string("enforced", rule_names[policy.enforced]);
	json_open_array("rules");
	for (rule = 0; rule < IMSTEST_RULES; rule++) {
		json_open_object(NULL);
		json_string("rule", rule_names[rule]);
		json_bool("allowed", policy.rules[rule].allowed);
		json_string("why", policy.rules[rule].why);
		json_close_object();
	}
	json_close_array();
	return 0;
}

const struct operation policy_operations[] = {
	{ "policy", " enforce ", "whether IMS may be used, rule by rule: "
	  "[enforce=RULE|none: allocations obey it]", op_policy },
};

const size_t policy_operations_count = ARRAY_SIZE(policy_operations);
