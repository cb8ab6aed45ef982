"""A real Kubernetes cluster on one machine, without Docker: docs/testbed.md tells how it is made."""
