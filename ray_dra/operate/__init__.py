"""What operators run: checks of a cluster."""
