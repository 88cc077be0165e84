"""The variants of an ablation as DVC experiments: run side by side, found again by name, read from Git.

Each runs in a passing copy of the project (`dvc exp run --temp`), which DVC takes of the working tree when the variant
begins. A tree that has changed since the ablation began is refused then: variants of different code compare nothing.
"""

import json
import subprocess
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Lock
from typing import Any

from nas.commands.children import Launcher
from nas.commands.variants import Variant
from nas.config.yaml_file import parse_yaml
from nas.project import PARAMS, RUNS
from nas.report.ablation import Judged, Outcome, Searched

CODE = ("dvc.yaml", "nas", "stages")  # what the results of an experiment come from, beside its params
LOGS = Path(".nas/ablations")
BEGUN = "Reproducing experiment"  # DVC says so when the experiment has its copy
BUSY = "already works on this stage"  # said by a stage that another variant has under way


class ExperimentError(ValueError):
    """Git cannot tell what is asked of it."""


class Experiments(Launcher):
    """Runs variants; `state` is the commit of the working tree that all of them belong to."""

    def __init__(self, devices: list[str], state: str) -> None:
        super().__init__(devices)
        self.state = state
        self.entrance = Lock()

    def run_all(self, variants: Sequence[Variant]) -> dict[str, str]:
        """Label -> what went wrong, of each variant that did not finish."""
        with ThreadPoolExecutor(self.devices.qsize()) as pool:
            wrong = {v.label: text for v, text in zip(variants, pool.map(self.experiment, variants), strict=True)}
        for variant in variants:  # what a busy stage made meanwhile is in the run cache now
            if wrong[variant.label] and log_of(variant).exists() and BUSY in said(variant):
                wrong[variant.label] = self.experiment(variant)
        return {label: text for label, text in wrong.items() if text}

    def experiment(self, variant: Variant) -> str:
        """One variant, on the next free device; what went wrong, if anything did."""
        device = self.devices.get()
        try:
            with self.entrance:
                if self.stopped:
                    return "not begun"
                if not same(self.state, "--", *CODE, str(PARAMS)):
                    return f"not begun, because {PARAMS} or the code has changed since the ablation began"
                print(f"{variant.experiment}: begins, with {log_of(variant)}", flush=True)
                child = self.enter(variant, device)
            if not self.finish(child):
                return f"see {log_of(variant)}"
            print(f"{variant.experiment}: done", flush=True)
            return ""
        finally:
            self.devices.put(device)

    def enter(self, variant: Variant, device: str) -> "subprocess.Popen[bytes]":
        """Begin, and wait until DVC has taken its copy.

        Meanwhile it stashes the working tree, so no second one may begin and no signal may hit it.
        """
        options = [text for override in variant.overrides for text in ("-S", override)]
        LOGS.mkdir(parents=True, exist_ok=True)
        with log_of(variant).open("w") as output:
            if is_taken(variant.experiment):
                self.start("exp", "remove", variant.experiment, output=output).wait()
            command = ("exp", "run", "--temp", "--name", variant.experiment, *options)
            child = self.start(*command, device=device, output=output)
        while child.poll() is None and BEGUN not in said(variant):
            time.sleep(0.1)
        return child


def log_of(variant: Variant) -> Path:
    return LOGS / f"{variant.experiment}.log"


def said(variant: Variant) -> str:
    return log_of(variant).read_text(encoding="utf-8", errors="replace")


def working_state() -> str:
    """A commit of the working tree, on no branch."""
    nobody = ("-c", "user.name=nobody", "-c", "user.email=nobody")  # Git may not know who works here
    return git(*nobody, "stash", "create").strip() or git("rev-parse", "HEAD").strip()


def find(variant: Variant, state: str) -> str | None:
    """The experiment of the variant's name, params and code, by its ref; None when it has not been run."""
    for ref in git("for-each-ref", "--format=%(refname)", f"refs/exps/*/*/{variant.experiment}").split():
        params = parse_yaml(git("show", f"{ref}:./{PARAMS}"), f"{variant.experiment}:{PARAMS}")
        if params == variant.params and same(state, ref, "--", *CODE):
            return ref
    return None


def is_taken(name: str) -> bool:
    """Whether the commit that is checked out has an experiment of that name: there can be one."""
    head = git("rev-parse", "HEAD").strip()
    return bool(git("for-each-ref", f"refs/exps/{head[:2]}/{head[2:]}/{name}"))


def outcomes(variant: Variant, ref: str) -> list[Outcome]:
    """What the metrics files in an experiment say of each trial."""
    found = []
    for key, method, _ in variant.config.runs():
        sizes = metrics(variant, ref, f"{key}/derive.metrics.json")
        judged = metrics(variant, ref, f"{key}/evaluate.metrics.json")
        cost = metrics(variant, ref, f"{key}/search.cost.json") | metrics(variant, ref, f"{key}/search.metrics.json")
        cells = {name: Judged.model_validate(size | judged[name]) for name, size in sizes.items()}
        found.append(Outcome(method, Searched.model_validate(cost), cells))
    return found


def metrics(variant: Variant, ref: str, file: str) -> dict[str, Any]:
    tree = json.loads(git("show", f"{ref}:./{RUNS}/{file}"))
    return dict(tree)


def same(*arguments: str) -> bool:
    """Whether `git diff` of these finds nothing."""
    return subprocess.run(["git", "diff", "--quiet", *arguments], check=False).returncode == 0


def git(*arguments: str) -> str:
    """What a Git command prints.

    Raises:
        ExperimentError: it fails; the message is Git's.
    """
    done = subprocess.run(["git", *arguments], capture_output=True, text=True, check=False)
    if done.returncode:
        raise ExperimentError(f"git {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
