"""`python -m boomerang`."""

from .cli import main

main()
