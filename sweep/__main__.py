"""`python -m sweep`, the same as `sweep`."""

from sweep.cli import main

main()
