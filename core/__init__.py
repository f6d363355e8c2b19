"""The import names that users were promised; the engine is `pgproof`."""
