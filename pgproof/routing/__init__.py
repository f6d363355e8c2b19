"""Reads to replicas, writes to the primary: the router of an application. Asyncio, no thread and no process."""
