"""`python -m rlaif`: the command line, in the form that launchers of several processes take."""

from rlaif.cli import main

if __name__ == "__main__":
    main()
