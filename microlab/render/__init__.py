"""Rendering: how a structure looks in a microscope, and how a micrograph is prepared for a network."""
