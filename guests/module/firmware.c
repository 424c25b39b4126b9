// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * What firmware, remapping units and CPUs say about the platform. Nothing is
 * decided here: policy.c does that.
 *
 * A table is held against docs/ims-policy.md byte by byte before anything in it
 * is believed. Firmware is not trusted, and the kernel is content with less: it
 * only warns of a wrong check sum, and takes the first of two tables.
 */

#include <linux/acpi.h>
#include <linux/io.h>
#include <linux/mm.h>
#include <linux/sizes.h>
#include <linux/slab.h>

#include "imstest.h"

#define SIG_VIRE		"VIRE"
#define VIRE_REVISION		1
#define VIRE_LENGTH		48

#define DMAR_OLD_REVISION	1
#define DMAR_NEW_REVISION	2
#define DMAR_OLD_FLAGS		GENMASK(2, 0)
#define DMAR_IMS_ALLOWED	BIT(3)
#define DMAR_LENGTH_MAX		SZ_64K

/* VT-d specification, chapter 11 */
#define UNIT_VER		0x00
#define UNIT_CAP		0x08
#define   UNIT_CAP_CM		BIT_ULL(7)
#define UNIT_GSTS		0x1c
#define   UNIT_GSTS_IRES	BIT(25)

static __printf(2, 3) int fault(struct imstest_told *told, const char *format, ...)
{
	va_list arguments;

	va_start(arguments, format);
	vscnprintf(told->fault, sizeof(told->fault), format, arguments);
	va_end(arguments);
	return -EINVAL;
}

static int check_sum(struct imstest_told *told, const struct acpi_table_header *table)
{
	const u8 *bytes = (const u8 *)table;
	u8 sum = 0;
	u32 i;

	for (i = 0; i < table->length; i++)
		sum += bytes[i];
	return sum ? fault(told, "%.4s: wrong check sum", table->signature) : 0;
}

static int check_vire(struct imstest_told *told, const struct acpi_table_header *table)
{
	const u8 *bytes = (const u8 *)table;
	int ret;

	if (table->length != VIRE_LENGTH)
		return fault(told, "VIRE: %u bytes instead of %u", table->length, VIRE_LENGTH);
	ret = check_sum(told, table);
	if (ret)
		return ret;
	if (table->revision != VIRE_REVISION)
		return fault(told, "VIRE: revision %u is not known", table->revision);
	if (bytes[36] > IMSTEST_IMS_CALL)
		return fault(told, "VIRE: value %u is not known", bytes[36]);
	if (bytes[37] || memchr_inv(bytes + 42, 0, VIRE_LENGTH - 42))
		return fault(told, "VIRE: reserved bytes are not zero");

	told->ims = bytes[36];
	return 0;
}

/* Ask a remapping unit for its state, where the table says that it has its registers. */
static int ask_unit(struct imstest_platform *platform, u64 address)
{
	struct imstest_told *told = &platform->dmar;
	void __iomem *registers;
	u32 version, status;
	u64 capability;

	if (!address || !IS_ALIGNED(address, PAGE_SIZE) || page_is_ram(PHYS_PFN(address)))
		return fault(told, "DMAR: no remapping unit can be at %#llx", address);
	registers = ioremap(address, PAGE_SIZE);
	if (!registers)
		return fault(told, "DMAR: the unit at %#llx cannot be mapped", address);
	version = readl(registers + UNIT_VER);
	capability = readq(registers + UNIT_CAP);
	status = readl(registers + UNIT_GSTS);
	iounmap(registers);
	if (!version || !~version)
		return fault(told, "DMAR: nothing answers at %#llx", address);

	platform->units++;
	if (status & UNIT_GSTS_IRES)
		platform->remapping++;
	if (capability & UNIT_CAP_CM)
		platform->caching_mode++;
	return 0;
}

static int check_structures(struct imstest_platform *platform, const struct acpi_table_dmar *dmar)
{
	const struct acpi_dmar_hardware_unit *unit;
	const struct acpi_dmar_header *structure;
	u32 offset, left;
	int ret;

	for (offset = sizeof(*dmar); offset < dmar->header.length; offset += structure->length) {
		structure = (const void *)dmar + offset;
		left = dmar->header.length - offset;
		if (left < sizeof(*structure) || structure->length < sizeof(*structure) ||
		    structure->length > left)
			return fault(&platform->dmar, "DMAR: no structure fits at %#x", offset);
		if (structure->type != ACPI_DMAR_TYPE_HARDWARE_UNIT)
			continue;
		if (structure->length < sizeof(*unit))
			return fault(&platform->dmar, "DMAR: half a unit at %#x", offset);
		unit = (const void *)structure;
		ret = ask_unit(platform, unit->address);
		if (ret)
			return ret;
	}
	return platform->units ? 0 : fault(&platform->dmar, "DMAR: no remapping unit");
}

static int check_dmar(struct imstest_platform *platform, const struct acpi_table_header *table)
{
	const struct acpi_table_dmar *dmar = (const void *)table;
	struct imstest_told *told = &platform->dmar;
	u8 known = DMAR_OLD_FLAGS;
	int ret;

	if (table->length < sizeof(*dmar) || table->length > DMAR_LENGTH_MAX)
		return fault(told, "DMAR: %u bytes", table->length);
	ret = check_sum(told, table);
	if (ret)
		return ret;
	if (table->revision != DMAR_OLD_REVISION && table->revision != DMAR_NEW_REVISION)
		return fault(told, "DMAR: revision %u is not known", table->revision);
	if (table->revision == DMAR_NEW_REVISION)
		known |= DMAR_IMS_ALLOWED;
	if (dmar->flags & ~known)
		return fault(told, "DMAR: reserved flags are set, %#x", dmar->flags & ~known);
	if (dmar->flags & DMAR_IMS_ALLOWED && !(dmar->flags & ACPI_DMAR_INTR_REMAP))
		return fault(told, "DMAR: allows IMS without interrupt remapping");

	told->speaks = table->revision == DMAR_NEW_REVISION;
	told->ims = dmar->flags & DMAR_IMS_ALLOWED ? IMSTEST_IMS_DIRECT : IMSTEST_IMS_UNDEFINED;
	return check_structures(platform, dmar);
}

/* Return the only table of a name. A second one is a mistake, even where it says the same. */
static const struct acpi_table_header *get_table(struct imstest_told *told, char *signature)
{
	struct acpi_table_header *table, *second;
	acpi_status status;

	status = acpi_get_table(signature, 1, &table);
	if (status == AE_NOT_FOUND)
		return NULL;
	told->there = true;
	if (ACPI_FAILURE(status)) {
		fault(told, "%s: the kernel does not give it out", signature);
		return NULL;
	}
	if (ACPI_SUCCESS(acpi_get_table(signature, 2, &second))) {
		acpi_put_table(second);
		acpi_put_table(table);
		fault(told, "%s: there are two of it", signature);
		return NULL;
	}
	return table;
}

/**
 * imstest_platform() - look at the platform
 * @platform:	what was found
 */
void imstest_platform(struct imstest_platform *platform)
{
	const struct acpi_table_header *table;

	memset(platform, 0, sizeof(*platform));
	platform->hypervisor = boot_cpu_has(X86_FEATURE_HYPERVISOR);

	table = get_table(&platform->dmar, ACPI_SIG_DMAR);
	if (table) {
		platform->dmar.sound = !check_dmar(platform, table);
		acpi_put_table((struct acpi_table_header *)table);
	}

	table = get_table(&platform->vire, SIG_VIRE);
	if (table) {
		platform->vire.sound = !check_vire(&platform->vire, table);
		platform->vire.speaks = platform->vire.sound;
		acpi_put_table((struct acpi_table_header *)table);
	}
}
