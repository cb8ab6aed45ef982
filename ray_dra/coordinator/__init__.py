"""The coordinator: the single writer of who has which GPU. Knows neither Ray nor a Kubernetes client."""
