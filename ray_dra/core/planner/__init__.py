"""Where a gang goes: the ways to place bundles, each exact within its bound of work."""
