"""Where the flows run: scripts that make a Prefect server ready, and examples for the host."""
