"""microlab: segment real micrographs without drawing a single label."""

__version__ = "0.1.0"
