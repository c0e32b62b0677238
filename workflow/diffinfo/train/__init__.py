"""Supervised fine-tuning and preference optimisation."""
