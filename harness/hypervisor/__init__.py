"""The host's side of the vIRTE call as a model: docs/virte.md says what it must do."""
