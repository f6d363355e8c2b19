"""Run one command and tell what it cost: the program that `bench.measure` starts for every measurement.

Input on stdin: a JSON object with `argv`, `env` and `log` (a file for what the command says). Output on stdout: its
exit status, wall seconds, CPU seconds of it and all its descendants, and the peak memory of the largest of them.
It imports little, because a process inherits the peak memory of what started it.
"""

import ctypes
import json
import os
import resource
import signal
import sys
import time

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36


def main() -> None:
    wanted = json.load(sys.stdin)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
    # Descendants that outlive their parent become our children, so that their CPU seconds are counted too.
    libc.prctl(PR_SET_CHILD_SUBREAPER, 1)
    os.chdir("/")
    log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    actions = [(os.POSIX_SPAWN_DUP2, log, 1), (os.POSIX_SPAWN_DUP2, log, 2)]
    begun = time.perf_counter()
    pid = os.posix_spawnp(wanted["argv"][0], wanted["argv"], wanted["env"], file_actions=actions)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    wall = time.perf_counter() - begun
    while True:
        try:
            os.wait()
        except ChildProcessError:
            break
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = usage.ru_utime + usage.ru_stime
    json.dump({"status": status, "wall": wall, "cpu": cpu, "largest_kb": usage.ru_maxrss}, sys.stdout)


if __name__ == "__main__":
    main()
