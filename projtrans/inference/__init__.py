"""Sentences in, sentences out. Imports runs and below."""
