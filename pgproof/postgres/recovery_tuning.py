"""Settings that make replay fast. They stand on the server's command line, so none is left behind."""

from __future__ import annotations

import os

_MEGABYTE = 1 << 20
_LEAST, _MOST = 64, 2048


def recovery_tuning() -> dict[str, str]:
    """For replay alone: nobody else uses the server. What is written must survive, so fsync is on."""
    return {
        "fsync": "on",
        "shared_buffers": f"{_shared_buffers()}MB",
        # Blocks that the WAL names are read ahead of their replay (PostgreSQL 15 and later).
        "recovery_prefetch": "try",
        "maintenance_io_concurrency": "64",
        "wal_decode_buffer_size": "4MB",
        # A restartpoint writes every changed page; the fewer, the better, and after a crash we begin anew.
        "max_wal_size": "16GB",
        "checkpoint_timeout": "1h",
        "checkpoint_completion_target": "0.5",
        "log_startup_progress_interval": "1s",
    }


def _shared_buffers() -> int:
    """A quarter of the memory, within bounds."""
    total = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return max(_LEAST, min(_MOST, total // 4 // _MEGABYTE))
