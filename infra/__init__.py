"""Storage and clusters: one adapter per outside thing, and no tensors."""
