"""Generative models that lend simulations the look of a real microscope."""
