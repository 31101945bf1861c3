"""Shards of latents: what is read is what was written, few are open, damage is named."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from auffusion_cli.errors import DataError
from auffusion_cli.training.captions import Wordings
from auffusion_cli.training.latent_shards import (
    MAX_OPEN_SHARDS,
    Index,
    Item,
    LatentShards,
    ShardInfo,
    read_info,
    write_shard,
)
from auffusion_cli.training.run_folder import LATENTS_NAME


def write(folder, n_shards, n_items=3):
    infos = []
    for part in range(n_shards):
        items, states = [], {}
        for i in range(n_items):
            number = part * n_items + i
            latents = np.full((1 + i % 2, 1, 2, 2), number % 100, np.float16)
            items.append(Item(latents, Wordings((f"Ton {number}", "ü"), ("x",) * (i % 2))))
            states[f"Ton {number}"] = [np.full((1 + i, 4), i, np.float16)]
        states |= {text: [np.ones((2, 4), np.float16)] for text in ("ü", "x")}
        infos.append(ShardInfo(part, 0, n_items, True, {"silent": 1}))
        write_shard(folder, infos[-1], items, states)
    Index(3, "i", "n", 1.0, (1, 2, 2), (8,), tuple(infos)).write(folder)


def test_what_is_read_is_what_was_written(tmp_path):
    write(tmp_path, 2)
    shards = LatentShards(tmp_path)
    assert len(shards) == 6 and shards.index.problems == {"silent": 2}
    assert read_info(tmp_path / "00001-0000.safetensors") == shards.index.shards[1]
    for number in range(6):
        i = number % 3
        assert shards.wordings(number) == Wordings((f"Ton {number}", "ü"), ("x",) * (i % 2))
        assert shards.n_latents(number) == 1 + i % 2
        assert (shards.latent(number, i % 2) == number).all()
        (rows,) = shards.hidden_states(number, f"Ton {number}")
        assert rows.shape == (1 + i, 4) and (rows == i).all()


def test_few_shards_are_open_however_many_there_are(tmp_path):
    write(tmp_path, MAX_OPEN_SHARDS + 10, n_items=1)
    shards = LatentShards(tmp_path)
    for number in (*range(len(shards)), 0):
        assert (shards.latent(number) == number % 100).all()
    assert len(shards._open) == MAX_OPEN_SHARDS


@pytest.mark.parametrize("name", ["item_latents", "text_starts", "item_captions", "text_rows_0"])
def test_places_that_are_not_there(tmp_path, name):
    write(tmp_path, 1)
    path = tmp_path / "00000-0000.safetensors"
    tensors = load_file(path)
    save_file(tensors | {name: tensors[name] * 2}, path)
    with pytest.raises(DataError, match=f"damaged: {name}"):
        LatentShards(tmp_path).latent(0)


def test_captions_that_are_not_there(tmp_path):
    write(tmp_path, 1)
    path = tmp_path / "00000-0000.safetensors"
    tensors = load_file(path)
    save_file(tensors | {"captions": tensors["captions"] + 99}, path)
    with pytest.raises(DataError, match="caption that is not there"):
        LatentShards(tmp_path).wordings(0)


@pytest.mark.parametrize(
    "change", [{"shards": [{"part": -1}]}, {"latent_shape": [0, 1, 1]}, {"max_lengths": "x"}]
)
def test_an_index_that_is_damaged(tmp_path, change):
    write(tmp_path, 1)
    path = tmp_path / LATENTS_NAME
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(DataError, match=r"latents\.json"):
        LatentShards(tmp_path)
