"""One thread for all that widgets ask of a model: nnsight traces one at a time, and a kernel must stay free to hear."""

import threading
from collections.abc import Callable, Hashable

Call = Callable[["Job"], None]


class Job:
    """A call that waits or runs. A long one looks at `cancelled` between its steps."""

    def __init__(self, key: Hashable, call: Call, failed: Callable[[Exception], None]):
        self.key, self.call, self.failed = key, call, failed
        self._cancelled = threading.Event()

    @property
    def cancelled(self) -> bool:
        return self._cancelled.is_set()

    def cancel(self) -> None:
        self._cancelled.set()


_changed = threading.Condition()
_waiting: list[Job] = []
_running: Job | None = None
_thread: threading.Thread | None = None


def submit(key: Hashable, call: Call, failed: Callable[[Exception], None]) -> Job:
    """Run `call(job)` after what waits already; a waiting call of the same key is dropped, a running one told to end.

    What the call raises is handed to `failed`.
    """
    global _thread
    job = Job(key, call, failed)
    with _changed:
        cancel(key)
        _waiting.append(job)
        if _thread is None or not _thread.is_alive():
            _thread = threading.Thread(target=_work, name="widgets", daemon=True)
            _thread.start()
        _changed.notify_all()
    return job


def cancel(key: Hashable) -> None:
    """Drop what waits under a key, and tell what runs under it to end."""
    with _changed:
        _waiting[:] = [job for job in _waiting if job.key != key]
        if _running is not None and _running.key == key:
            _running.cancel()


def pending(owner: Hashable) -> bool:
    """Whether a call waits or runs whose key is a tuple beginning with `owner`."""
    with _changed:
        jobs = [*_waiting, *([_running] if _running is not None else [])]
        return any(isinstance(job.key, tuple) and job.key[0] == owner for job in jobs)


def busy() -> bool:
    """Whether a call waits or runs."""
    with _changed:
        return bool(_waiting) or _running is not None


def cancel_all(owner: Hashable) -> None:
    """`cancel` for all keys that are tuples beginning with `owner`."""
    with _changed:
        for job in [*_waiting, *([_running] if _running is not None else [])]:
            if isinstance(job.key, tuple) and job.key[0] == owner:
                cancel(job.key)


def settle(timeout: int | float = 60) -> None:
    """Wait until nothing waits or runs. Raises TimeoutError. Not to be called by a job."""
    with _changed:
        if not _changed.wait_for(lambda: not _waiting and _running is None, timeout):
            raise TimeoutError(f"widgets are still at work after {timeout} s")


def _work() -> None:
    global _running
    while True:
        with _changed:
            _changed.wait_for(lambda: bool(_waiting))
            _running = job = _waiting.pop(0)
        try:
            job.call(job)
        except Exception as error:  # a widget shows it
            job.failed(error)
        finally:
            with _changed:
                _running = None
                _changed.notify_all()
