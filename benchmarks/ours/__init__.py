"""Kilter's side: one process a measurement, through the package's own loop, methods and sampler."""
