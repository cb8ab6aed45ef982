"""Raylets that are there, and what their agents read."""
