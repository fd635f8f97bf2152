"""From sample shards to feature shards: decode, cut, encode once, keep."""
