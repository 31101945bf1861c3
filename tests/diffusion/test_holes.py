import pytest
import torch

from auffusion_cli.diffusion.holes import mirror_fill


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
    columns = torch.arange(float(len(known)))
    filled = mirror_fill(torch.stack([columns, -columns]), torch.tensor([c == "#" for c in known]))
    torch.testing.assert_close(filled[0], torch.tensor(expected, dtype=torch.float32))
    assert torch.equal(filled[1], -filled[0])
