"""Data: micrographs in and out, public data sets by checksum, trained weights with cards."""
