"""Real data that may lie beside the project; without it the tests that need it are skipped, and say so."""

from pathlib import Path

import pytest

SHARED = Path(__file__).parents[2] / "shared" / "data"
TABLE = SHARED / "nasbench201.csv.gz"
TABLE_SHA256 = "1baaa94459f0e14abd2acea01fb0dbb0fac4c1253a88bd69b09a96b00e42347e"

needs_table = pytest.mark.skipif(not TABLE.is_file(), reason=f"{TABLE.name} does not lie in ../shared/data")
