"""Segmentation: networks, classical baselines, and the step from boundaries to grains."""
