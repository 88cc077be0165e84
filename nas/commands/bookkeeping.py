"""DVC's part of a run, in one process: which stages are stale, what its caches hold, what dvc.lock says.

`dvc repro` runs one stage at a time, and reads and writes the whole of dvc.lock for each. Here the stages are loaded
once, several can run at the same time, and a stage rewrites only its own block of dvc.lock. The result is the same,
byte for byte: DVC's own classes decide what is stale and store outputs, in the order in which `Stage.reproduce` calls
them.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nas.records import write_text

LOCK = Path("dvc.lock")
HEAD = "schema: '2.0'\nstages:\n"


class Bookkeeping:
    """The stages of dvc.yaml. All methods may be called from several threads."""

    def __init__(self) -> None:
        from dvc.repo import Repo

        self.repo = Repo(_wait_for_lock=True)
        self._guard = threading.Lock()
        self._held: dict[str, ExitStack] = {}  # stage -> DVC's lock of its files
        with self._alone():
            self.stages: dict[str, Any] = {stage.addressing: stage for stage in self.repo.index.stages}

    def needs(self) -> dict[str, set[str]]:
        """All stages in an order in which they can run, each with those that it depends on, directly or not."""
        from dvc.repo.reproduce import get_active_graph, plan_repro
        from networkx import descendants  # type: ignore[import-untyped]

        with self._alone():
            graph = get_active_graph(self.repo.index.graph)
            steps = plan_repro(graph)
            return {step.addressing: {other.addressing for other in descendants(graph, step)} for step in steps}

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Neither another thread nor another DVC process works on the repository."""
        with self._guard, self.repo.lock:
            yield

    def stale(self, name: str) -> bool:
        with self._alone():
            return bool(self.stages[name].changed())

    def begin(self, name: str) -> str | None:
        """The command to run for this stage, whose outputs are removed; None if they are up to date or cached."""
        from dvc.stage.cache import RunCacheNotFoundError

        stage = self.stages[name]
        with self._alone(), ExitStack() as held:
            if not stage.changed():
                return None
            held.enter_context(self._files(stage))
            stage.remove_outs(ignore_remove=False, force=False)
            try:
                self.repo.stage_cache.restore(stage)
            except RunCacheNotFoundError:
                stage.save_deps()
                self._held[name] = held.pop_all()
                return str(stage.cmd)
            self._record(stage)
            return None

    def record(self, name: str) -> None:
        """The stage has made its outputs: store them, and write its block of dvc.lock."""
        with self._alone(), self._held.pop(name):
            self._record(self.stages[name])

    def abandon(self, name: str) -> None:
        """The stage has failed, and stays stale."""
        with self._alone():
            self._held.pop(name).close()

    def close(self) -> None:
        """Tell Git of dvc.lock where `core.autostage` asks for that."""
        with self._alone(), self.repo.scm_context(quiet=True) as context:
            context.track_file(str(LOCK))

    def environment(self, name: str) -> dict[str, str]:
        """What DVC tells the command of a stage."""
        return {"DVC_ROOT": self.repo.root_dir, "DVC_STAGE": name}

    def _files(self, stage: Any) -> Any:
        """DVC's lock on what a stage reads and writes, so that no other `dvc repro` touches it meanwhile."""
        from dvc.rwlock import rwlock

        reads, writes = ([item.fs_path for item in items] for items in (stage.deps, stage.outs))
        hardlink = self.repo.config["core"].get("hardlink_lock", False)
        return rwlock(self.repo.tmp_dir, self.repo.fs, " ".join(sys.argv), reads, writes, hardlink)

    def _record(self, stage: Any) -> None:
        from dvc.stage.serialize import to_lockfile

        uncached = any(not out.use_cache for out in stage.outs if not (out.is_metric or out.is_plot))
        stage.save(run_cache=not uncached)
        stage.commit()
        text = LOCK.read_text(encoding="utf-8") if LOCK.exists() else HEAD
        write_text(LOCK, updated(text, to_lockfile(stage)))


def updated(text: str, stage: Mapping[str, Any]) -> str:
    """dvc.lock with the entry of one stage, name -> content, in its place or at the end of the stages.

    DVC parses and dumps the whole file for that, which takes seconds; the bytes are the same.
    """
    from dvc.utils.serialize import dumps_yaml

    _, *block = dumps_yaml({"stages": dict(stage)}).splitlines(keepends=True)
    lines = text.splitlines(keepends=True)
    first = lines.index("stages:\n") + 1
    last = next((at for at in range(first, len(lines)) if not lines[at].startswith(" ")), len(lines))
    heads = [at for at in range(first, last) if not lines[at].startswith("   ")]
    start = next((at for at in heads if lines[at] == block[0]), last)
    end = next((at for at in heads if at > start), last)
    return "".join([*lines[:start], *block, *lines[end:]])
