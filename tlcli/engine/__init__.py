"""How a model is trained and judged; prints nothing, writes no run files."""
