"""Networks that are split, in a launch of one process; one of two is in `test_train.py`."""

from types import SimpleNamespace

import pytest
import torch
from accelerate.utils import FullyShardedDataParallelPlugin
from torch import nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

from auffusion_cli.errors import UsageError
from auffusion_cli.training.sharding import split, split_like, whole

ALONE = SimpleNamespace(
    device=torch.device("cpu"), num_processes=1, is_main_process=True, mixed_precision="no"
)


@pytest.fixture(autouse=True)
def launch():
    torch.distributed.init_process_group(
        "gloo", store=torch.distributed.HashStore(), rank=0, world_size=1
    )
    yield
    torch.distributed.destroy_process_group()


class Network(nn.Module):
    def __init__(self):
        super().__init__()
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 4))])
        self.out = nn.Linear(4, 2)

    def forward(self, x):
        return self.out(self.blocks[0](x))


def sharding(policy, **options):
    return FullyShardedDataParallelPlugin(fsdp_version=2, auto_wrap_policy=policy, **options)


@pytest.mark.parametrize(
    ("asked", "units"),
    [
        (sharding("NO_WRAP"), [""]),
        (
            sharding("TRANSFORMER_BASED_WRAP", transformer_cls_names_to_wrap=["Sequential"]),
            ["", "blocks.0"],
        ),
        (
            sharding("SIZE_BASED_WRAP", min_num_params=20),
            ["", "blocks.0", "blocks.0.0", "blocks.0.1"],
        ),
    ],
)
def test_a_split_network_computes_the_same_by_its_units(asked, units):
    network, inputs = Network(), torch.randn(3, 4)
    expected, weights = network(inputs), network.state_dict()
    part = split(network, asked, ALONE)
    assert all(isinstance(parameter, DTensor) for parameter in part.parameters())
    named = [name for name, module in part.named_modules() if isinstance(module, FSDPModule)]
    assert named == units
    torch.testing.assert_close(part(inputs), expected)
    torch.testing.assert_close(whole(part.state_dict()), dict(weights))
    assert not isinstance(network.out.weight, DTensor)


def test_what_is_whole_is_split_again_as_its_parameter():
    part = split(Network(), sharding("NO_WRAP"), ALONE)
    parameter = part.out.weight
    again = split_like(whole(parameter), parameter)
    assert isinstance(again, DTensor) and again.placements == parameter.placements
    step = torch.tensor(3.0)
    assert split_like(step, parameter) is step and whole([step]) == [step]


def test_a_class_that_is_not_there_is_named():
    asked = sharding("TRANSFORMER_BASED_WRAP", transformer_cls_names_to_wrap=["Elsewhere"])
    with pytest.raises(UsageError, match="Elsewhere"):
        split(Network(), asked, ALONE)
