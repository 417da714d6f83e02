"""`python -m scopehouse` is the command."""

from scopehouse.cli import main

main()
