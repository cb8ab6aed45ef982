"""Pure translations between foreign shapes and core's: NVML readings, Ray bundles and labels, records, pictures."""
