"""`python -m s2rm`, the same as the command `s2rm`."""

from s2rm.cli import main

main()
