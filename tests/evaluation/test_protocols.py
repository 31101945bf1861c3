"""Protocols hold the facts of the field's common tool."""

import subprocess
import sys

from auffusion_cli.evaluation.protocols import PROTOCOLS


def test_the_papers_inputs():
    paper, tango = PROTOCOLS["auffusion-2024"], PROTOCOLS["tango"]
    for protocol in (paper, tango):
        assert protocol.comparable_with_papers
        heard = protocol.classifier.audio_input
        assert (heard.sample_rate_hz, heard.min_samples, heard.max_samples) == (
            16_000,
            32_000,
            None,
        )
        assert heard.channel == "first" and heard.subtract_mean and not heard.peak_normalize
        assert heard.resampler == "sinc_hann"
        assert protocol.text.audio_input.sample_rate_hz == 48_000
    assert paper.frames.audio_input == paper.classifier.audio_input
    assert tango.frames.audio_input.channel == "mean" and tango.frames.audio_input.min_samples == 0
    assert not PROTOCOLS["embedded"].comparable_with_papers


def test_imports_no_torch():
    code = "import sys, auffusion_cli.evaluation.protocols; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0
