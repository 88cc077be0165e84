import re
import subprocess
import sys
from html import unescape

from nas.records import read_json, write_json
from nas.report import build, difference
from nas.report.building import result_files
from nas.report.collect import collect, read_trial
from nas.report.figures import draw_trial
from nas.report.results_table import summarise


def files(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_the_report_has_every_table_and_figure(built):
    disk, rows = built
    curves = {f"{stage}-{key}" for key, _, _ in disk.runs for stage in ("search", "retrain")}
    names = {"random-0": ["random"], "random-1": ["random"]}
    drawings = {
        f"cell-{key}-{name}-{cell}"
        for key, _, _ in disk.runs
        for name in names.get(key, ["eps=0.1", "eps=0.2"])
        for cell in ("normal", "reduce")
    }
    figures = {f"figures/{name}.svg" for name in {"front", *curves, *drawings}}
    tables = {"table.md", "table.csv", "table.tex", "results.csv", "results.metrics.json", "index.html"}
    assert set(files(disk.out)) == figures | tables
    assert [row["label"] for row in rows] == ["random", "is_nas eps=0.1", "is_nas eps=0.2"]


def test_a_second_build_gives_the_same_bytes_and_drops_stale_figures(built, tmp_path):
    disk, _ = built
    stale = tmp_path / "figures" / "search-random-9.svg"
    stale.parent.mkdir()
    stale.write_text("old")
    (tmp_path / "own.txt").write_text("not ours")
    build(disk.runs, disk.folder, disk.spec, tmp_path)
    again = files(tmp_path)
    assert again.pop("own.txt") == b"not ours"
    assert again == files(disk.out)


def test_the_figures_of_one_trial_can_be_drawn_alone(built, tmp_path):
    disk, _ = built
    run = disk.runs[2]
    draw_trial(read_trial(run, disk.folder / run[0]), tmp_path)
    whole = disk.out / "figures"
    assert files(tmp_path) == {path.name: path.read_bytes() for path in whole.glob("*is_nas-0*")}


def test_the_page_needs_no_other_file(built):
    disk, _ = built
    text = (disk.out / "index.html").read_text(encoding="utf-8")
    sources = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert all(source.startswith(("data:image/svg+xml;base64,", "#")) for source in sources)
    assert "http://" not in text
    assert "https://" not in text
    assert "<script" not in text
    assert text.count("<img ") == text.count('<img alt="') == 1 + 2 * 4 + 2 * 6
    for key, _, _ in disk.runs:
        assert f'id="{key}"' in text
    assert "IS-NAS, seed 1 <code>is_nas-1</code>" in text
    assert text.index("<table>") < text.index("<img ")
    assert "5.50 ± 2.12" in unescape(text)
    assert '<td class="number">5.50 ± 2.12</td>' in text


def test_the_check_names_the_first_difference(built, tmp_path):
    disk, _ = built
    for name in ("results.csv", "results.metrics.json"):
        (tmp_path / name).write_bytes((disk.out / name).read_bytes())
    where = (disk.runs, disk.folder, disk.spec, tmp_path)
    assert difference(*where) is None
    path = tmp_path / "results.csv"
    path.write_text(path.read_text().replace(",8.0,", ",7.9,"))
    fault = str(difference(*where))
    assert fault.startswith(f"{path}, line 5: 'random,1,")
    assert ",7.9," in fault.partition(", expected '")[0]
    path.unlink()
    assert difference(*where) == f"{path}: no such file"


def test_the_check_sees_a_changed_record(disk):
    disk.out.mkdir()
    study = collect(*disk.where()[:3])
    for name, text in result_files(study, summarise(study)).items():
        (disk.out / name).write_text(text)
    path = disk.folder / "random-0" / "evaluate.json"
    record = read_json(path)
    record["results"][0]["test_error"] = 3.25
    write_json(path, record)
    assert "line 2" in str(difference(*disk.where()))


def test_the_report_imports_no_torch_and_no_matplotlib():
    code = "import sys, nas.report; sys.exit(any(name in sys.modules for name in ('torch', 'matplotlib')))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_a_slimming_search_shows_why_each_operation_was_removed(tmp_path, write, disk):
    write(disk.folder / "eoinas-0", "eoinas-0", "eoinas", 0, [("main", "EOI_GNAS", (1.0, 2.0))])
    build([("eoinas-0", "eoinas", 0)], disk.folder, disk.spec, tmp_path / "out")
    for cell_type in ("normal", "reduce"):
        assert (tmp_path / "out" / "figures" / f"slimming-eoinas-0-{cell_type}.svg").stat().st_size > 10_000
        assert f"Slimming of the {cell_type} cell" in (tmp_path / "out" / "index.html").read_text(encoding="utf-8")
