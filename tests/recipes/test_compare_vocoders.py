import importlib.util
import math
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile

from auffusion_cli.checkpoints.save import save_vocoder
from auffusion_cli.codec.vocoder import HiFiGAN, HiFiGANConfig
from auffusion_cli.signal.noise import Noise
from auffusion_cli.signal.spectrogram import LogMel

SCRIPT = Path(__file__).parents[2] / "recipes/embedded/compare_vocoders.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("compare_vocoders", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_error_is_that_of_the_revocoded_log_mel(script):
    noise = Noise(0).normal((1, 16000)) * 0.1
    log_mel = LogMel()
    reference = log_mel(noise)
    perfect, _ = script.measure(lambda mel: noise, [reference], log_mel)
    assert perfect == [0.0]
    # Half as loud is 6.02 dB less everywhere.
    quieter, cost = script.measure(lambda mel: noise / 2, [reference, reference], log_mel)
    assert quieter == pytest.approx([20 * math.log10(2)] * 2, abs=0.01)
    assert cost > 0


def test_prints_a_row_for_each_vocoder(script, tmp_path, monkeypatch, capsys):
    (tmp_path / "clips").mkdir()
    for name in "abc":
        tone = np.sin(np.arange(8000) * (0.1 + ord(name) / 1000)) * 0.5
        soundfile.write(tmp_path / f"clips/{name}.wav", tone, 16000)
    rows = "".join(f"{name}.wav,A tone\n" for name in "abc")
    (tmp_path / "clips/metadata.csv").write_text("file_name,text\n" + rows)
    config = HiFiGANConfig(
        upsample_initial_channel=16, resblock_kernel_sizes=(3,), resblock_dilation_sizes=((1,),)
    )
    save_vocoder(HiFiGAN(config), tmp_path / "run/vocoder")
    arguments = ["--data", f"{tmp_path}/clips", "--vocoder", f"{tmp_path}/run", "--clips", "2"]
    monkeypatch.setattr(sys, "argv", ["compare_vocoders.py", *arguments])
    script.main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("2 clips")
    griffin_lim, trained = (float(line.split()[1]) for line in lines[2:])
    assert griffin_lim < 6 < trained  # dB; the HiFi-GAN is untrained
