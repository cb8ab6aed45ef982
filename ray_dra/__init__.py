"""ray-dra."""
