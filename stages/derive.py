"""Stage `derive`: from what a search left to one or several architectures, by the rule in params.yaml."""

from typing import TYPE_CHECKING, Any

import typer

from nas.project import PREPARED, clear_errors

if TYPE_CHECKING:
    from nas.config.params import Size
    from nas.contracts import ImageForm, Space
    from stages.trial import Trial

app = typer.Typer(add_completion=False)


@app.command()
@clear_errors
def derive(run: str = typer.Option(help="Run key, for instance darts-0.")) -> None:
    """Turn the search record of RUN into architectures. Seconds, no images."""
    from stages.trial import trial

    with trial("derive", run) as work:
        run_derive(work)


def run_derive(work: "Trial") -> None:
    """Apply the rule, then write the records."""
    from nas.complexity import Count
    from nas.data.spec import DataSpec
    from nas.methods import method_module
    from nas.records import read_json, read_record, write_record
    from nas.spaces.registry import get_space
    from nas.training.search import image_form

    record = read_record(work.folder / "search.json", "search")
    space, params, size = get_space(record["space"]), work.config.derive[work.method], work.config.retrain
    found = method_module(work.method).derive(record["state"], params, space)
    form = image_form(DataSpec.from_dict(read_json(PREPARED / "spec.json")))
    counts: dict[str, Count] = {}
    rows = []
    for one in found:
        like = counts[one.like].params if one.like else None
        channels = size.channels if like is None else width_like(like, space, one.architecture, form, size)
        channels = within(size.macs_limit_m, space, one.architecture, form, size.at(channels))
        counts[one.name] = space.count(one.architecture, form, size.at(channels))
        head = {"name": one.name, "id": one.architecture.id, "channels": channels}
        rows.append({**head, "architecture": one.architecture.to_dict(), "notes": one.notes})
    body = {**work.head, "rule": params.rule, "architectures": rows}
    write_record(work.folder / "architectures.json", "architectures", body)
    work.write_metrics({name: {"params_m": c.params_m, "macs_m": c.macs_m} for name, c in counts.items()})
    work.tracker.log_artifacts([work.folder / "architectures.json"])


def width_like(params: int, space: "Space", architecture: Any, form: "ImageForm", size: "Size") -> int:
    """The even width at which the network comes nearest to this number of parameters."""
    from nas.complexity import nearest_width

    return nearest_width(lambda width: space.count(architecture, form, size.at(width)).params, params, size.channels)


def within(limit_m: float | None, space: "Space", architecture: Any, form: "ImageForm", size: "Size") -> int:
    """Channels of this size, or as many fewer as bring the network's multiply-adds to the limit.

    Raises:
        ParamsError: two channels are too many.
    """
    from nas.config.sections import ParamsError

    channels = size.channels
    while limit_m is not None and space.count(architecture, form, size.at(channels)).macs_m > limit_m:
        if channels == 2:
            raise ParamsError(f"'retrain.macs_limit_m' is {limit_m}: a network of 2 channels has more multiply-adds")
        channels -= 2
    return channels


if __name__ == "__main__":
    app()
