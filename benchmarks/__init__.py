"""Benchmarks of the package against the same work written by hand; see README.md."""
