"""The project's own benchmarks: ratios against a named rival, measured in one run on one machine."""
