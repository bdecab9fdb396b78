"""Looks learnt from micrographs, and pairs of image and mask drawn from a learnt distribution."""
