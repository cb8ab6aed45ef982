"""What is free: the mutable state of nodes and cliques, indexed for the planner."""
