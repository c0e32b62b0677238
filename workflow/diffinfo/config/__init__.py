"""The configuration: its keys, what they say of each other, and how files of it are read."""
