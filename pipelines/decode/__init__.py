"""Decoding in another process: a file that hangs, crashes or eats memory is rejected, and nothing else."""
