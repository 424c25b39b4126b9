/* SPDX-License-Identifier: GPL-2.0-or-later WITH Linux-syscall-note */
/*
 * ioctls of /dev/imstest. See docs/guest-module.md.
 *
 * An error is the kernel's own errno, passed on. The argument is written back
 * in every case, so that "done" is good after an error as well.
 */

#ifndef IMSTEST_UAPI_H
#define IMSTEST_UAPI_H

#include <linux/ioctl.h>
#include <linux/types.h>

#define IMSTEST_PATH		"/dev/imstest"

/* imstest_range.index: the first run of free entries (IMS), the next free entry (MSI-X). */
#define IMSTEST_ANY		0xffffffffU

/**
 * struct imstest_range - some interrupts of one store, and what to do with them
 * @function:	number of the function, counted from 0 in the order of binding
 * @store:	IMSTEST_STORE_*
 * @index:	first index
 * @count:	how many; 0: every one that is allocated in the store
 * @argument:	ALLOC: the least count to be content with, 0: all of @count;
 *		MOVE: the CPU; CYCLE: rounds
 * @done:	out: how many were done before the error; CYCLE: whole rounds
 * @nanoseconds: out: how long it took
 * @bound:	ALLOC of IMS entries: 1: bind them to @pasid
 * @pasid:	20 bits
 *
 * ALLOC of IMS entries does all or none. The others stop at the first error
 * and leave what was done.
 */
struct imstest_range {
	__u32 function;
	__u32 store;
	__u32 index;
	__u32 count;
	__u32 argument;
	__u32 done;
	__u64 nanoseconds;
	__u32 bound;
	__u32 pasid;
};

/**
 * struct imstest_fire - raise an interrupt by a work descriptor
 * @function:	number of the function
 * @store:	IMSTEST_STORE_*, passed to the device unchecked
 * @index:	index in the store, passed to the device unchecked
 * @timeout_ms:	bound of the wait for the completion record
 * @status:	out: IMSTEST_COMPLETION_*
 * @sequence:	out: the event's sequence number
 * @device:	out: the STATUS register after the wait
 * @cpu:	MOVE_FIRE: the CPU to move to first; out: the effective CPU then,
 *		-1: none
 */
struct imstest_fire {
	__u32 function;
	__u32 store;
	__u32 index;
	__u32 timeout_ms;
	__u32 status;
	__u32 sequence;
	__u32 device;
	__s32 cpu;
};

#define IMSTEST_REQUESTED	(1U << 0)	/* has a handler */
#define IMSTEST_MASKED		(1U << 1)	/* masked by the MASK ioctl */

/**
 * struct imstest_facts - one interrupt, as the kernel knows it
 * @function:	number of the function
 * @store:	IMSTEST_STORE_*
 * @index:	in: where to look from; out: the first allocated index at or after it
 * @virq:	Linux interrupt number
 * @hwirq:	number in the topmost domain
 * @state:	IMSTEST_REQUESTED, IMSTEST_MASKED
 * @cpu:	effective CPU, -1: none
 * @vector:	CPU vector, 0: none
 * @destination: APIC id of the destination
 * @cached_address: message as the kernel last wrote it to the store
 * @cached_data: its data
 * @composed_data: data of the message that the hierarchy composes now
 * @composed_address: its address
 * @last_sequence: sequence number that the handler saw last
 * @spurious:	how often the handler ran and found no event
 * @cpus:	in: room in @counts; out: number of possible CPUs
 * @reserved:	0
 * @counts:	user pointer to __u32[@cpus]: handler runs by CPU
 */
struct imstest_facts {
	__u32 function;
	__u32 store;
	__u32 index;
	__u32 virq;
	__u64 hwirq;
	__u32 state;
	__s32 cpu;
	__u32 vector;
	__u32 destination;
	__u64 cached_address;
	__u32 cached_data;
	__u32 composed_data;
	__u64 composed_address;
	__u32 last_sequence;
	__u32 spurious;
	__u32 cpus;
	__u32 reserved;
	__u64 counts;
};

/**
 * struct imstest_stored - the message as it stands in the store
 * @function:	number of the function
 * @store:	IMSTEST_STORE_*
 * @index:	index in the store
 * @masked:	out: its mask bit; 0 where the store has none
 * @address:	out
 * @data:	out; of an MSI message: with the low bits that name it
 * @pending:	out: its pending bit, of MSI's register, the PBA or IMS_PENDING;
 *		0 where MSI has no such register
 *
 * Read from the device: in a guest this may trap. WRITE takes address and data.
 */
struct imstest_stored {
	__u32 function;
	__u32 store;
	__u32 index;
	__u32 masked;
	__u64 address;
	__u32 data;
	__u32 pending;
};

#define IMSTEST_HAS_REMAPPING	(1U << 0)	/* the MSI parent is a remapping domain */
#define IMSTEST_HAS_DYNAMIC_MSIX (1U << 1)	/* MSI-X vectors can be added one by one */
#define IMSTEST_IMS_MAPPED	(1U << 2)	/* the device may map its IMS array */
#define IMSTEST_HAS_IMS		(1U << 3)	/* there is an IMS domain */
#define IMSTEST_IMS_BY_KERNEL	(1U << 4)	/* and the kernel's PCI core made it */

/**
 * struct imstest_function_facts - one function
 * @function:	in: its number
 * @features:	IMSTEST_HAS_*, IMSTEST_IMS_*
 * @slot:	PCI name
 * @msi_parent:	name of the domain that IMS and per-device domains stack on
 * @msi_max:	messages in the MSI capability, 0: none
 * @msix_max:	entries in the MSI-X table, 0: none
 * @ims_max:	entries in the IMS array
 * @msi:	allocated MSI messages
 * @msix:	allocated MSI-X vectors
 * @ims:	allocated IMS entries
 * @placeholders: remapping entries that HOLD has taken
 * @status:	the STATUS register
 * @refused:	the REFUSED register
 * @unanswered:	the UNANSWERED register
 */
struct imstest_function_facts {
	__u32 function;
	__u32 features;
	char slot[32];
	char msi_parent[64];
	__u32 msi_max;
	__u32 msix_max;
	__u32 ims_max;
	__u32 msi;
	__u32 msix;
	__u32 ims;
	__u32 placeholders;
	__u32 status;
	__u32 refused;
	__u32 unanswered;
};

/**
 * struct imstest_hold - placeholders in the remapping table
 * @function:	number of the function
 * @count:	HOLD: how many entries to take, 0: until the kernel refuses
 * @done:	out: entries taken or given back by this call
 * @total:	out: entries held now
 */
struct imstest_hold {
	__u32 function;
	__u32 count;
	__u32 done;
	__u32 total;
};

#define IMSTEST_LEVELS		6

/**
 * struct imstest_level - one level of an interrupt's domain hierarchy
 * @domain:	name of the domain, "" for none
 * @chip:	name of the chip, "" for none
 * @hwirq:	number in that domain
 */
struct imstest_level {
	char domain[64];
	char chip[32];
	__u64 hwirq;
};

#define IMSTEST_IRQ_ACTIVATED	(1U << 0)	/* the hierarchy is activated */
#define IMSTEST_IRQ_STARTED	(1U << 1)	/* it has a handler and was started */
#define IMSTEST_IRQ_MASKED	(1U << 2)	/* masked at its chip */
#define IMSTEST_IRQ_HAS_MESSAGE	(1U << 3)	/* a chip of the hierarchy composes a message */
#define IMSTEST_IRQ_HAS_VECTOR	(1U << 4)	/* the hierarchy ends in the vector domain */
#define IMSTEST_IRQ_LEVEL	(1U << 5)	/* level triggered */

/**
 * struct imstest_irq - one Linux interrupt of the machine
 * @virq:	Linux interrupt number
 * @flags:	IMSTEST_IRQ_*
 * @cpu:	effective CPU, -1: none
 * @vector:	CPU vector
 * @destination: APIC id of the destination
 * @message_data: data of the message that the hierarchy composes
 * @message_address: its address
 * @depth:	number of levels, which may exceed IMSTEST_LEVELS
 * @reserved:	0
 * @levels:	from the chip next to the device down to the CPU's
 */
struct imstest_irq {
	__u32 virq;
	__u32 flags;
	__s32 cpu;
	__u32 vector;
	__u32 destination;
	__u32 message_data;
	__u64 message_address;
	__u32 depth;
	__u32 reserved;
	struct imstest_level levels[IMSTEST_LEVELS];
};

/**
 * struct imstest_irqs - a slice of the machine's interrupts
 * @first:	in: least interrupt number; out: where to go on
 * @count:	in: room at @irqs; out: how many were written, 0: no more
 * @irqs:	user pointer to struct imstest_irq[]
 */
struct imstest_irqs {
	__u32 first;
	__u32 count;
	__u64 irqs;
};

/**
 * enum imstest_rule - may this kernel use IMS? What goes by what
 * @IMSTEST_RULE_IOMMU: there is an IOMMU, and it remaps interrupts
 * @IMSTEST_RULE_TABLE_FORMAT: the DMAR table is of the new format, and allows it
 * @IMSTEST_RULE_CACHING_MODE: no remapping unit is in caching mode
 * @IMSTEST_RULE_CPUID: CPUID shows no hypervisor
 * @IMSTEST_RULE_FIRMWARE_FLAG: the table VIRE
 * @IMSTEST_RULE_CALL: the vIRTE call was negotiated
 * @IMSTEST_RULE_COMBINED: all of them
 * @IMSTEST_RULES: how many there are
 * @IMSTEST_RULE_NONE: ENFORCE: no rule, IMS is allowed
 * @IMSTEST_RULE_KEEP: ENFORCE: as it is
 */
enum imstest_rule {
	IMSTEST_RULE_IOMMU,
	IMSTEST_RULE_TABLE_FORMAT,
	IMSTEST_RULE_CACHING_MODE,
	IMSTEST_RULE_CPUID,
	IMSTEST_RULE_FIRMWARE_FLAG,
	IMSTEST_RULE_CALL,
	IMSTEST_RULE_COMBINED,
	IMSTEST_RULES,
	IMSTEST_RULE_NONE = IMSTEST_RULES,
	IMSTEST_RULE_KEEP,
};

/**
 * struct imstest_verdict - what a rule says
 * @allowed:	1: IMS may be used
 * @why:	in words
 */
struct imstest_verdict {
	__u32 allowed;
	char why[76];
};

/**
 * struct imstest_policy - what every rule says, and which one is in force
 * @enforce:	in: the rule that allocations of IMS entries obey from now on
 * @enforced:	out: the rule that they obey
 * @rules:	out: by enum imstest_rule
 */
struct imstest_policy {
	__u32 enforce;
	__u32 enforced;
	struct imstest_verdict rules[IMSTEST_RULES];
};

#define IMSTEST_IOC_FUNCTION	_IOWR('I', 0x00, struct imstest_function_facts)
#define IMSTEST_IOC_ALLOC	_IOWR('I', 0x01, struct imstest_range)
#define IMSTEST_IOC_REQUEST	_IOWR('I', 0x02, struct imstest_range)
#define IMSTEST_IOC_RELEASE	_IOWR('I', 0x03, struct imstest_range)
#define IMSTEST_IOC_FREE	_IOWR('I', 0x04, struct imstest_range)
#define IMSTEST_IOC_MASK	_IOWR('I', 0x05, struct imstest_range)
#define IMSTEST_IOC_UNMASK	_IOWR('I', 0x06, struct imstest_range)
#define IMSTEST_IOC_MOVE	_IOWR('I', 0x07, struct imstest_range)
#define IMSTEST_IOC_CYCLE	_IOWR('I', 0x08, struct imstest_range)
#define IMSTEST_IOC_FIRE	_IOWR('I', 0x09, struct imstest_fire)
#define IMSTEST_IOC_FACTS	_IOWR('I', 0x0a, struct imstest_facts)
#define IMSTEST_IOC_STORED	_IOWR('I', 0x0b, struct imstest_stored)
#define IMSTEST_IOC_HOLD	_IOWR('I', 0x0c, struct imstest_hold)
#define IMSTEST_IOC_DROP	_IOWR('I', 0x0d, struct imstest_hold)
#define IMSTEST_IOC_RESET	_IOWR('I', 0x0e, struct imstest_hold)
#define IMSTEST_IOC_IRQS	_IOWR('I', 0x0f, struct imstest_irqs)
#define IMSTEST_IOC_MOVE_FIRE	_IOWR('I', 0x10, struct imstest_fire)
#define IMSTEST_IOC_WRITE	_IOWR('I', 0x11, struct imstest_stored)
#define IMSTEST_IOC_POLICY	_IOWR('I', 0x20, struct imstest_policy)

#endif /* IMSTEST_UAPI_H */
