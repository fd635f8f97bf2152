"""Stage 2: items become sample shards, WebDataset tars that anybody can read."""
