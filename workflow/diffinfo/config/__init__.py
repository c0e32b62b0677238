"""The configuration: its keys, rules between keys, and how files are read."""
