"""Scores against a truth, grain sizes, growth, distributions and realism."""
