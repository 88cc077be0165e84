import csv
import io
import json

import pytest

from nas.report.collect import collect
from nas.report.results_table import columns, notes, results_csv, results_metrics, sheet, summarise, table_csv
from nas.report.sheet import duration, latex, markdown, plus_minus, span, tex


@pytest.fixture
def study(disk):
    return collect(*disk.where()[:3])


def test_rows_are_methods_or_the_architectures_of_a_method(study):
    rows = summarise(study)
    assert [row.label for row in rows] == ["random", "is_nas eps=0.1", "is_nas eps=0.2"]
    assert [row.title for row in rows] == ["Random search", "IS-NAS eps=0.1", "IS-NAS eps=0.2"]


def test_mean_and_deviation_are_over_search_seeds_of_means_over_retrain_seeds(study):
    random, small, large = summarise(study)
    # Random: retrain means 4 and 7, so 5.5 and |4 - 7| / sqrt(2); all four networks pooled would give 2.08.
    assert (random.test_error_mean, random.test_error_std) == pytest.approx((5.5, 3 / 2**0.5))
    assert (small.test_error_mean, small.test_error_std) == pytest.approx((2.75, 1 / 2**0.5))  # 2.25 and 3.25
    assert (large.test_error_mean, large.test_error_std) == pytest.approx((4.5, 1 / 2**0.5))  # 4 and 5
    assert (random.searches, random.retrains) == (2, 4)


def test_sizes_and_costs(study):
    random, small, _ = summarise(study)
    assert (random.params_m, random.params_m_min, random.params_m_max) == pytest.approx((0.12, 0.10, 0.14))
    assert random.macs_m == pytest.approx(2.4)
    assert random.search_seconds == 150.0  # 100 and 200
    assert small.retrain_seconds == 60.0  # 240 for the four networks of a trial
    assert random.device == "cpu"


def test_one_search_seed_has_a_dash_for_the_deviation_and_never_zero(disk):
    study = collect(disk.runs[:1], disk.folder, disk.spec)
    (row,) = summarise(study)
    assert row.test_error_std is None
    assert "| 4.00 ± – |" in markdown([sheet(study, [row])])
    assert json.loads(results_metrics([row]))["random"].keys() == {"test_error_mean", "n", "params_m", "macs_m"}
    assert next(csv.DictReader(table_csv([row]).splitlines()))["test_error_std"] == ""


def test_the_metrics_are_flat_and_rounded(study):
    metrics = json.loads(results_metrics(summarise(study)))
    expected = {"test_error_mean": 5.5, "test_error_std": 2.1213, "n": 2, "params_m": 0.12, "macs_m": 2.4}
    assert metrics["random"] == expected


def test_the_results_have_a_line_per_network_in_the_order_of_the_runs(study):
    lines = list(csv.DictReader(results_csv(study).splitlines()))
    assert [
        (line["method"], line["search_seed"], line["architecture"], line["retrain_seed"]) for line in lines[3:7]
    ] == [
        ("random", "1", "random", "1"),
        ("is_nas", "0", "eps=0.1", "0"),
        ("is_nas", "0", "eps=0.1", "1"),
        ("is_nas", "0", "eps=0.2", "0"),
    ]
    assert len(lines) == 12
    assert lines[3]["test_error"] == "8.0"


def test_the_result_files_hold_no_times_and_no_devices(study):
    text = results_csv(study) + results_metrics(summarise(study))
    assert not [word for word in ("seconds", "cost", "cpu", "device") if word in text]


def test_counted_searches_get_a_column_and_the_others_a_dash(disk, write):
    assert "Search MACs, 10¹²" not in [column.title for column in columns(summarise(collect(*disk.where()[:3])))]
    for key, method, seed in disk.runs[2:]:
        write(disk.folder / key, key, method, seed, counted={"train_images": 7, "macs": 2_500_000_000_000})
    rows = summarise(collect(*disk.where()[:3]))
    column = next(column for column in columns(rows) if column.title == "Search MACs, 10¹²")
    assert [column.text(row) for row in rows] == ["–", "2.5", "2.5"]


def test_the_best_epochs_get_a_column_where_they_were_measured(disk):
    assert "Best epoch, %" not in [column.title for column in columns(summarise(collect(*disk.where()[:3])))]
    key, method, _ = disk.runs[0]
    path = disk.folder / key / "evaluate.json"
    record = json.loads(path.read_text())
    for row in record["results"]:
        row |= {"best_error": row["test_error"] - 0.5, "best_epoch": 3}
    path.write_text(json.dumps(record))
    study = collect(*disk.where()[:3])
    rows = summarise(study)
    column = next(column for column in columns(rows) if column.title == "Best epoch, %")
    best = rows[0].best_error_mean
    assert best is not None
    assert column.text(rows[0]).startswith(f"{best:.2f} ± ")
    assert column.text(rows[-1]) == "–"
    assert results_metrics(rows).count("best_error_mean") == 1
    assert "chosen on test data" in " ".join(notes(study, rows))
    assert "chosen on test data" not in " ".join(notes(study, rows[1:]))
    line = next(line for line in csv.DictReader(io.StringIO(results_csv(study))) if line["method"] == method)
    assert float(line["best_error"]) == float(line["test_error"]) - 0.5
    assert line["best_epoch"] == "3"


def test_the_notes_state_the_noise_floor_of_one_test_run(study):
    text = " ".join(notes(study, summarise(study)))
    # The rows' mean error is (5.5 + 2.75 + 4.5) / 3 = 4.25 %; sqrt(0.0425 * 0.9575 / 400) = 1.01 %.
    assert "at 4.25 % error is 1.01 points" in text
    assert "one of 400 test images is 0.25 points" in text
    assert "Data: digits" in text
    assert "Multiply-adds: of convolutions and linear layers, for one image" in text


def test_latex_has_rules_and_escapes(study):
    text = latex([sheet(study, summarise(study))])
    assert [text.count(rule) for rule in (r"\toprule", r"\midrule", r"\bottomrule")] == [1, 1, 1]
    assert r"Test error, \% &" in text
    assert r"0.100--0.140 &" in text
    assert "±" not in text


@pytest.mark.parametrize(
    ("plain", "escaped"),
    [
        ("a_b & 5 % of $3 #1", r"a\_b \& 5 \% of \$3 \#1"),
        ("{~^\\}", r"\{\textasciitilde{}\textasciicircum{}\textbackslash{}\}"),
        ("10¹² ± – ×", r"10$^{12}$ $\pm$ -- $\times$"),
    ],
)
def test_latex_escapes(plain, escaped):
    assert tex(plain) == escaped


def test_formats_of_numbers():
    assert [duration(seconds) for seconds in (0.04, 89, 90, 5399, 5400)] == [
        "0.0 s",
        "89.0 s",
        "1.5 min",
        "90.0 min",
        "1.5 h",
    ]
    assert [plus_minus(2.5, None), plus_minus(2.5, 0.125)] == ["2.50 ± –", "2.50 ± 0.12"]
    assert [span(2, 1, 3, 1), span(2, 1.96, 2.04, 1)] == ["1.0–3.0", "2.0"]
