"""How good a checkpoint is: on examples that it has not seen, and on public benchmarks."""
