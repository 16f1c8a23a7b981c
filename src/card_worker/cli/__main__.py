"""`python -m card_worker.cli`: the command line, wherever its script is installed."""

from card_worker.cli import main

main()
