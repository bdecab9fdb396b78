"""Structures whose truth is known: Voronoi and power diagrams, phase-field grain growth, libraries."""
