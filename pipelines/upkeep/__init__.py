"""Upkeep: is a corpus as it was written, what differs between two, what is in the way."""
