"""Benchmarks: `python -m bench NAME`. Each prints a table and can write its raw figures as JSON."""
