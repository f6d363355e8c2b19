"""The program of a frame worker: `python -I -S frame_worker.py DESCRIPTOR SLOTS SYS_PATH…`.

A process and not a thread: a page is hashed in 2 µs, and threads that hand the interpreter's lock to each other
that often keep the one waiting that receives. Requests come on standard input, and all workers read the same
pipe; it ends when the process that needs us ends, and so do we.
"""

from __future__ import annotations

import os
import signal
import sys


def main(descriptor: int, count: int) -> None:
    from pgproof.repository.frame_slots import Slots
    from pgproof.repository.frame_work import NOT_COMPRESSED, REPLY, REQUEST, Work, work_on

    slots = Slots(descriptor, count)
    page_key, page_size = slots.head
    # A pipe gives and takes so few bytes whole.
    while request := os.read(0, REQUEST.size):
        work, level, number, length = REQUEST.unpack(request)
        wanted = None if level == NOT_COMPRESSED else level
        codec, body = work_on(slots[number], length, Work(work), wanted, page_key, page_size)
        os.write(1, REPLY.pack(work, codec, number, body))


if __name__ == "__main__":
    # Whoever started us is asked to stop as well, and decides what becomes of us.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.path[:0] = sys.argv[3:]
    main(int(sys.argv[1]), int(sys.argv[2]))
