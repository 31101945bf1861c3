"""What a recording goes on with for a moment, by linear prediction; no model is asked.

Tones keep sounding and noise keeps its colour and level, so that there is something to cross-fade
from where a recording ends. After Kauppinen and Roth, "Audio signal extrapolation" (DAFx 2002).
"""

from __future__ import annotations

import numpy as np

LOOK_BACK_S = 0.25
"""How much of the end is listened to."""
MAX_ORDER = 256
SILENT_POWER = 1e-12


def go_on(samples: np.ndarray, n_new: int, rate_hz: int, seed: int) -> np.ndarray:
    """Samples (N, C), full scale at -1..1 -> the (n_new, C) that may follow.

    What the prediction leaves over is noise; it goes on as noise of the same power, as alike in the
    channels as it was.
    """
    heard = samples[-round(LOOK_BACK_S * rate_hz) :].astype(np.float64)
    n, n_channels = heard.shape
    order = min(MAX_ORDER, n // 3)
    filters = np.stack([predictor(heard[:, c], order) for c in range(n_channels)])  # (C, order)
    windows = np.lib.stride_tricks.sliding_window_view(
        heard, order, axis=0
    )  # (n - order + 1, C, order)
    left_over = heard[order:] - np.einsum("nco,co->nc", windows[:-1], filters)
    # The symmetric root of the covariance makes independent noise as alike as what was left over.
    values, vectors = np.linalg.eigh(left_over.T @ left_over / max(len(left_over), 1))
    mix = vectors * np.sqrt(values.clip(min=0)) @ vectors.T
    noise = np.random.default_rng(seed).standard_normal((n_new, n_channels)) @ mix

    whole = np.concatenate([heard[n - order :], np.zeros((n_new, n_channels))])
    for i in range(n_new):
        whole[order + i] = np.einsum("oc,co->c", whole[i : order + i], filters) + noise[i]
    return whole[order:]


def predictor(samples: np.ndarray, order: int) -> np.ndarray:
    """(N,) samples -> (order,) weights of the last ones, the oldest first, that foretell the next.

    Burg's method, which always gives a stable filter: what it goes on with does not blow up.
    """
    forward, backward = samples[1:], samples[:-1]
    weights = np.ones(1)
    for _ in range(order):
        power = (forward @ forward + backward @ backward) / 2
        # Rounding would lead beyond 1 where all is foretold already.
        if power < SILENT_POWER:
            break
        reflection = -(forward @ backward) / power
        weights = np.append(weights, 0) + reflection * np.append(0, weights[::-1])
        forward, backward = (
            (forward + reflection * backward)[1:],
            (backward + reflection * forward)[:-1],
        )
    return -np.append(weights, np.zeros(order + 1 - len(weights)))[:0:-1]
