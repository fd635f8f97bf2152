"""Bytes of the key-value cache, and how many frames fit beside a model's weights.

What a frame costs is what stays: its keys and values in the language model. Room for what is computed in
between is left out, and said so where published figures have it.
"""

from operators.costs.shapes import LanguageShape


def count_key_value_bytes(llm: LanguageShape, tokens: int, bytes_per_number: int = 2) -> int:
    """Keys and values of so many tokens, all layers."""
    return 2 * llm.layers * llm.key_value_width * bytes_per_number * tokens


def count_frames_that_fit(memory_bytes: int, weight_bytes: int, frame_bytes: int) -> int:
    """Whole frames in what the weights leave free; 0 where they leave nothing."""
    return max(0, (memory_bytes - weight_bytes) // frame_bytes)
