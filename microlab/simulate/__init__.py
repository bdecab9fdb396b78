"""Simulated structures: Voronoi tessellations, phase-field grain growth, libraries of them (chapters 01 to 03)."""
