"""Greedy search, beam search and sampling over a step function. Imports only the ground; never a model."""
