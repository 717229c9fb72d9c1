"""The run folder and what is built from it: where text first meets tensors. Imports data, model and search."""
