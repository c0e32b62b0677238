"""Differential Information: the experiments of Won et al. as plain programs over Parquet tables and model folders."""

__version__ = "0.1.0"
