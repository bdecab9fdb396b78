"""Grading submissions: each runs where it sees itself only, and its functions are judged from outside."""
