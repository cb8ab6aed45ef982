"""From NVML's readings to core's nodes. Pure."""
