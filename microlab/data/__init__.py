"""Micrographs, files, pixel sizes, public data sets, trained weights and folders of results."""
