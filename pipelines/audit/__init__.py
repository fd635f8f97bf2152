"""Stored features against those that the encoder gives now, in numbers and in training loss."""
