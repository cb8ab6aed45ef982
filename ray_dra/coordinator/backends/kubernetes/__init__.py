"""Workers that are made on Kubernetes, with claims of their own."""
