"""One library each: `nvml` (pynvml) and `ray`. They do not know each other."""
