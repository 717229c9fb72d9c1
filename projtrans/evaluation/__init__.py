"""Scores of a model on sentence pairs. Imports inference and below."""
