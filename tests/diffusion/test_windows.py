import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.diffusion.windows import (
    in_windows,
    plan_fills,
    sound_in_windows,
    windowed_denoiser,
)


@pytest.mark.parametrize("n", [5, 16, 17, 40, 101])
def test_a_local_function_is_the_same_in_windows(n):
    x = torch.randn(2, n, generator=torch.Generator().manual_seed(0))
    seen = []

    def double(part):
        seen.append(part.shape[-1])
        return 2 * part

    assert torch.allclose(in_windows(double, x, window=16, overlap=6), 2 * x, atol=1e-6)
    assert seen == [16] * len(seen) or (seen == [n] and n <= 16)


@pytest.mark.parametrize("factor", [4, 0.25])
def test_a_function_may_change_the_length(factor):
    def change(part):
        if factor > 1:
            return part.repeat_interleave(4, dim=-1)
        return part[..., ::4]

    x = torch.arange(400.0)
    assert torch.allclose(in_windows(change, x, window=80, overlap=16), change(x), atol=1e-4)


def test_outputs_are_cross_faded_without_a_jump():
    """Two windows that disagree, by their mean, are joined by a slope."""
    x = torch.cat([torch.zeros(50), torch.ones(50)])
    joined = in_windows(lambda part: part * 0 + part.mean(), x, window=60, overlap=20)
    assert joined[:40].std() < 1e-6 and joined[60:].std() < 1e-6
    steps = joined.diff()[40:59]
    assert (steps > 0).all() and steps.max() < 0.1


@pytest.mark.parametrize("n", [10, 16, 17, 23, 40])
def test_a_vocoder_that_only_looks_around_gives_the_same_sound_in_windows(n):
    x = torch.randn(2, n, generator=torch.Generator().manual_seed(0))
    sound = sound_in_windows(lambda part: part.repeat_interleave(8, dim=-1), x, 16, 6)
    assert torch.allclose(sound, x.repeat_interleave(8, dim=-1), atol=1e-5)


def test_a_vocoder_that_finds_other_phases_in_each_window_is_as_loud_at_the_seams():
    rng = torch.Generator().manual_seed(0)

    def vocode(part):
        return torch.randn(1, part.shape[-1] * 100, generator=rng)

    sound = sound_in_windows(vocode, torch.zeros(1, 400), window=40, overlap=10)
    assert sound.shape == (1, 40_000)
    # Windows begin every 30 columns, and are faded in over 10: each seam's middle, and elsewhere.
    seams = torch.cat(
        [sound[0, start * 100 + 300 : start * 100 + 700] for start in range(30, 360, 30)]
    )
    assert seams.std() == pytest.approx(1, abs=0.05)


def test_windows_of_the_other_sign_do_not_cancel():
    tone = torch.sin(torch.arange(4000.0) / 5)[None]
    signs = iter([1, -1, -1, 1, 1, -1, 1])
    sound = sound_in_windows(lambda part: next(signs) * part, tone, window=1000, overlap=200)
    assert torch.allclose(sound, tone, atol=1e-4)


def test_the_denoiser_sees_only_windows_and_averages_them():
    seen = []

    def denoise(latents, timestep):
        seen.append((latents.shape[-1], int(timestep)))
        return latents + timestep

    latents = torch.randn(1, 2, 3, 50, generator=torch.Generator().manual_seed(0))
    output = windowed_denoiser(denoise, window=16, overlap=4)(latents, torch.tensor(7))
    assert torch.allclose(output, latents + 7, atol=1e-5)
    assert set(seen) == {(16, 7)} and len(seen) == 4


@given(
    st.integers(1, 400),
    st.lists(st.integers(0, 400), min_size=2, max_size=10, unique=True),
    st.integers(40, 120),
)
def test_all_holes_are_filled_with_context_around(n, edges, window):
    edges = sorted(edge for edge in edges if edge <= n)
    holes = list(zip(edges[::2], edges[1::2], strict=False))
    context, overlap = window // 4, window // 10
    plans = plan_fills(holes, n, window, context, overlap)

    filled = [False] * n
    for index, plan in enumerate(plans):
        last = plan.fill[-1][1]
        assert 0 <= plan.start <= max(n - window, 0)
        for start, end in plan.fill:
            assert plan.start <= start < end <= plan.start + window
            # On each side there is context, or the clip's end.
            assert start - plan.start >= min(context, start)
            assert min(plan.start + window, n) - end >= min(context, n - end) - overlap
            filled[start:end] = [True] * (end - start)
        if plan.goes_on:
            assert plans[index + 1].fill[0][0] == last - overlap
    wanted = [any(start <= i < end for start, end in holes) for i in range(n)]
    assert filled == wanted


def test_near_holes_share_a_window_and_it_is_centred():
    [plan] = plan_fills([(100, 120), (140, 150)], n=1000, window=100, context=20, overlap=5)
    assert plan.start == 75 and plan.fill == ((100, 120), (140, 150)) and not plan.goes_on
