import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))
import measure_independent
import measure_settings as measure

TABLE = measure_independent.Table(
    classes={"rain": ["Rain"]}, noise_like=[], pairs=[], umbrella=["Sound"]
)
NAMES = ["Sound", "Rain", *(f"Other {i}" for i in range(5))]


def test_sounds_are_compared_in_pairs_and_a_run_that_was_stopped_goes_on(
    tiny_model, tmp_path, monkeypatch, capsys
):
    heard = []

    def score(windows):
        heard.append(len(windows))
        scores = np.linspace(0.5, 0.1, len(NAMES))
        scores[1] = 0.9 if len(heard) % 2 == 0 else 0.35  # the first class, or the third
        return scores[None]

    judge = measure_independent.Judge(score, NAMES, TABLE)
    monkeypatch.setattr(measure, "load_judge", lambda folder, table: judge)
    monkeypatch.setattr(measure, "load_model", lambda name: tiny_model)
    path = tmp_path / "out.jsonl"
    command = ["steps=2", "steps=1", "--duration", "0.2", "--judge", "judge", "-o", str(path)]
    measure.main(command)
    rows = measure.read_rows(path)
    assert len(rows) == len(heard) == 8 and {row["set"] for row in rows} == {"known", "other"}
    table = capsys.readouterr().out.splitlines()
    assert table[2] == "| 2 known | 1 | 0.0% | 100.0% | +100.0 ± 0.0 |"
    assert table[3] == "| 2 known | 5 | 100.0% | 100.0% | +0.0 ± 0.0 |"

    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-2]))
    measure.main(command)
    assert len(heard) == 10 and capsys.readouterr().out.splitlines() == table


@pytest.mark.parametrize("setting", ["step=2", "steps", "steps=two"])
def test_what_is_no_setting_is_refused(setting, monkeypatch):
    monkeypatch.setattr(measure, "load_judge", lambda folder, table: None)
    monkeypatch.setattr(measure, "load_model", lambda name: None)
    with pytest.raises(SystemExit, match="is not a setting"):
        measure.main([setting, "steps=1", "--judge", "judge", "-o", "out.jsonl"])
