"""`python -m projtrans`."""

from projtrans.cli import main

main()
