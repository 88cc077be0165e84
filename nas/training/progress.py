"""Lines on standard output that report the progress, speed and remaining time of a job."""

import time
from typing import Any

EVERY = 15.0  # seconds between lines within an epoch


class Progress:
    def __init__(self, name: str, epochs: int, steps: int, images: int, done: float) -> None:
        self.name, self.epochs, self.steps, self.images = name, epochs, steps, images
        self.first, self.started = done, time.monotonic()
        self.printed = self.started
        if done:
            print(f"{name}: resumes from epoch {done:.2f} of {epochs}", flush=True)

    def step(self, epoch: int, step: int) -> None:
        if time.monotonic() - self.printed > EVERY:
            self._print(f"epoch {epoch + 1}/{self.epochs}, step {step}/{self.steps}", epoch + step / self.steps)

    def epoch(self, row: dict[str, Any]) -> None:
        figures = f"loss {row['train_loss']:.3f}, acc {row['train_acc']:.1f} %"
        if "valid_acc" in row:
            figures += f", valid acc {row['valid_acc']:.1f} %"
        done = row["epoch"] + 1
        self._print(f"epoch {done}/{self.epochs}: {figures}", done)

    def _print(self, text: str, done: float) -> None:
        self.printed = time.monotonic()
        rate = (done - self.first) / max(self.printed - self.started, 1e-9)  # epochs per second
        left = (self.epochs - done) / max(rate, 1e-9)
        print(f"{self.name}  {text}  {rate * self.images:.0f} img/s  ETA {clock(left)}", flush=True)


def clock(seconds: float) -> str:
    """3725 -> 1:02:05."""
    minutes, second = divmod(round(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}"
