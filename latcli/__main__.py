"""`python -m latcli`: the same as the console script."""

from latcli.cli import main

if __name__ == "__main__":
    main()
