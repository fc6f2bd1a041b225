"""`python -m sweep`, the same as `sweep`."""

from sweep.cli.app import main

main()
