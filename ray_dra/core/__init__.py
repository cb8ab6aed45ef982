"""The decision: topology, requests, inventory, planner and the gang's life cycle.

Standard library only; no clock, randomness, logging or I/O. Everything else in the package
carries data into this one or decisions out of it.
"""
