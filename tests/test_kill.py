"""`kill -9` at random moments and at chosen places of a search: the short form of a campaign.

Nothing finished is lost or trained again, and the end is the same.
"""

from dataclasses import asdict

import pytest

from benchmarks import kills


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("kind", ["local", "jobs", "command"])
def test_a_search_that_is_killed_again_and_again_ends_as_an_unbroken_one(tmp_path, kind):
    unbroken = kills.search(tmp_path / "unbroken", kind)
    tally = kills.Tally()
    kills.kill_again_and_again(tmp_path / "killed", unbroken, kind, "", 1, tally)
    found = asdict(tally)
    assert found.pop("rounds") == 1
    assert found.pop("kills") >= found.pop("kills_at_places") >= 0
    assert not any(found.values()), found
    kinds = {row[1] for row in kills.rows(tmp_path / "killed", "id, kind, trial FROM lrtune_runs")}
    assert kinds == {"baseline", "look", "confirm"}
    assert (tmp_path / "killed" / "reports" / kills.STUDY / "report.html").is_file()
