"""Experiments that a chapter runs small and a study runs in full."""
