"""Measured claims, one script each: ``python -m benchmarks.reads``, and so on.

Timings are no tests: a missed target is printed, never raised. A wrong result is raised.
"""
