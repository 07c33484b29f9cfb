"""Benchmarks: accuracy on cases with exact truth, and speed against other programs in the same run."""
