"""Why there is no place: shortfalls, and what would fit instead."""
