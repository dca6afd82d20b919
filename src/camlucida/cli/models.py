"""``camlucida models``: where models can come from."""


def models() -> None:
    """List where models can come from."""
    from camlucida.cli.printing import two_columns
    from camlucida.models import SOURCES

    two_columns((source.pattern, source.summary) for source in SOURCES)
