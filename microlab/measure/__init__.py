"""Measurement: segmentation metrics and grain statistics."""
