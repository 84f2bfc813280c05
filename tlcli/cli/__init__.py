"""Words in, words out: the only place that knows Typer and rich."""
