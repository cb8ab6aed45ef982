"""One foreign library each: Ray, pynvml, the Kubernetes client, sockets. Adapters do not import each other."""
