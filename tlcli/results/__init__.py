"""What a run leaves behind; plain values, no torch."""
