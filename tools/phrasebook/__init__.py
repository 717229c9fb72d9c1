"""The lexicon and grammar that generate the bundled corpus; `python -m tools.phrasebook` writes it into the package."""
