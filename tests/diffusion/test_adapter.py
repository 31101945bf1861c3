"""An adapter that was taught other wordings."""

import torch

from auffusion_cli.diffusion.adapter import ConditionAdapter


def taught_adapter(n_layers=2):
    torch.manual_seed(0)
    adapter = ConditionAdapter(48, 64, n_layers)
    torch.nn.init.normal_(adapter.reword.out.weight)
    return adapter.eval()


def states_of(n_tokens, n_rows=9):
    states = torch.zeros(1, n_rows, 48)
    states[:, :n_tokens] = torch.randn(1, n_tokens, 48)
    return states


def test_an_adapter_to_be_taught_begins_as_the_one_that_was_trained():
    trained, adapter = ConditionAdapter(48, 64), ConditionAdapter(48, 64, n_layers=2)
    missing, unexpected = adapter.load_state_dict(trained.state_dict(), strict=False)
    assert not unexpected and all(name.startswith("reword.") for name in missing)
    states = states_of(5)
    torch.testing.assert_close(adapter(states), trained(states))


def test_a_taught_adapter_moves_the_tokens_and_not_the_padding():
    adapter, states = taught_adapter(), states_of(5)
    plain = adapter.norm(adapter.proj(states))
    taught = adapter(states)
    torch.testing.assert_close(taught[:, 5:], plain[:, 5:])
    assert (taught[:, :5] - plain[:, :5]).abs().amin(dim=(0, 2)).min() > 0


def test_a_taught_adapter_hears_the_sentence_but_not_how_far_it_is_padded():
    adapter, states = taught_adapter(), states_of(5)
    torch.testing.assert_close(adapter(states)[:, :6], adapter(states[:, :6]))
    other = states.clone()
    other[:, 4] += 1
    assert not torch.allclose(adapter(states)[:, 0], adapter(other)[:, 0])


def test_a_taught_adapter_can_take_nothing_at_all():
    assert taught_adapter()(torch.zeros(1, 9, 48)).isfinite().all()
