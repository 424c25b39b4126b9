"""The IMS function: docs/device.md is its specification, `harness.spec.ims_function` its layout."""
