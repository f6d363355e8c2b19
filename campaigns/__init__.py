"""Long attacks on the engine, with a printed seed and counts: `make campaign` (docs/campaigns.md)."""
