"""microlab: segment real micrographs without drawing a single label.

In all docstrings paper A is Zahran et al. (2026, arXiv:2602.01710), paper B is Stern et al. (2024) and
paper C is Saleh et al. (2025); the book's references give them in full. Symbols are those of the book's
notation.
"""

__version__ = "0.1.0"
