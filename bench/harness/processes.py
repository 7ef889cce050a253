"""The measuring process, seen from outside: started, asked, and told apart from its crashes."""

import contextlib
import json
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any

BENCH = Path(__file__).resolve().parents[1]
WORKER = f"import sys; sys.path[0] = {str(BENCH)!r}; from harness import worker; worker.main()"
"""The program of the process. As a file of its own it would have the folder it is in on the path, not bench."""

GRACE = 30.0
"""Seconds after its patience for a process to say that it had none left."""


class PeerError(Exception):
    """The peer could not do what it was asked. `kind`: missing, no such rule, late, failed."""

    def __init__(self, reason: str, kind: str) -> None:
        super().__init__(reason)
        self.kind = kind


class ProcessEndedError(Exception):
    """The process crashed or hung."""


class Process:
    """One measuring process. Its log gets what the frameworks print."""

    def __init__(self, log: IO[str], patience: float, python: str = sys.executable) -> None:
        self.patience = patience
        self.process: subprocess.Popen[str] = subprocess.Popen(
            [python, "-c", WORKER, str(patience)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            text=True,
            encoding="utf-8",
        )
        self.answers: queue.Queue[str] = queue.Queue()
        self.reader = threading.Thread(target=self._read, args=(self.process.stdout,), daemon=True)
        self.reader.start()

    def _read(self, stdout: IO[str]) -> None:
        for line in stdout:
            self.answers.put(line)
        self.answers.put("")

    def ask(self, do: str, /, **arguments: Any) -> Any:
        """Have a command carried out.

        Raises:
            PeerError: it failed, and the process lives on.
            ProcessEndedError: the process is gone.
        """
        try:
            print(json.dumps({"do": do, **arguments}), file=self.process.stdin, flush=True)
            line = self.answers.get(timeout=self.patience + GRACE)
        except queue.Empty:
            self.end()
            raise ProcessEndedError(f"hung for more than {self.patience:g} seconds") from None
        except BrokenPipeError:
            line = ""
        if not line:
            code = self.process.wait()
            self.end()
            raise ProcessEndedError(how_it_ended(code))
        reply = json.loads(line)
        if "error" in reply:
            raise PeerError(reply["error"], reply["kind"])
        return reply["result"]

    def end(self) -> None:
        """End the process."""
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.reader.join(timeout=GRACE)  # a process that this one has left behind may hold the pipe open
        for pipe in (self.process.stdin, self.process.stdout):
            with contextlib.suppress(BrokenPipeError):  # a command that it did not read
                if pipe is not None and not self.reader.is_alive():
                    pipe.close()


@contextlib.contextmanager
def busy(count: int) -> Iterator[None]:
    """Run so many processes that compute all the time."""
    others = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        for other in others:
            other.kill()
            other.wait()


def how_it_ended(code: int) -> str:
    if code < 0:
        return f"crashed its process: {signal.Signals(-code).name}"
    return f"ended its process with exit code {code}"
