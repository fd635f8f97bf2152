"""Pure units, per sample or per batch: no storage, no cluster, no clock, no global randomness."""
