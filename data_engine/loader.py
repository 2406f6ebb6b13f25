"""PyTorch's side of a mixture: a map-style Dataset with its Sampler, and an IterableDataset that resumes anywhere.

Both give the same samples in the same global order, for any number of workers and ranks::

    mixture = data_engine.mixture.open("s3://bucket/lake/mixtures/4f0c...")
    dataset = MixtureDataset(mixture, Windows(history=2, action_horizon=16))
    sampler = MixtureSampler(dataset, rank, world_size)
    for batch in DataLoader(dataset, batch_size=64, sampler=sampler, collate_fn=collate, num_workers=4):
        ...

``mixture.samples()`` gives the same as numpy arrays without torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset, IterableDataset, Sampler, default_collate, get_worker_info

from data_engine.errors import RequestError
from data_engine.mixture import Mixture
from data_engine.samples import samples_of
from data_engine.windows import Windows

__all__ = ["Batch", "MixtureDataset", "MixtureSampler", "MixtureStream", "Windows", "collate"]

Index = int | tuple[int, int]


class Batch(Sequence[dict[str, Any]]):
    """Samples that were read together: ``tensors`` has them batch first, and each one is a view of that."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        self.arrays = arrays

    @property
    def tensors(self) -> dict[str, Any]:
        """The batch as a dictionary of tensors, texts as lists."""
        return {name: _tensor(values) for name, values in self.arrays.items()}

    def __len__(self) -> int:
        return len(self.arrays["index"])

    def __getitem__(self, i: Any) -> Any:
        return {
            name: _tensor(values[i, ...]) if isinstance(values, np.ndarray) else values[i]
            for name, values in self.arrays.items()
        }


def _tensor(values: Any) -> Any:
    return torch.from_numpy(values) if isinstance(values, np.ndarray) else values


def collate(samples: Any) -> dict[str, Any]:
    """A batch as a dictionary of tensors (texts as lists). Costs nothing for a :class:`Batch`."""
    return samples.tensors if isinstance(samples, Batch) else default_collate(samples)


class MixtureDataset(Dataset[dict[str, Any]]):
    """Map-style: sample k of an epoch, a pure function of (mixture id, seed, split, epoch, k). Nothing needs shuffling.

    An index is k, of epoch ``epoch``, or a pair (epoch, k) as :class:`MixtureSampler` gives it, which holds in
    workers that live longer than an epoch too. A sample is what :meth:`data_engine.samples.Samples.read` describes,
    as tensors without the batch dimension; :meth:`__getitems__` reads a batch at once, which is far faster, and
    DataLoader uses it.
    """

    def __init__(
        self,
        mixture: Mixture,
        windows: Windows | None = None,
        *,
        split: str = "train",
        epoch: int = 0,
        seed: int | None = None,
    ) -> None:
        self.samples = samples_of(mixture, windows, split=split, seed=seed)
        self.epoch = epoch

    def set_epoch(self, epoch: int) -> None:
        """The epoch that a plain index means, in this process."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.samples.size(self.epoch)

    def __getitem__(self, index: Index) -> dict[str, Any]:
        epoch, k = index if isinstance(index, tuple) else (self.epoch, index)
        found = self.samples.one(epoch, int(k))
        for name, values in found.items():  # a call less for each of a dozen: that is felt here
            if isinstance(values, np.ndarray):
                found[name] = torch.from_numpy(values)
        return found

    def __getitems__(self, indices: Sequence[Index]) -> Batch:
        """The samples of ``indices``, read at once. Raises ``RequestError`` where they are of unlike datasets."""
        if isinstance(indices[0], tuple):
            epochs, k = np.array(indices, np.int64).T
            if (epochs != epochs[0]).any():
                raise RequestError("a batch holds samples of two epochs", code="two_epochs", fix="one sampler an epoch")
            return Batch(self.samples.read(int(epochs[0]), np.ascontiguousarray(k)))
        return Batch(self.samples.read(self.epoch, np.array(indices, np.int64)))


class MixtureSampler(Sampler[tuple[int, int]]):
    """Rank r of W takes the samples k = r mod W, from global position ``start`` on, in order.

    To resume, give the number of samples that all ranks together have had as ``start``: ``world_size`` may have
    changed. ``even`` (default) leaves out the last samples that not every rank would have, so that no rank waits for
    another.
    """

    def __init__(
        self,
        dataset: MixtureDataset,
        rank: int = 0,
        world_size: int = 1,
        *,
        start: int = 0,
        epoch: int | None = None,
        even: bool = True,
    ) -> None:
        _check_rank(rank, world_size)
        self.dataset, self.rank, self.world_size, self.start, self.even = dataset, rank, world_size, start, even
        self.epoch = dataset.epoch if epoch is None else epoch

    def set_epoch(self, epoch: int) -> None:
        """Go on with ``epoch`` from its first sample."""
        self.epoch, self.start = epoch, 0

    def _positions(self) -> range:
        return _positions(self.dataset.samples.size(self.epoch), self.start, self.rank, self.world_size, self.even)

    def __len__(self) -> int:
        return len(self._positions())

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch = self.epoch
        return ((epoch, k) for k in self._positions())


class MixtureStream(IterableDataset[dict[str, Any]]):
    """Batches of the k = r mod W of rank r of W, as tensors, batch first; give it to ``DataLoader(batch_size=None)``.

    The order does not depend on the DataLoader's workers: batch j is made by worker j mod N. Each batch carries
    ``epoch`` and ``index``, and its state follows from them, so a checkpoint is a few bytes::

        state = stream.state_dict(batch)     # after `batch`; without workers stream.state_dict() does
        stream.load_state_dict(state)        # in any later stream over the mixture, of any world size

    Each iteration runs from the state that was loaded, or the epoch's start, to the epoch's end; ``set_epoch`` goes on.
    """

    def __init__(
        self,
        mixture: Mixture,
        windows: Windows | None = None,
        *,
        batch_size: int = 64,
        rank: int = 0,
        world_size: int = 1,
        split: str = "train",
        epoch: int = 0,
        seed: int | None = None,
        even: bool = True,
    ) -> None:
        _check_rank(rank, world_size)
        if batch_size < 1:
            raise RequestError(f"batch_size {batch_size} is below 1", code="bad_batch_size")
        self.samples = samples_of(mixture, windows, split=split, seed=seed)
        self.batch_size, self.rank, self.world_size, self.even = batch_size, rank, world_size, even
        self.set_epoch(epoch)

    def set_epoch(self, epoch: int) -> None:
        """Go on with ``epoch`` from its first sample."""
        self.load_state_dict({"epoch": epoch, "position": 0})

    def state_dict(self, batch: Mapping[str, Any] | None = None) -> dict[str, int]:
        """Where the stream is after ``batch``, or after the last batch given in this process: epoch and global
        position.

        The position counts the samples of all ranks, which move in step; every rank's state is the same.
        """
        if batch is None:
            return dict(self._state)
        if int(batch["epoch"][0]) != self.epoch:
            raise RequestError(f"the batch is of epoch {int(batch['epoch'][0])}, the stream in {self.epoch}")
        behind = (self.rank - self.position) % self.world_size  # how far into a round of all ranks this one comes
        after = int(batch["index"][-1]) - behind + self.world_size
        return {"epoch": self.epoch, "position": min(after, self.samples.size(self.epoch))}

    def load_state_dict(self, state: Mapping[str, int]) -> None:
        """Go on from ``state``, whatever the world size it was taken under."""
        self.epoch, self.position = int(state["epoch"]), int(state["position"])
        self._state = {"epoch": self.epoch, "position": self.position}

    def _positions(self) -> range:
        return _positions(self.samples.size(self.epoch), self.position, self.rank, self.world_size, self.even)

    def __len__(self) -> int:
        """Batches left in the epoch."""
        return -(-len(self._positions()) // self.batch_size)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        worker = get_worker_info()
        number, workers = (worker.id, worker.num_workers) if worker else (0, 1)
        epoch, positions = self.epoch, self._positions()
        for first in range(number * self.batch_size, len(positions), workers * self.batch_size):
            k = np.arange(*_bounds(positions[first : first + self.batch_size]))
            batch = Batch(self.samples.read(epoch, k)).tensors
            if worker is None:
                self._state = self.state_dict(batch)
            yield batch


def _positions(size: int, start: int, rank: int, world_size: int, even: bool) -> range:
    """The k in [start, size) with k = rank mod world_size; ``even`` cuts to as many as every rank has."""
    first = start + (rank - start) % world_size
    positions = range(first, size, world_size)
    return positions[: max(size - start, 0) // world_size] if even else positions


def _bounds(positions: range) -> tuple[int, int, int]:
    return positions.start, positions.stop, positions.step


def _check_rank(rank: int, world_size: int) -> None:
    if not 0 <= rank < world_size:
        raise RequestError(f"rank {rank} of {world_size} ranks", code="bad_rank", fix="0 <= rank < world_size")
