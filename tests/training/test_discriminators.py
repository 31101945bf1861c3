import pytest
import torch

from auffusion_cli.training.discriminators import (
    PatchDiscriminator,
    PeriodDiscriminator,
    ScaleDiscriminator,
    WaveformDiscriminator,
    discriminate,
)


@pytest.fixture(scope="module")
def critic():
    torch.manual_seed(0)
    return WaveformDiscriminator(width=0.03).eval()


def test_full_width_has_the_papers_layers():
    with torch.device("meta"):
        critic = WaveformDiscriminator()
    assert len(critic.periods) == 5 and len(critic.scales) == 3
    channels = [layer.out_channels for layer in critic.periods[0].layers]
    assert channels == [32, 128, 512, 1024, 1024]
    channels = [layer.out_channels for layer in critic.scales[0].layers]
    assert channels == [128, 128, 256, 512, 1024, 1024, 1024]
    # Weights without the norms' own magnitudes; HiFi-GAN's two discriminators have 70.7 M.
    n_parameters = sum(p.numel() for p in critic.parameters())
    assert 70.0e6 < n_parameters < 71.0e6


def test_one_output_for_each_period_and_scale(critic):
    outputs = critic(torch.randn(2, 1000))
    assert len(outputs) == 8
    assert [len(output.features) for output in outputs] == [6] * 5 + [8] * 3
    for output in outputs:
        assert output.scores.shape[0] == 2
        assert torch.equal(output.features[-1].flatten(1), output.scores)
    # The period-2 critic: 1000 samples are 500 rows of 2; strides 3^4 leave 7 rows.
    assert outputs[0].scores.shape == (2, 7 * 2)


def test_a_period_critic_compares_only_samples_a_period_apart():
    torch.manual_seed(0)
    critic = PeriodDiscriminator(5, width=0.03).eval()
    waveform = torch.randn(1, 500)
    disturbed = waveform.clone()
    disturbed[:, 3::5] += 1
    rows = critic(waveform).scores.unflatten(1, (-1, 5))
    disturbed_rows = critic(disturbed).scores.unflatten(1, (-1, 5))
    assert torch.equal(rows[..., [0, 1, 2, 4]], disturbed_rows[..., [0, 1, 2, 4]])
    assert not torch.allclose(rows[..., 3], disturbed_rows[..., 3])


def test_lengths_that_no_period_divides_are_reflected():
    critic = PeriodDiscriminator(7, width=0.03).eval()
    waveform = torch.randn(1, 100)  # 14 rows of 7 and 2 more samples: 5 are missing
    completed = torch.cat([waveform, waveform[:, -6:-1].flip(-1)], -1)
    assert torch.allclose(critic(waveform).scores, critic(completed).scores, atol=1e-6)


def test_norms_are_where_the_paper_has_them(critic):
    def norms(scale: ScaleDiscriminator):
        return {type(layer.parametrizations.weight[0]).__name__ for layer in scale.layers}

    assert [norms(scale) for scale in critic.scales] == [
        {"_SpectralNorm"},
        {"_WeightNorm"},
        {"_WeightNorm"},
    ]


def test_judging_a_pair_is_judging_each(critic):
    real, fake = torch.randn(2, 400), torch.randn(2, 400)
    of_real, of_fake = discriminate(critic, real, fake)
    for pair, alone in zip(of_real + of_fake, critic(real) + critic(fake), strict=True):
        assert torch.allclose(pair.scores, alone.scores, atol=1e-5)
        for feature, expected in zip(pair.features, alone.features, strict=True):
            assert torch.allclose(feature, expected, atol=1e-5)


def test_a_patch_score_sees_70_pixels():
    critic = PatchDiscriminator(1, base_channels=8).eval()
    image = torch.zeros(1, 1, 128, 128, requires_grad=True)
    (output,) = critic(image)
    assert output.scores.shape == (1, 14 * 14)
    output.scores.unflatten(1, (14, 14))[0, 7, 7].backward()
    seen = image.grad[0, 0].abs().sum(0).nonzero().flatten()
    assert seen[-1] - seen[0] + 1 == 70
