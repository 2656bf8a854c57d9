"""From a data folder to a table of results: every row and seed, resumable, each figure from a file."""
