"""Between Kubernetes' objects and core's values. Pure."""
