"""What the flows share: settings, retries, progress, reports. Nothing here knows PostgreSQL."""
