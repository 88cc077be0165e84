import pytest

from nas.report.ablation import Judged, Outcome, Searched, lines, table


def outcome(method="eoinas", seconds=60.0, macs_t=None, **errors):
    """A trial whose architecture `name` has that test error; its parameters and multiply-adds follow from it."""
    judged = {name: Judged(test_error=error, params_m=error / 10, macs_m=error) for name, error in errors.items()}
    return Outcome(method, Searched(seconds=seconds, macs_t=macs_t), judged)


def body(text):
    """The cells of the rows below the titles."""
    rows = [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("|")]
    return rows[0], rows[2:]


def test_a_row_per_variant_with_mean_and_deviation_over_its_searches():
    titles, rows = body(
        table({"on": [outcome(main=2.0), outcome(main=4.0, seconds=180.0)], "off": [outcome(main=5.0)]})
    )
    assert titles == [
        "Variant",
        "Method",
        "Searches",
        "Test error, %",
        "Params, M",
        "Multiply-adds, M",
        "Search cost",
    ]
    assert rows == [
        ["on", "EoiNAS", "2", "3.00 ± 1.41", "0.200–0.400", "2.00–4.00", "2.0 min"],  # |2 - 4| / sqrt(2)
        ["off", "EoiNAS", "1", "5.00 ± –", "0.500", "5.00", "60.0 s"],
    ]


def test_methods_and_architectures_of_a_variant_have_rows_of_their_own():
    trials = [outcome("random", best=3.0), outcome("is_nas", small=5.0, large=2.0), outcome("is_nas", small=6.0)]
    rows = lines("all", trials)
    assert [(line.label, len(line.judged)) for line in rows] == [
        ("Random search", 1),
        ("IS-NAS small", 2),
        ("IS-NAS large", 1),
    ]


@pytest.mark.parametrize(
    ("counts", "shown"), [((None, None), None), ((0.5, None), ["0.5", "–"]), ((0.5, 0.0123), ["0.5", "0.0123"])]
)
def test_counted_work_has_a_column_where_any_search_counts_it(counts, shown):
    titles, rows = body(table({name: [outcome(main=2.0, macs_t=n)] for name, n in zip("ab", counts, strict=True)}))
    assert ("Search MACs, 10¹²" in titles) == (shown is not None)
    assert shown is None or [row[7] for row in rows] == shown


def test_cells_that_a_table_judged_have_its_columns_and_others_none():
    true = {"table_cifar10_test_acc": 93.0, "table_cifar10_test_percentile": 90.0}
    size = {"params_m": 0.5, "macs_m": 50.0}
    judged = Outcome("darts", Searched(seconds=60.0), {"main": Judged.model_validate(size | true)})
    titles, rows = body(table({"on": [judged]}))
    assert titles[3:6] == ["True test accuracy, %", "Percentile", "Params, M"]
    assert rows[0][3:5] == ["93.00 ± –", "90.00 ± –"]
    both = Outcome(
        "darts", Searched(seconds=60.0), {"main": Judged.model_validate({**size, **true, "test_error": 8.0})}
    )
    titles, rows = body(table({"on": [both], "off": [outcome("darts", main=2.0)]}))
    assert titles[3:6] == ["Test error, %", "True test accuracy, %", "Percentile"]
    assert [row[3:6] for row in rows] == [["8.00 ± –", "93.00 ± –", "90.00 ± –"], ["2.00 ± –", "–", "–"]]
    titles, _ = body(table({"off": [outcome("darts", main=2.0)]}))
    assert "Percentile" not in titles


def test_a_bar_in_a_name_does_not_divide_the_row():
    assert r"| DARTS a\|b |" in table({"on": [outcome("darts", **{"a|b": 1.0, "c": 2.0})]})
