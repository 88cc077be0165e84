"""Where the time of a launch goes. A slot runs one trial at a time."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from threading import Lock

from nas.project import RUNS
from nas.records import RecordError, read_json


class Times:
    """Slot-seconds by cause. `str` gives the line that the launcher prints at the end."""

    def __init__(self, slots: int) -> None:
        self.slots, self.begun = slots, time.monotonic()
        self.seconds: dict[str, float] = defaultdict(float)
        self.stages = 0
        self._guard = Lock()

    @contextmanager
    def spent(self, cause: str) -> Iterator[None]:
        begun = time.monotonic()
        try:
            yield
        finally:
            with self._guard:
                self.seconds[cause] += time.monotonic() - begun

    def ran(self, name: str, seconds: float) -> None:
        """Add the time of a stage. In a trial, its cost file holds the computing time; the rest is overhead."""
        verb, _, key = name.partition("@")
        computing = 0.0 if key else seconds
        with suppress(RecordError, KeyError, TypeError, ValueError):  # derive has no such file
            computing = float(read_json(RUNS / key / f"{verb}.cost.json")["seconds"]) if key else seconds
        with self._guard:
            self.stages += 1
            self.seconds[verb] += computing
            self.seconds["starting"] += seconds - computing

    def by_cause(self) -> dict[str, float]:
        """Slot-seconds: computing by stage, `starting` (imports, loading, writing), `DVC`, `idle` slots."""
        whole = self.slots * (time.monotonic() - self.begun)
        return {**self.seconds, "idle": max(whole - sum(self.seconds.values()), 0.0)}

    def __str__(self) -> str:
        wall, causes = time.monotonic() - self.begun, self.by_cause()
        whole = max(sum(causes.values()), 1e-9)
        shares = ", ".join(f"{cause} {100 * value / whole:.0f} %" for cause, value in causes.items() if value >= 0.5)
        return f"{self.stages} stages in {wall:.0f} s, {self.slots} at a time: {shares}"
