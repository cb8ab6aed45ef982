"""What `ray-dra map` shows, as plain values: nodes and their GPUs, gangs, the page's state and its changes. Pure."""
