"""The shell around core: the coordinator (single writer) and the agents. Knows neither Ray nor Kubernetes."""
