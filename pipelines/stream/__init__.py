"""From feature shards to training examples: a planned order, ranged reads, and a state of two numbers."""
