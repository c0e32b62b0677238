"""Prompts and preference pairs: sources, rows, ingest and pairs."""
