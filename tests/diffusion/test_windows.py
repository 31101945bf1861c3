import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from auffusion_cli.diffusion.windows import plan_fills, windowed_denoiser


def test_the_denoiser_sees_only_windows_and_averages_them():
    seen = []

    def denoise(latents, timestep):
        seen.append((latents.shape[-1], int(timestep)))
        return latents + timestep

    latents = np.random.default_rng(0).standard_normal((1, 2, 3, 50))
    output = windowed_denoiser(denoise, window=16, overlap=4)(latents, 7)
    assert np.allclose(output, latents + 7, atol=1e-5)
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
        assert 0 <= plan.start <= max(n - window, 0)
        for start, end in plan.fill:
            assert plan.start <= start < end <= plan.start + window
            # On each side there is context, or the clip's end.
            assert start - plan.start >= min(context, start)
            assert min(plan.start + window, n) - end >= min(context, n - end) - overlap
            filled[start:end] = [True] * (end - start)
        if index > 0 and plan.fill[0][0] not in [start for start, _ in holes]:  # a hole goes on
            assert plan.fill[0][0] == plans[index - 1].fill[-1][1] - overlap
    wanted = [any(start <= i < end for start, end in holes) for i in range(n)]
    assert filled == wanted


def test_near_holes_share_a_window_and_it_is_centred():
    [plan] = plan_fills([(100, 120), (140, 150)], n=1000, window=100, context=20, overlap=5)
    assert plan.start == 75 and plan.fill == ((100, 120), (140, 150))
