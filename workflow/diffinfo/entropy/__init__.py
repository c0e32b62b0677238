"""Entropies of policies and of the Differential Information Distribution."""
