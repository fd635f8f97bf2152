"""Media wherever they lie: found by the path of a record, described by their bytes; nothing else opened."""
