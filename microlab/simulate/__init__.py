"""Simulated structures: Voronoi tessellations, phase-field grain growth, libraries (chapters 01 to 03)."""
