"""Benchmarks: Arena-Hard, WildBench and question answering."""
