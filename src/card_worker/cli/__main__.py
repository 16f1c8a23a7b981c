"""`python -m card_worker.cli`: the command line, for who can't be sure where its script is."""

from card_worker.cli import main

main()
