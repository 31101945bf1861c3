import csv
import sys
from pathlib import Path

import numpy as np
import pytest

from auffusion_cli.signal.audio import write_audio
from auffusion_cli.training.clip_store import ClipStore
from auffusion_cli.training.data import Clip

sys.path.insert(0, str(Path(__file__).parents[2] / "recipes" / "embedded"))
import measure_few_steps as measure
import measure_independent

TABLE = measure_independent.Table(
    classes={"rain": ["Rain"], "dog_barking": ["Bark"]},
    noise_like=["rain"],
    pairs=[],
    umbrella=[],
)


@pytest.fixture(autouse=True)
def small_table(monkeypatch):
    monkeypatch.setattr(measure, "load_table", lambda: TABLE)


def noise(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    write_audio(path, np.random.default_rng(0).uniform(-0.5, 0.5, 16_000), 16_000)
    return path


def test_prompts_are_named_after_set_and_kind(tmp_path, monkeypatch):
    clip = Clip(noise(tmp_path / "clip.wav"), captions=("Rain falls.",), kind="rain", role="event")
    store = ClipStore([clip], 16_000)
    monkeypatch.setattr(measure_independent, "load_store", lambda *arguments: store)
    measure.main(["prepare", "--data", str(tmp_path), "-o", str(tmp_path / "out")])
    rows = list(csv.DictReader((tmp_path / "out/prompts.csv").open()))
    assert rows[0]["name"] == "known-rain-000" and "rain" in rows[0]["prompt"].lower()
    assert {row["name"].rsplit("-", 1)[0] for row in rows} == {
        f"{of}-{kind}" for of in ("known", "other") for kind in TABLE.classes
    }
    assert [path.name for path in (tmp_path / "out/real").iterdir()] == ["real-rain-000.wav"]
    with pytest.raises(SystemExit, match="exists"):
        measure.main(["prepare", "--data", str(tmp_path), "-o", str(tmp_path / "out")])


def test_what_is_heard_is_counted_by_set(tmp_path, monkeypatch, capsys):
    names = ["Rain", "Bark", *(f"Other {i}" for i in range(5))]
    scores = np.linspace(1, 0.1, len(names))[[0, 6, 1, 2, 3, 4, 5]]  # rain first, bark last
    judge = measure_independent.Judge(lambda windows: scores[None], names, TABLE)
    monkeypatch.setattr(measure, "load_judge", lambda folder, table: judge)
    for name in ("known-rain-000", "known-dog_barking-001", "other-rain-000"):
        noise(tmp_path / "sweep/dpm++-steps4-guidance3" / f"{name}.wav")
    noise(tmp_path / "sweep/ddim-steps2-guidance1/other-dog_barking-000.wav")
    folders = sorted(map(str, (tmp_path / "sweep").iterdir()))
    measure.main(["hear", *folders, "--judge", "judge"])
    few, own = capsys.readouterr().out.splitlines()[2:]
    assert few.startswith("| sweep/ddim-steps2-guidance1 | – | 0% ")
    assert own.startswith("| sweep/dpm++-steps4-guidance3 | 50% ")
    assert "of 2 | 100% " in own and own.endswith("of 1 |")
