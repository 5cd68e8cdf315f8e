"""The collectives between two real gloo processes, with numbers worked out by hand."""

import os
import socket
from datetime import timedelta

import pytest
import torch
import torch.multiprocessing

from alignment import parallel
from alignment.parallel import World, join_world, leave_world, world


@pytest.mark.parametrize("count", [0, 1, 2, 7, 8])
def test_shares_follow_each_other_and_differ_by_at_most_one(count):
    items = list(range(count))
    ranks = [World(rank, 3) for rank in range(3)]
    shares = [one.share(items) for one in ranks]
    assert [item for share in shares for item in share] == items
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(not share or share[0] == one.first(count) for one, share in zip(ranks, shares, strict=True))


def test_seven_items_for_three_ranks():
    assert [World(rank, 3).share("abcdefg") for rank in range(3)] == ["abc", "de", "fg"]
    assert [World(rank, 3).first(7) for rank in range(3)] == [0, 3, 5]


def test_alone_nothing_is_sent_and_nothing_changes():
    alone = world()  # no process group: any collective would raise
    tensor = torch.tensor([1.0, 2.0])
    assert alone == World(0, 1)
    assert alone.main
    alone.sum_([tensor])
    alone.barrier()
    assert tensor.tolist() == [1.0, 2.0]
    assert alone.gather((1, 2)) == [1, 2]
    assert alone.broadcast("x") == "x"
    assert alone.share([1, 2, 3]) == [1, 2, 3]


def in_two_processes(function):
    """Run `function(rank)` in two gloo processes; their failures are raised here."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    torch.multiprocessing.spawn(_enter, args=(function, port), nprocs=2)


def _enter(rank, function, port):
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": str(rank),
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(port),
    }
    torch.set_num_threads(1)
    parallel._TIMEOUT = timedelta(seconds=30)
    assert join_world("cpu") == World(rank, 2) == world()
    function(rank)
    leave_world()
    assert world() == World(0, 1)


def _exchange(rank):
    here = world()
    assert here.main == (rank == 0)
    assert here.gather(["a", "b"] if rank == 0 else ["c"]) == ["a", "b", "c"]
    assert here.gather([] if rank == 0 else [{"ids": (1, 2)}]) == [{"ids": (1, 2)}]
    assert here.broadcast({"seed": 7 + rank}) == {"seed": 7}
    here.barrier()


def _add(rank):
    """Rank 0 holds 1, rank 1 holds 10, times the element's number: the sum is 11 times it."""
    here = world()
    parallel._BUCKET_BYTES = 16  # four fp32 numbers, so that buckets split between and inside the list
    own = 10.0**rank
    floats = [torch.arange(n, dtype=torch.float32) * own for n in (2, 2, 1, 9, 0, 3)]
    transposed = (torch.arange(6.0).reshape(2, 3) * own).T
    counts = torch.tensor([3 + rank, 2**40], dtype=torch.int64)
    scalar = torch.tensor(0.5 + rank, dtype=torch.float64)
    here.sum_(iter([*floats, transposed, counts, scalar]))
    for tensor in floats:
        assert tensor.tolist() == [11.0 * i for i in range(len(tensor))]
    assert transposed.tolist() == [[0.0, 33.0], [11.0, 44.0], [22.0, 55.0]]
    assert counts.tolist() == [7, 2**41]
    assert scalar.item() == 2.0


def _add_to_slice(rank):
    """A tensor that is no whole storage: its neighbours stay as they are."""
    whole = torch.full((4, 4), float(rank))
    world().sum_([whole[:, 1], torch.ones(2)])
    assert whole[:, 1].tolist() == [1.0] * 4
    assert whole[:, 0].tolist() == [float(rank)] * 4


def _all(rank):
    _exchange(rank)
    _add(rank)
    _add_to_slice(rank)


def test_two_processes_exchange_objects_and_sum_tensors_of_every_dtype_shape_and_bucket():
    in_two_processes(_all)
