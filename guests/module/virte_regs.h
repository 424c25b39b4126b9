/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Registers and frames of the vIRTE call.
 *
 * The contract is docs/virte.md, version 1.0. harness/spec/hypercall.py states it
 * for the hypervisor model; tests/unit/test_spec_hypercall.py parses this file and
 * compares every number, so keep one definition on a line.
 */

#ifndef VIRTE_REGS_H
#define VIRTE_REGS_H

#include <linux/bits.h>
#include <linux/types.h>

#define VIRTE_VENDOR_ID			0x494d
#define VIRTE_DEVICE_ID			0x0002

#define VIRTE_BAR_REGISTERS		0
#define VIRTE_BAR_FRAMES		2
#define VIRTE_BAR_DOORBELLS		4

#define VIRTE_ID			0x0000
#define  VIRTE_ID_VALUE			0x54524956
#define VIRTE_VERSION			0x0004
#define  VIRTE_VERSION_1_0		0x00010000
#define VIRTE_FEATURES			0x0008
#define  VIRTE_FEATURE_MSI		BIT(0)
#define  VIRTE_FEATURE_MSIX		BIT(1)
#define  VIRTE_FEATURE_IMS		BIT(2)
#define  VIRTE_FEATURE_PASID		BIT(3)
#define  VIRTE_FEATURE_QUENCH		BIT(4)
#define VIRTE_STATUS			0x0010
#define VIRTE_CALL			0x1000

#define VIRTE_FRAMES			16
#define VIRTE_FRAME_SIZE		0x2000
#define VIRTE_FRAME_ENTRIES		64

#define VIRTE_OPERATION_NEGOTIATE	1
#define VIRTE_OPERATION_RELEASE		2
#define VIRTE_OPERATION_MAP		3
#define VIRTE_OPERATION_RETARGET	4
#define VIRTE_OPERATION_UNMAP		5
#define VIRTE_OPERATION_QUERY		6
#define VIRTE_OPERATION_REVIVE		7

#define VIRTE_NOTICE_QUENCHED		BIT(1)
#define VIRTE_NOTICE_LANDING		BIT(2)
#define VIRTE_STATE_QUENCHED		BIT(1)

#define VIRTE_STATUS_OK			0
#define VIRTE_STATUS_BUSY		1
#define VIRTE_STATUS_NO_HANDLES		2
#define VIRTE_STATUS_DENIED		3
#define VIRTE_STATUS_UNSUPPORTED	4
#define VIRTE_STATUS_INVALID		5
#define VIRTE_STATUS_NO_SUCH_HANDLE	6
#define VIRTE_STATUS_NOT_NEGOTIATED	7
#define VIRTE_STATUS_FAILED		8
#define VIRTE_STATUS_NOT_ATTEMPTED	9

#define VIRTE_STORE_MSI			1
#define VIRTE_STORE_MSIX		2
#define VIRTE_STORE_IMS			3

#define VIRTE_ENTRY_PASID		BIT(0)
#define VIRTE_ENTRY_LOGICAL		BIT(1)
#define VIRTE_ENTRY_REDIRECTION_HINT	BIT(2)
#define VIRTE_ENTRY_PARKED		BIT(3)

/**
 * struct virte_entry_request - what a call asks about one interrupt
 * @store:	VIRTE_STORE_*
 * @flags:	VIRTE_ENTRY_*
 * @requester:	requester id
 * @count:	messages of a block
 * @least:	the smallest block to be content with, 0: all
 * @index:	index in the store
 * @pasid:	PASID
 * @destination: APIC id, or logical destination
 * @vector:	CPU vector
 * @delivery_mode: as in a message
 * @segment:	PCI segment
 * @handle:	of MAP's answer
 * @reserved:	0
 */
struct virte_entry_request {
	u8 store;
	u8 flags;
	__le16 requester;
	__le16 count;
	__le16 least;
	__le32 index;
	__le32 pasid;
	__le32 destination;
	u8 vector;
	u8 delivery_mode;
	__le16 segment;
	__le32 handle;
	__le32 reserved;
};

/**
 * struct virte_entry_answer - what the hypervisor answers about it
 * @status:	VIRTE_STATUS_*
 * @handle:	names the interrupt from here on
 * @address:	of the message
 * @data:	of the message
 * @granted:	messages of the block
 * @state:	parked, quenched
 * @delivered:	messages delivered
 * @blocked:	messages blocked
 */
struct virte_entry_answer {
	__le32 status;
	__le32 handle;
	__le64 address;
	__le32 data;
	__le16 granted;
	__le16 state;
	__le32 delivered;
	__le32 blocked;
};

/**
 * struct virte_call_request - the head of a frame
 * @operation:	VIRTE_OPERATION_*
 * @count:	entries that follow
 * @flags:	0
 * @version:	NEGOTIATE: version spoken
 * @features:	NEGOTIATE: features wanted
 * @reserved:	0
 */
struct virte_call_request {
	__le16 operation;
	__le16 count;
	__le32 flags;
	__le32 version;
	__le32 features;
	u8 reserved[16];
};

/**
 * struct virte_call_answer - its other half
 * @status:	VIRTE_STATUS_*
 * @done:	leading entries that ended with OK
 * @retry_us:	BUSY: microseconds to wait
 * @notices:	as the STATUS register
 * @version:	NEGOTIATE: version granted
 * @features:	NEGOTIATE: features granted
 * @reserved:	not defined
 */
struct virte_call_answer {
	__le32 status;
	__le32 done;
	__le32 retry_us;
	__le32 notices;
	__le32 version;
	__le32 features;
	u8 reserved[8];
};

/**
 * struct virte_frame - what stands where in a frame
 * @call:	what is asked
 * @called:	what is answered
 * @entries:	the same of each interrupt
 */
struct virte_frame {
	struct virte_call_request call;
	struct virte_call_answer called;
	struct {
		struct virte_entry_request request;
		struct virte_entry_answer answer;
	} entries[VIRTE_FRAME_ENTRIES];
};

#endif /* VIRTE_REGS_H */
