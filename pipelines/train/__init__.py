"""Training from cached features: the model, its loss, its loop and its checkpoints."""
