"""Between Ray's words and core's. Pure."""
