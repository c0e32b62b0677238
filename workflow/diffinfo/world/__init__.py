"""The micro world: a small language, its models and its benchmarks, all made from a seed."""
