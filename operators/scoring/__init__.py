"""The public benchmarks by their own rules: questions from their files, and a score of answers."""

from operators.scoring.question import Question, Score

__all__ = ["Question", "Score"]
