"""The parts that any PCI function is made of: config space, capabilities, MSI, MSI-X, accesses."""
