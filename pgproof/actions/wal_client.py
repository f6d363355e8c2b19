"""What PostgreSQL starts for each WAL file: asks the resident worker over its socket, and starts one if need be.

    python -I -S wal_client.py fetch NAME DESTINATION -- START…
    python -I -S wal_client.py push PATH -- START…

It stands alone and imports nothing that takes time. It needs no secret: the worker has the repository open. Its
exit status is the worker's; without an answer 255 for a fetch, which is never an absence, and 4 for a push.
"""

import _socket
import posix
import sys

SILENCE = {"fetch": 255, "push": 4}
_LINE = 65536


class Silent(Exception):
    """No worker answers."""


def ask(folder: str, words: list[str]) -> tuple[int, str]:
    """The worker's status and message. Raises Silent if there is no worker, or it ended over this."""
    channel = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
    try:
        # The folder is private: whoever listens there is the user we are, or root.
        state = posix.lstat(folder)
        if state.st_uid not in (posix.geteuid(), 0) or state.st_mode & 0o77:
            raise Silent(f"others can reach {folder}")
        channel.connect(f"{folder}/socket")
        channel.send(("\0".join(words) + "\n").encode())
        answer = b""
        while len(answer) < _LINE and (more := channel.recv(_LINE)):
            answer += more
    except OSError as error:
        raise Silent(str(error)) from error
    finally:
        channel.close()
    status, _space, message = answer.decode("utf-8", "replace").partition(" ")
    if not status.isdigit() or not message.endswith("\n"):
        raise Silent("the worker ended over this request")
    return int(status), message.strip()


def start(command: list[str], folder: str) -> None:
    """Run what starts a worker; it returns when the worker listens. Raises Silent if it fails."""
    pid = posix.posix_spawn(command[0], [*command, folder], posix.environ)
    _pid, status = posix.waitpid(pid, 0)
    if status:
        raise Silent(f"the worker did not start (status {posix.waitstatus_to_exitcode(status)})")


def main(arguments: list[str]) -> int:
    end = arguments.index("--")
    (verb, subject, *destination), command = arguments[:end], arguments[end + 1 :]
    if verb == "push":
        head, _slash, name = subject.rpartition("/")
        # Sent in full: the worker may have another working directory.
        where = head if head.startswith("/") else f"{posix.getcwd()}/{head}".rstrip("/")
        folder, words = f"{head or '.'}/pgproof", ["push", f"{where}/{name}"]
    else:
        folder, words = "pg_wal/pgproof", ["fetch", subject]
    try:
        try:
            status, message = ask(folder, words)
        except Silent:
            start(command, folder)
            status, message = ask(folder, words)
        if status == 0 and verb == "fetch":
            posix.rename(f"{folder}/served.{subject}", destination[0])
    except (Silent, OSError) as error:
        status, message = SILENCE[verb], str(error)
    if message:
        sys.stderr.write(f"pgproof: {message}\n")
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
