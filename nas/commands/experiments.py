"""The variants of an ablation as DVC experiments: run in parallel, looked up by name, read from Git.

Each runs in a temporary copy of the project (`dvc exp run --temp`), which DVC makes from the working tree when the
variant starts. If code or params.yaml have changed since the ablation started, the variant is refused: variants of
different code cannot be compared.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from nas.commands.launch import Launcher
from nas.commands.variants import Variant
from nas.config.yaml_file import parse_yaml
from nas.project import PARAMS, RUNS
from nas.report.ablation import Found, Outcome, Searched

CODE = ("dvc.yaml", "nas", "stages")  # what an experiment's results depend on, in addition to its params
LOGS = Path(".nas/ablations")
STARTED = "Reproducing experiment"  # DVC prints it once the experiment has its copy
BUSY = "is already running this stage"  # a stage prints it if another variant is running the same work


class ExperimentError(ValueError):
    """A Git command failed."""


class Experiments(Launcher):
    """Runs variants. `state` is a commit of the working tree that all of them start from."""

    def __init__(self, devices: list[str], state: str) -> None:
        super().__init__(devices)
        self.state = state
        self.entrance = Lock()

    def run_all(self, variants: Sequence[Variant]) -> dict[str, str]:
        """Label -> what went wrong, of each variant that did not finish."""
        with ThreadPoolExecutor(self.devices.qsize()) as pool:
            wrong = {v.label: text for v, text in zip(variants, pool.map(self.experiment, variants), strict=True)}
        for variant in variants:  # the outputs of a stage that was busy are in the run cache now
            if wrong[variant.label] and log_of(variant).exists() and BUSY in log_text(variant):
                wrong[variant.label] = self.experiment(variant)
        return {label: text for label, text in wrong.items() if text}

    def experiment(self, variant: Variant) -> str:
        """Run one variant on the next free device; returns what went wrong, or an empty text."""
        device = self.devices.get()
        try:
            with self.entrance:
                if self.stopped:
                    return "not started"
                if not same(self.state, "--", *CODE, str(PARAMS)):
                    return f"not started, because {PARAMS} or the code has changed since the ablation started"
                print(f"{variant.experiment}: started, see {log_of(variant)}", flush=True)
                child = self.enter(variant, device)
            if not self.finish(child):
                return f"see {log_of(variant)}"
            print(f"{variant.experiment}: done", flush=True)
            return ""
        finally:
            self.devices.put(device)

    def enter(self, variant: Variant, device: str) -> "subprocess.Popen[bytes]":
        """Start a variant, and wait until DVC has made its copy.

        Until then DVC has the working tree stashed, so no other variant may start and no signal may interrupt it.
        """
        options = [text for override in variant.overrides for text in ("-S", override)]
        LOGS.mkdir(parents=True, exist_ok=True)
        with log_of(variant).open("w") as output:
            if is_taken(variant.experiment):
                self.start("exp", "remove", variant.experiment, output=output).wait()
            command = ("exp", "run", "--temp", "--name", variant.experiment, *options)
            child = self.start(*command, device=device, output=output)
        while child.poll() is None and STARTED not in log_text(variant):
            time.sleep(0.1)
        return child


def log_of(variant: Variant) -> Path:
    return LOGS / f"{variant.experiment}.log"


def log_text(variant: Variant) -> str:
    return log_of(variant).read_text(encoding="utf-8", errors="replace")


def working_state() -> str:
    """A commit of the working tree that is on no branch."""
    nobody = ("-c", "user.name=nobody", "-c", "user.email=nobody")  # Git may have no user configured
    return git(*nobody, "stash", "create").strip() or git("rev-parse", "HEAD").strip()


def find(variant: Variant, state: str) -> str | None:
    """The ref of the experiment with the variant's name, params and code; None if it has not been run."""
    for ref in git("for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{variant.experiment}").split():
        params = parse_yaml(git("show", f"{ref}:./{PARAMS}"), f"{variant.experiment}:{PARAMS}")
        if params == variant.params and same(state, ref, "--", *CODE):
            return ref
    return None


def is_taken(name: str) -> bool:
    """Whether the current commit has an experiment of that name; it can have only one."""
    head = git("rev-parse", "HEAD").strip()
    return bool(git("for-each-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}"))


def outcomes(variant: Variant, ref: str) -> list[Outcome]:
    """The metrics of each trial of an experiment."""
    outcomes = []
    for key, method, _ in variant.config.runs():
        sizes = metrics(variant, ref, f"{key}/derive.metrics.json")
        judged = metrics(variant, ref, f"{key}/evaluate.metrics.json")
        cost = metrics(variant, ref, f"{key}/search.cost.json") | metrics(variant, ref, f"{key}/search.metrics.json")
        cells = {name: Found.model_validate(size | judged[name]) for name, size in sizes.items()}
        outcomes.append(Outcome(method, Searched.model_validate(cost), cells))
    return outcomes


def metrics(variant: Variant, ref: str, file: str) -> dict[str, Any]:
    tree = json.loads(git("show", f"{ref}:./{RUNS}/{file}"))
    return dict(tree)


def same(*arguments: str) -> bool:
    """Whether `git diff` with these arguments reports no difference."""
    return subprocess.run(["git", "diff", "--quiet", *arguments], check=False).returncode == 0


def git(*arguments: str) -> str:
    """Run a Git command and return what it prints.

    Raises:
        ExperimentError: the command fails; the message is Git's.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExperimentError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
