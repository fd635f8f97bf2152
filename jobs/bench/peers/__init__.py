"""Readers that need other versions of our libraries, in an environment of their own."""
