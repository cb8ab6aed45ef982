"""Clusters and records as files. Pure."""
