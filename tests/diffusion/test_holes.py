import numpy as np
import pytest

from auffusion_cli.diffusion.holes import latent_mask, mirror_fill


@pytest.mark.parametrize(
    ("known", "expected"),
    [
        ("##..##", [0, 1, 2, 3, 4, 5]),  # 1 and 0 from the left, 5 and 4 from the right
        ("##....", [0, 1, 1, 0, 0, 1]),  # there is only the left: to and fro
        ("..##..", [3, 2, 2, 3, 3, 2]),
        (".#.#", [1, 1, 2, 3]),
        ("####", [0, 1, 2, 3]),
    ],
)
def test_what_is_not_known_is_mirrored_from_both_sides(known, expected):
    columns = np.arange(len(known), dtype=np.float32)
    filled = mirror_fill(np.stack([columns, -columns]), np.array([c == "#" for c in known]))
    np.testing.assert_allclose(filled[0], expected, atol=1e-6)
    np.testing.assert_array_equal(filled[1], -filled[0])


def test_a_latent_is_free_where_any_of_its_cells_is():
    cells = np.zeros((4, 6), bool)  # lowest first; latents have the highest first
    cells[0, 3] = cells[3, 5] = True
    mask = latent_mask(cells, *(size // 2 for size in cells.shape))
    assert mask.shape == (1, 1, 2, 3)
    assert mask[0, 0].tolist() == [[0, 0, 1], [0, 1, 0]]
