"""Simulated structures: Voronoi tessellations, phase-field grain growth, libraries."""
