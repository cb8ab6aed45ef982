"""What runs as a process or an actor, or is called by Ray."""
