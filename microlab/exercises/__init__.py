"""Checks behind the book's exercises: the reader hands in an answer and is told what is wrong with it.

    from microlab import exercises

    exercises.check("voronoi-ex-needle", needle_over_mean)

The first argument is the exercise's label in the book. One module per chapter holds its checks. They need no
network, and less than a second each.
"""

from microlab.exercises.core import Feedback, check, labels

__all__ = ["Feedback", "check", "labels"]
