"""What an operator does: one synchronous function per file, joining PostgreSQL and the repository."""
