"""``python -m camlucida``: the command line."""

from camlucida.cli import main

main()
