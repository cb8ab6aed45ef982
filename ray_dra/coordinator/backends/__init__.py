"""Where a gang's workers come from: raylets that are there, or pods made on Kubernetes."""
