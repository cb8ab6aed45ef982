"""`python -m ray_dra.cli`."""

from ray_dra.cli.entry import main

main()
