"""`python -m s2rm`, the same as the command `s2rm`."""

from s2rm.cli import main

if __name__ == "__main__":  # not in processes that are spawned
    main()
