"""DVC's part of a run, in one process: which stages are stale, what its caches hold, and what dvc.lock records.

`dvc repro` runs one stage at a time, and reads and writes the whole of dvc.lock for each. Here the stages are loaded
once, several can run at the same time, and each rewrites only its own block of dvc.lock. The result is the same, byte
for byte: DVC's own classes decide what is stale and store outputs, in the order in which `Stage.reproduce` calls them.
"""

import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from nas.records import write_text

PIPELINE, LOCK = "dvc.yaml", Path("dvc.lock")
HEAD = "schema: '2.0'\nstages:\n"


class BookkeepingError(ValueError):
    """DVC refuses; the message is DVC's."""


@contextmanager
def dvc_errors() -> Iterator[None]:
    """Raise BookkeepingError for any error of DVC, which passes on those of the file system."""
    from dvc.exceptions import DvcException

    try:
        yield
    except (DvcException, OSError) as error:
        raise BookkeepingError(f"{error}" + (f": {error.__cause__}" if error.__cause__ else "")) from error


class Bookkeeping:
    """The stages that `dvc repro` would look at. All methods may be called from several threads.

    Raises:
        BookkeepingError: from any method, if DVC fails: invalid dvc.yaml, missing dependency or output, busy file.
    """

    def __init__(self) -> None:
        from dvc.repo import Repo

        with dvc_errors():
            self.repo = Repo(_wait_for_lock=True)
        self._guard = threading.Lock()
        self._held: dict[str, ExitStack] = {}  # stage -> DVC's lock of its files
        with self._alone():
            stages = list(self.repo.index.stages)
            if any(stage.path_in_repo != PIPELINE for stage in stages):  # `dvc add` data, other pipelines
                stages, _ = self._plan()
        self.stages: dict[str, Any] = {stage.addressing: stage for stage in stages}

    def needs(self) -> dict[str, set[str]]:
        """All stages in an order in which they can run, each with those that it depends on, directly or not."""
        from networkx import descendants  # type: ignore[import-untyped]

        with self._alone():
            plan, graph = self._plan()
            return {step.addressing: {other.addressing for other in descendants(graph, step)} for step in plan}

    def _plan(self) -> tuple[list[Any], Any]:
        """What `dvc repro` would look at, in order, and DVC's graph. Building the graph takes a second."""
        from dvc.repo.reproduce import collect_stages, get_active_graph, plan_repro

        graph = get_active_graph(self.repo.index.graph)
        return plan_repro(graph, collect_stages(self.repo, [PIPELINE])), graph

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Hold the repository, so that neither another thread nor another DVC process works on it."""
        with dvc_errors(), self._guard, self.repo.lock:
            yield

    def stale(self, name: str) -> bool:
        with self._alone():
            return bool(self.stages[name].changed())

    def begin(self, name: str) -> str | None:
        """Prepare to run a stage: remove its outputs and return its command.

        Returns None if there is nothing to run: the outputs are up to date, have been restored from the cache, or the
        stage is one that DVC itself has brought up to date.
        """
        from dvc.stage.cache import RunCacheNotFoundError

        stage = self.stages[name]
        with self._alone(), ExitStack() as held:
            if not stage.changed():
                return None
            if not self._is_plain(stage):
                stage.reproduce()
                stage.dump(update_pipeline=False)
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
        """After a successful run: store the outputs of the stage and write its block of dvc.lock."""
        with self._alone(), self._held.pop(name):
            self._record(self.stages[name])

    def abandon(self, name: str) -> None:
        """After a failed run: release the stage, which stays stale."""
        with self._alone():
            self._held.pop(name).close()

    def close(self) -> None:
        """Add dvc.lock to Git's index if `core.autostage` is set."""
        with self._alone(), self.repo.scm_context(quiet=True) as context:
            context.track_file(str(LOCK))

    def environment(self, name: str) -> dict[str, str]:
        """The variables that DVC sets for the command of a stage."""
        return {"DVC_ROOT": self.repo.root_dir, "DVC_STAGE": name}

    @staticmethod
    def _is_plain(stage: Any) -> bool:
        """Whether a stage is one command in the project's folder. DVC itself handles lists, frozen stages and data."""
        one_line = isinstance(stage.cmd, str) and "\n" not in stage.cmd.strip()
        here = stage.path_in_repo == PIPELINE and stage.wdir == str(Path(stage.path).parent)
        return one_line and here and not stage.frozen

    def _files(self, stage: Any) -> Any:
        """DVC's lock on what a stage reads and writes, against another `dvc repro` while it runs."""
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
        if "\nstages:\n" in text:
            write_text(LOCK, updated(text, to_lockfile(stage)))
        else:  # no stages yet, or not as DVC writes them
            stage.dump(update_pipeline=False)


def updated(text: str, stage: Mapping[str, Any]) -> str:
    """The text of dvc.lock with the entry of one stage, name -> content, replaced or appended to the stages.

    DVC parses and dumps the whole file instead, which takes seconds. The bytes are the same.
    """
    from dvc.utils.serialize import dumps_yaml

    _, *block = dumps_yaml({"stages": dict(stage)}).splitlines(keepends=True)
    lines = text.splitlines(keepends=True)
    first = lines.index("stages:\n") + 1
    last = next((at for at in range(first, len(lines)) if lines[at][0] not in " #\n"), len(lines))
    heads = [at for at in range(first, last) if lines[at].startswith("  ") and lines[at][2] not in " #\n"]
    start = next((at for at in heads if lines[at] == block[0]), last)
    end = next((at for at in heads if at > start), last)
    return "".join([*lines[:start], *block, *lines[end:]])
