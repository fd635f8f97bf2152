"""The demo: a rendered corpus in the published layouts, a small encoder and a small language model."""
