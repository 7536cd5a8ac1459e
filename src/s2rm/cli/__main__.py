"""`python -m s2rm.cli`, as launchers of several processes start it."""

from s2rm.cli import main

main()
