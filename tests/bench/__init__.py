"""Tests of the benchmark: its measuring, its table, and one tiny run."""
