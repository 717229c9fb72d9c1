"""Parallel text: reading, splitting, tokenising, and the prepared folder. Imports only the ground; never torch."""
