"""Everything that touches a PostgreSQL server, its programs or its files."""
