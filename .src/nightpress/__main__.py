"""`python -m nightpress`: the command, for where its script is not on the PATH."""

from nightpress.jobs.cli import main

if __name__ == "__main__":
    main()
