"""What a model costs and does: the papers' tables, and measurements on this machine."""
