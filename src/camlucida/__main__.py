"""``python -m camlucida``: the command line."""

from camlucida.cli.app import main

main()
