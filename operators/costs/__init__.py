"""What a model costs, as arithmetic: FLOPs, key-value bytes, and time by a roofline."""
