"""When, and again: one file for each intention of an operator."""
