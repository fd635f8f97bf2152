"""Stage 1: annotation files and media become tables of examples, media and rejects."""
