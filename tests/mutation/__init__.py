"""Changes of the code that tests should notice, and lines that they run: `make mutants`, `make lines`."""
