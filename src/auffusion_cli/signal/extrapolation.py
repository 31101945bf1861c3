"""Linear-prediction extrapolation of a recording, for as long as a cross-fade takes. No torch.

Tones keep sounding and noise keeps its colour and level, so that there is something to cross-fade
from beyond a recording's end. After Kauppinen and Roth, "Audio signal extrapolation" (DAFx 2002).
"""

from __future__ import annotations

import numpy as np

LOOK_BACK_S = 0.25
"""The part of the end that the predictor is fitted to."""
MAX_ORDER = 256
SILENT_POWER = 1e-12


def extrapolate(samples: np.ndarray, n_new: int, rate_hz: int, seed: int) -> np.ndarray:
    """Samples (N, C), full scale at -1..1 -> (n_new, C) that may follow.

    The residual of the prediction is continued by noise of the same covariance over the channels.
    """
    end = samples[-round(LOOK_BACK_S * rate_hz) :].astype(np.float64)
    n, n_channels = end.shape
    order = min(MAX_ORDER, n // 3)
    filters = np.stack([burg(end[:, c], order) for c in range(n_channels)])  # (C, order)
    windows = np.lib.stride_tricks.sliding_window_view(
        end, order, axis=0
    )  # (n - order + 1, C, order)
    residual = end[order:] - np.einsum("nco,co->nc", windows[:-1], filters)
    # The symmetric root of the covariance gives independent noise the covariance of the residual.
    values, vectors = np.linalg.eigh(residual.T @ residual / max(len(residual), 1))
    mix = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    noise = np.random.default_rng(seed).standard_normal((n_new, n_channels)) @ mix

    whole = np.concatenate([end[n - order :], np.zeros((n_new, n_channels))])
    for i in range(n_new):
        whole[order + i] = np.einsum("oc,co->c", whole[i : order + i], filters) + noise[i]
    return whole[order:]


def burg(samples: np.ndarray, order: int) -> np.ndarray:
    """Linear predictor of samples (N,) by Burg's method: (order,) weights, the oldest sample first.

    The filter is always stable, so that an extrapolation does not blow up.
    """
    forward, backward = samples[1:], samples[:-1]
    weights = np.ones(1)
    for _ in range(order):
        power = (forward @ forward + backward @ backward) / 2
        # Rounding would lead beyond 1 where all is predicted already.
        if power < SILENT_POWER:
            break
        reflection = -(forward @ backward) / power
        weights = np.append(weights, 0) + reflection * np.append(0, weights[::-1])
        forward, backward = (
            (forward + reflection * backward)[1:],
            (backward + reflection * forward)[:-1],
        )
    return -np.append(weights, np.zeros(order + 1 - len(weights)))[:0:-1]
