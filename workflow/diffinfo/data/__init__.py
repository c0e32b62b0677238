"""Prompts and preference pairs."""
