"""Many training runs over one cache: what they are, what they cost, how they are run, the table of them."""
