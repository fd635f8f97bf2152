"""Rows of annotation files, in ranges that workers read by themselves, with the place of every fault."""
