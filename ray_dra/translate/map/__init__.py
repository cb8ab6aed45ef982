"""What `ray-dra map` shows, as plain values: nodes and their GPUs, gangs, and the page's state with its changes. Pure."""
