"""Stage `retrain`: train every found architecture from scratch, by one recipe for all methods."""

from typing import TYPE_CHECKING, Any

import typer

from nas.project import PREPARED, clear_errors

if TYPE_CHECKING:
    from stages.trial import Trial

app = typer.Typer(add_completion=False)


@app.command()
@clear_errors
def retrain(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Retrain the architectures of RUN, each with every retrain seed. Goes on from checkpoints when it was stopped."""
    from stages.trial import trial

    with trial("retrain", run) as work:
        run_retrain(work)


def run_retrain(work: "Trial") -> None:
    """Train every network, then write the records."""
    from statistics import fmean

    from nas.data.dataset import load_split
    from nas.records import read_record, write_json, write_record
    from nas.registry import seed_name
    from nas.spaces.registry import get_space
    from nas.training.loop import run as run_loop
    from nas.training.retrain import RetrainJob, description, save_weights, weights_file, weights_of
    from nas.training.search import image_form

    recipe = work.config.retrain
    found = read_record(work.folder / "architectures.json", "architectures")["architectures"]
    data = load_split(PREPARED, "retrain", work.device)
    history, results, seconds, resumed = [], [], 0.0, 0
    several = len(found) * len(recipe.seeds) > 1
    for entry in found:
        space, sized = get_space(entry["architecture"]["space"]), recipe.at(entry["channels"])
        about = description(entry["architecture"], sized, data.spec)
        for seed in recipe.seeds:
            name = f"{entry['name']}-{seed}"
            job = RetrainJob(
                sized,
                space,
                space.parse(entry["architecture"]),
                f"{seed_name(work.method)}-{work.seed} {entry['name']}",
                seed,
                data,
                image_form(data.spec),
                work.config.runtime.precision,
                work.config.runtime.graphs,
            )
            label = {"architecture": entry["name"], "seed": seed}

            def show(row: dict[str, Any], prefix: str = f"{name}." if several else "") -> None:
                work.tracker.log_epoch({prefix + k: v for k, v in row.items()}, step=row["epoch"])

            outcome = run_loop(job, work.checkpoint(name), show)
            folder = work.folder / "weights"
            for epoch, weights in job.earlier.items():
                save_weights(weights, folder / weights_file(entry["name"], seed, epoch), about)
            save_weights(weights_of(job.result()), folder / weights_file(entry["name"], seed), about)
            last = {key: outcome.history[-1][key] for key in ("train_loss", "train_acc")}
            results.append({"name": entry["name"], "id": entry["id"], "seed": seed, **last})
            history += [{**label, **row} for row in outcome.history]
            seconds, resumed = seconds + outcome.seconds, resumed + outcome.resumed
    (work.folder / "weights").mkdir(exist_ok=True)  # an output, of no file where nothing is retrained
    write_record(work.folder / "retrain.json", "retrain", {**work.head, "results": results})
    write_json(work.folder / "retrain.history.json", history)
    work.write_metrics(
        {
            entry["name"]: {
                figure: fmean(r[figure] for r in results if r["name"] == entry["name"])
                for figure in ("train_loss", "train_acc")
            }
            for entry in (found if recipe.seeds else ())
        }
    )
    work.write_cost(seconds, recipe.epochs * len(data) * len(results), resumed)


if __name__ == "__main__":
    app()
