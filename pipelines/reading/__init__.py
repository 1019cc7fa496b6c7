"""A recipe file on its way to typed values: YAML with places, layers, overrides, references, faults."""
