"""`python -m scalesweep` is the command `scalesweep`."""

from scalesweep.cli import main

if __name__ == "__main__":
    main()
