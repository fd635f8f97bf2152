"""One page about a corpus, and its data card."""
