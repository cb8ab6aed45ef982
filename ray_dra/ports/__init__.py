"""What the coordinator needs from the world: Protocols, and the plain values that cross them.

Adapters fulfil these with one library each; the fakes in `ray_dra.simulated` pass the same contract tests.
"""
