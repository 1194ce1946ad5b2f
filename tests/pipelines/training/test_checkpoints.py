"""A checkpoint restores the state that was saved, or says why it cannot."""

import pytest
import torch
from torch import nn

from nightpress.diffusion_core.training import Ema
from nightpress.pipelines.errors import CheckpointError
from nightpress.pipelines.storage import Store
from nightpress.pipelines.training import checkpoints
from nightpress.pipelines.training.checkpoints import TrainingState
from nightpress.pipelines.training.layout import checkpoint_path, checkpoint_steps


@pytest.fixture
def store(tmp_path) -> Store:
    return Store(str(tmp_path / "run"))


def state_of(seed: int, width: int = 4, averaged: bool = True) -> tuple[nn.Module, TrainingState]:
    torch.manual_seed(seed)
    network = nn.Sequential(nn.Linear(3, width), nn.Linear(width, 1))
    parameters = dict(network.named_parameters())
    optimizer = torch.optim.AdamW(parameters.values(), lr=0.1)
    ema = Ema(parameters.values(), 0.5) if averaged else None
    return network, TrainingState(parameters, optimizer, ema)


def take_steps(network: nn.Module, state: TrainingState, num: int) -> None:
    for step in range(num):
        inputs = torch.linspace(-1, 1, 6).view(2, 3) + step
        state.optimizer.zero_grad()
        network(inputs).square().mean().backward()
        state.optimizer.step()
        if state.ema is not None:
            state.ema.update(network.parameters())


def test_training_resumes_as_if_it_had_never_stopped(store) -> None:
    network, state = state_of(seed=0)
    take_steps(network, state, 5)
    checkpoints.save(store, 5, state, {})
    take_steps(network, state, 5)

    other, resumed = state_of(seed=1)
    checkpoints.load(store, 5, resumed)
    take_steps(other, resumed, 5)

    mine, theirs = state.tensors(), resumed.tensors()
    assert mine.keys() == theirs.keys()
    assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    assert state.ema.num_updates == resumed.ema.num_updates


def test_a_worker_without_a_moving_average_loads_the_same_checkpoint(store) -> None:
    network, state = state_of(seed=0)
    take_steps(network, state, 2)
    checkpoints.save(store, 2, state, {})
    other, follower = state_of(seed=1, averaged=False)
    checkpoints.load(store, 2, follower)
    assert all(
        torch.equal(a, b) for a, b in zip(network.parameters(), other.parameters(), strict=True)
    )


def test_a_checkpoint_of_another_network_is_refused_and_changes_nothing(store) -> None:
    network, state = state_of(seed=0, width=8)
    take_steps(network, state, 1)
    checkpoints.save(store, 1, state, {})
    _, other = state_of(seed=1)
    before = other.tensors()
    with pytest.raises(
        CheckpointError, match=r"model\.0\.weight has shape \(8, 3\) instead of \(4, 3\)"
    ):
        checkpoints.load(store, 1, other)
    after = other.tensors()
    assert all(torch.equal(before[key], after[key]) for key in before)


def test_a_damaged_checkpoint_is_named(store) -> None:
    _, state = state_of(seed=0)
    store.put(checkpoint_path(3), b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"step-00000003\.safetensors: damaged"):
        checkpoints.load(store, 3, state)


@pytest.mark.parametrize("damage", [b"", b"not a checkpoint", None])
def test_the_newest_checkpoint_that_is_whole_is_loaded(store, damage) -> None:
    network, state = state_of(seed=0)
    for step in (1, 2, 3):
        take_steps(network, state, 1)
        checkpoints.save(store, step, state, {})
        if step == 1:
            whole = {key: value.clone() for key, value in state.tensors().items()}
    for step in (2, 3):
        data = store.read(checkpoint_path(step))
        store.put(checkpoint_path(step), data[:-100] if damage is None else damage)
    _, resumed = state_of(seed=1)
    assert checkpoints.load_newest(store, resumed) == (1, (3, 2))
    assert all(torch.equal(whole[key], value) for key, value in resumed.tensors().items())
    checkpoints.set_aside(store, (3, 2))
    assert checkpoint_steps(store) == [1]
    assert f"{checkpoint_path(3)}.damaged" in store.list("checkpoints")


def test_checkpoints_none_of_which_is_whole_are_refused_and_kept(store) -> None:
    _, state = state_of(seed=0)
    assert checkpoints.load_newest(store, state) == (0, ())
    for step in (3, 5):
        store.put(checkpoint_path(step), b"not a checkpoint")
    with pytest.raises(CheckpointError, match=r"00005\.safetensors: damaged.*; no other .* whole"):
        checkpoints.load_newest(store, state)
    assert checkpoint_steps(store) == [3, 5]


def test_no_older_checkpoint_is_tried_when_one_belongs_to_another_network(store) -> None:
    checkpoints.save(store, 1, state_of(seed=0)[1], {})
    checkpoints.save(store, 2, state_of(seed=0, width=8)[1], {})
    with pytest.raises(CheckpointError, match="checkpoint of another model"):
        checkpoints.load_newest(store, state_of(seed=1)[1])


def test_pruning_keeps_the_newest_checkpoints_and_other_objects(store) -> None:
    network, state = state_of(seed=0)
    take_steps(network, state, 1)
    for step in (10, 20, 30):
        checkpoints.save(store, step, state, {})
    store.put("checkpoints/notes.txt", b"mine")
    checkpoints.prune(store, keep=2)
    assert checkpoint_steps(store) == [20, 30]
    assert store.read("checkpoints/notes.txt") == b"mine"
