"""Composition: the flows from annotations to shards, features, streams and trained models."""
