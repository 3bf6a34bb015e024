"""`python -m lrtune`."""

from lrtune.cli import main

if __name__ == "__main__":
    main()
