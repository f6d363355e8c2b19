"""Disks of the kernel's own that really run full, for programs and for this process alike. They need root.

A small one is full at once. A thin one is like a volume on a pool that ran out: every write succeeds, and is lost
when it is written back.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support import machine

_libc = ctypes.CDLL(None, use_errno=True)


@contextlib.contextmanager
def small_disk(megabytes: int, inodes: int = 100_000) -> Iterator[Path]:
    """A tmpfs of this size."""
    place = machine.new_dir("small")
    options = f"size={megabytes}m,nr_inodes={inodes},mode=0755"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def resize(disk: Path, megabytes: int) -> None:
    options = f"remount,size={megabytes}m,nr_inodes=100000"
    subprocess.run(["mount", "-o", options, str(disk)], check=True)


@contextlib.contextmanager
def thin_disk(below: Path) -> Iterator[Path]:
    """An ext4 that believes to have a gigabyte, on a small disk."""
    image, place = below / "image", machine.new_dir("thin")
    with image.open("wb") as file:
        file.truncate(1 << 30)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-O", "^has_journal", str(image)], check=True)
    subprocess.run(["mount", "-o", "loop", str(image), str(place)], check=True)
    try:
        place.chmod(0o755)
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


@contextlib.contextmanager
def others_sync(disk: Path) -> Iterator[None]:
    """Somebody else syncs the file system over and over, and is told of errors before we are."""
    done = threading.Event()

    def sync() -> None:
        while not done.wait(0.001):
            sync_anew(disk)

    thread = threading.Thread(target=sync)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def sync_anew(disk: Path) -> bool:
    """Sync the file system by a descriptor opened now, as a restore does; whether that succeeded."""
    fd = os.open(disk, os.O_RDONLY)
    try:
        synced = _libc.syncfs(fd) == 0
        os.fsync(fd)
    except OSError:
        return False
    finally:
        os.close(fd)
    return bool(synced)
