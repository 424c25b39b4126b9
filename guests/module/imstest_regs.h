/* SPDX-License-Identifier: GPL-2.0-or-later */
/*
 * Registers, tables and descriptors of the IMS test function.
 *
 * The contract is docs/device.md, register map version 1.0. harness/spec/ims_function.py
 * states it for the device model; tests/unit/test_spec_ims_function.py parses this file
 * and compares every number, so keep one definition on a line.
 */

#ifndef IMSTEST_REGS_H
#define IMSTEST_REGS_H

#ifdef __KERNEL__
#include <linux/bits.h>
#endif
#include <linux/types.h>

#define IMSTEST_VENDOR_ID		0x494d
#define IMSTEST_DEVICE_ID		0x0001

#define IMSTEST_BAR_CONTROL		0
#define IMSTEST_BAR_MSIX		2
#define IMSTEST_BAR_IMS			4

#define IMSTEST_BAR_CONTROL_SIZE	0x10000
#define IMSTEST_BAR_MSIX_SIZE		0x10000
#define IMSTEST_BAR_IMS_SIZE		0x8000

/* In the MSI-X BAR, behind the table. */
#define IMSTEST_MSIX_PBA_OFFSET		0x8000

#define IMSTEST_MSI_MAX			32
#define IMSTEST_MSIX_MAX		2048
#define IMSTEST_IMS_ENTRIES		2048

/* Where a message is held: the number used in descriptors and event banks. */
#define IMSTEST_STORE_NONE		0
#define IMSTEST_STORE_MSI		1
#define IMSTEST_STORE_MSIX		2
#define IMSTEST_STORE_IMS		3

/* Control BAR. */
#define IMSTEST_ID			0x0000
#define  IMSTEST_ID_VALUE		0x00534d49
#define IMSTEST_VERSION			0x0004
#define  IMSTEST_VERSION_VALUE		0x00010000
#define IMSTEST_IMS_CAPABILITY		0x0008
#define  IMSTEST_IMS_CAPABILITY_ENTRIES	GENMASK(15, 0)
#define  IMSTEST_IMS_CAPABILITY_MAPPED	BIT(16)
#define IMSTEST_STATUS			0x000c
#define  IMSTEST_STATUS_WQ_ACTIVE	BIT(0)
#define  IMSTEST_STATUS_WQ_ERROR	BIT(1)
#define IMSTEST_CONTROL			0x0010
#define  IMSTEST_CONTROL_WQ_ENABLE	BIT(0)
#define  IMSTEST_CONTROL_RESET		BIT(1)
#define IMSTEST_WQ_SIZE			0x0014
#define  IMSTEST_WQ_SIZE_MAX		1024
#define IMSTEST_WQ_BASE_LO		0x0018
#define IMSTEST_WQ_BASE_HI		0x001c
#define IMSTEST_WQ_TAIL			0x0020
#define IMSTEST_WQ_HEAD			0x0024
#define IMSTEST_REFUSED			0x0028
#define IMSTEST_UNANSWERED		0x002c
#define IMSTEST_IMS_PENDING		0x0100
#define  IMSTEST_IMS_PENDING_SIZE	0x100
#define IMSTEST_EVENT_MSI		0x4000
#define IMSTEST_EVENT_MSIX		0x8000
#define IMSTEST_EVENT_IMS		0xc000
#define  IMSTEST_EVENT_SLOT_SIZE	8
#define  IMSTEST_EVENT_SLOT_SEQUENCE	GENMASK_ULL(31, 0)
#define  IMSTEST_EVENT_SLOT_CPU		GENMASK_ULL(63, 32)

/* One entry of the IMS array. */
#define IMSTEST_IMS_ADDRESS_LO		0x0
#define IMSTEST_IMS_ADDRESS_HI		0x4
#define IMSTEST_IMS_DATA		0x8
#define IMSTEST_IMS_CONTROL		0xc
#define  IMSTEST_IMS_CONTROL_MASK	BIT(0)
#define  IMSTEST_IMS_CONTROL_PASID_VALID BIT(3)
#define  IMSTEST_IMS_CONTROL_PASID	GENMASK(31, 12)
#define IMSTEST_IMS_ENTRY_SIZE		16

/* What a work descriptor asks for. */
#define IMSTEST_OPCODE_NOP		0
#define IMSTEST_OPCODE_INTERRUPT	1

/* How a work descriptor ended. */
#define IMSTEST_COMPLETION_PENDING	0
#define IMSTEST_COMPLETION_SUCCESS	1
#define IMSTEST_COMPLETION_BAD_OPCODE	2
#define IMSTEST_COMPLETION_BAD_HANDLE	3
#define IMSTEST_COMPLETION_BAD_RESERVED	4
#define IMSTEST_COMPLETION_BLOCKED	5
#define IMSTEST_COMPLETION_DISABLED	6

/**
 * struct imstest_work_descriptor - one entry of the work queue's ring
 * @opcode:	IMSTEST_OPCODE_*
 * @flags:	reserved, zero
 * @store:	IMSTEST_STORE_* of the interrupt to raise
 * @index:	its index in the store
 * @cookie:	comes back in the completion record
 * @completion:	I/O virtual address of the completion record, 0: none
 * @reserved:	zero
 */
struct imstest_work_descriptor {
	__u8 opcode;
	__u8 flags;
	__le16 store;
	__le32 index;
	__le64 cookie;
	__le64 completion;
	__le64 reserved;
};

/**
 * struct imstest_completion_record - written by the device, status last
 * @status:	IMSTEST_COMPLETION_*
 * @sequence:	sequence number of the event that was raised, 0: none
 * @cookie:	the descriptor's
 */
struct imstest_completion_record {
	__le32 status;
	__le32 sequence;
	__le64 cookie;
};

#endif /* IMSTEST_REGS_H */
