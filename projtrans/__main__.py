"""`python -m projtrans`."""

from projtrans.cli.main import main

main()
