from nas.collapse import collapsed, leaders, parameterless

ROW = {
    "epoch": 3,
    "ops.normal.skip_connect": 8,
    "ops.normal.sep_conv_3x3": 6,
    "ops.normal.none": None,
    "ops.reduce.max_pool_3x3": 4,
    "ops.reduce.skip_connect": 4,
    "ops.reduce.dil_conv_3x3": 6,
}


def test_one_operation_on_more_than_half_of_the_edges_is_a_collapse():
    assert collapsed(ROW) == {"normal": "skip_connect leads on 8 of 14 edges of the normal cell"}
    assert collapsed({**ROW, "ops.normal.skip_connect": 7, "ops.normal.sep_conv_3x3": 7}) == {}
    assert collapsed({**ROW, "ops.normal.skip_connect": 0, "ops.normal.sep_conv_3x3": 14}) == {}  # it has parameters


def test_the_share_without_parameters_is_of_all_edges_together():
    assert parameterless(ROW) == 100 * 16 / 28
    assert parameterless({"epoch": 0, "valid_acc": 3.0}) is None


def test_columns_that_a_row_does_not_have_lead_nowhere():
    assert leaders(ROW)["normal"] == {"skip_connect": 8, "sep_conv_3x3": 6}
