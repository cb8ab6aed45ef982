"""The shell around core: the coordinator (single writer) and the agents. Imports neither Ray nor a Kubernetes client."""
