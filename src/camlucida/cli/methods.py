"""``camlucida methods``: the methods with their formulas and papers."""


def methods() -> None:
    """List the methods with their formulas and papers."""
    from camlucida.cli.printing import two_columns
    from camlucida.methods.registry import METHODS

    two_columns((name, f"{method.summary}; {method.unit}; {method.paper}") for name, method in METHODS.items())
