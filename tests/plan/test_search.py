"""The search's arithmetic and its order, with a compiler that is made up."""

import dataclasses

import pytest

from xtr.errors import UserError
from xtr.parallel import topology
from xtr.plan import search
from xtr.plan.estimate import Estimate, Seconds

SLICE = topology.parse("v5e:2x4")


def test_candidates_divide_devices_heads_and_rows(plan_run):
    found = list(search.candidates(plan_run, SLICE))
    assert len(set(found)) == len(found)
    for c in found:
        assert c.mesh.replica * c.mesh.fsdp * c.mesh.tensor == 8
        assert plan_run.train.model.num_heads % c.mesh.tensor == 0
        assert plan_run.train.batch_size % (c.mesh.replica * c.mesh.fsdp * c.microbatches) == 0
    assert {c.remat for c in found} >= {"none", "full"}
    assert {c.mesh.tensor for c in found} == {1, 2, 4}


def test_slices_are_replicas(plan_run):
    assert all(c.mesh.replica % 2 == 0 for c in search.candidates(plan_run, topology.parse("v5e:2x2", 2)))


def test_a_candidate_is_applied_as_its_gin_lines_say(plan_run):
    candidate = next(c for c in search.candidates(plan_run, SLICE) if c.microbatches == 2 and c.remat == "full")
    train = candidate.apply(plan_run).train
    assert (train.mesh, train.num_microbatches, train.model.remat) == (candidate.mesh, 2, "full")
    assert "NUM_MICROBATCHES = 2" in candidate.gin_lines() and "REMAT = 'full'" in candidate.gin_lines()


def test_more_memory_for_less_work(plan_run):
    def bounds(**changes):
        base = search.Candidate(search.MeshConfig(1, 8, 1), 1, "full")
        own = dataclasses.replace(base, **changes)
        return search.least_bytes(plan_run, own), search.least_seconds(plan_run, SLICE, own)

    (full_bytes, full_seconds), (bytes_, seconds) = bounds(), bounds(remat="none")
    assert full_bytes < bytes_ and full_seconds >= seconds
    assert bounds(microbatches=2)[0] < full_bytes and bounds(microbatches=2)[1] >= full_seconds
    assert bounds(mesh=search.MeshConfig(8, 1, 1))[0] > full_bytes


class _Compiler:
    """A store whose programs take as long as it is told, and of which some do not fit."""

    def __init__(self, seconds, fits=lambda candidate: True):
        self.seconds, self.fits, self.asked = seconds, fits, []


@pytest.fixture
def made_up(monkeypatch):
    def tried(run, topology, store, candidate):
        store.asked.append(candidate)
        fits, time = store.fits(candidate), store.seconds(candidate)
        own = Estimate(
            "train", "", {}, fits, None if fits else 2**30, None, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0,
            Seconds(time, 0, 0, 0, 0, 0) if fits else None, 1.0, 8, 1, 0.0, 0, {},
        )  # fmt: skip
        return search.Tried(candidate, own)

    monkeypatch.setattr(search, "_try", tried)


def test_what_fits_and_is_fast_comes_first(plan_run, made_up):
    compiler = _Compiler(lambda c: 1.0 + c.mesh.tensor, lambda c: c.remat != "none")
    told = []
    found = search.search(plan_run, SLICE, compiler, 12, told.append)
    assert len(compiler.asked) == len(told) == len(found.tried) == 12
    times = [t.estimate.step_seconds for t in found.tried if t.estimate.fits]
    assert times == sorted(times) and found.best.estimate.step_seconds == times[0]
    fits = [t.estimate.fits for t in found.tried]
    assert fits == sorted(fits, reverse=True) and not all(fits)
    assert found.left_out == len(list(search.candidates(plan_run, SLICE))) - 12


def test_it_ends_where_nothing_can_be_faster(plan_run, made_up):
    compiler = _Compiler(lambda c: 0.0)
    assert len(search.search(plan_run, SLICE, compiler, 50).tried) == 1


def test_nothing_fits(plan_run, made_up):
    assert search.search(plan_run, SLICE, _Compiler(lambda c: 1.0, lambda c: False), 3).best is None
    huge = dataclasses.replace(plan_run.train.model, vocab_size=2**30)
    with pytest.raises(UserError, match="the state alone is too large"):
        search.search(
            dataclasses.replace(plan_run, train=dataclasses.replace(plan_run.train, model=huge)), SLICE, None, 3
        )
    odd = dataclasses.replace(plan_run, train=dataclasses.replace(plan_run.train, batch_size=1))
    with pytest.raises(UserError, match="BATCH_SIZE 1 does not divide"):
        search.search(odd, topology.parse("v5e:4x4"), None, 3)
