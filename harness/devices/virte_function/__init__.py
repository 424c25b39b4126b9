"""The function that carries the vIRTE call: docs/virte.md, layout in `harness.spec.hypercall`."""
