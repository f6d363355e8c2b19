"""Everything that touches object storage."""
