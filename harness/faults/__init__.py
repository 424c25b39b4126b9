"""Faults seeded into a live guest kernel, the guest module and the device model, one at a time."""
