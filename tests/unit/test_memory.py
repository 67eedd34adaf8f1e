"""Memory of a stage: bytes per parameter under ZeRO, sums over stages, activations in flight."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from suanchou.model.activations import layer_activation_byte
from suanchou.model.parameters import parameter_count, weights
from suanchou.training.memory import (
    STAGES,
    ActivationTable,
    activation_table,
    host_byte,
    shard_count,
    stage_memory,
    stage_parameters,
)
from suanchou.training.pipeline import in_flight, stage_layers
from suanchou.training.problem import Problem
from suanchou.training.search import peak_memory
from suanchou.training.stack import stack
from suanchou.training.strategy import Strategy

NOTHING = ActivationTable(0.0, 0.0, 0.0, 0.0, 0.0)


def states(problem, s: Strategy) -> float:
    m = stage_memory(problem, s, NOTHING, "first")
    return float(m.weight + m.gradient + m.optimizer)


@pytest.fixture(scope="module")
def llama(problem):
    return problem("llama-3.1-8b", "dgx-h100:8", seq=2048, batch=64)


def test_the_default_stack_takes_18_bytes_per_parameter(llama):
    """bf16 weights 2, fp32 gradients 4, fp32 master weights and two Adam moments 12."""
    n = parameter_count(llama.work.arch)
    assert states(llama, Strategy()) == pytest.approx(18.0 * n, rel=1e-12)
    # Gradients in the training type make it the 16 bytes of the ZeRO paper.
    paper = replace(llama, stack=replace(llama.stack, gradient_byte=2.0))
    assert states(paper, Strategy()) == pytest.approx(16.0 * n, rel=1e-12)


@pytest.mark.parametrize(("zero", "per_parameter"), [(0, 18.0), (1, 6 + 12 / 64), (2, 2 + 16 / 64), (3, 18 / 64)])
def test_zero_splits_states_over_the_replicas(llama, zero, per_parameter):
    n = parameter_count(llama.work.arch)
    assert states(llama, Strategy(dp=64, zero=zero)) == pytest.approx(per_parameter * n, rel=1e-12)
    # Context-parallel ranks hold the same parameters, so they share the states, too.
    assert states(llama, Strategy(dp=16, cp=4, zero=zero)) == pytest.approx(per_parameter * n, rel=1e-12)


@pytest.mark.parametrize(("zero", "per_parameter"), [(1, 6 + 12 / 8), (2, 2 + 16 / 8), (3, 18 / 8)])
def test_hsdp_splits_states_over_a_node(llama, zero, per_parameter):
    n = parameter_count(llama.work.arch)
    assert states(llama, Strategy(dp=64, zero=zero, shard_domain=1)) == pytest.approx(per_parameter * n, rel=1e-12)


def test_replicas_in_a_domain(llama, problem):
    def count(**degrees) -> float:
        return float(shard_count(llama, Strategy(**degrees), expert=False))

    assert count(dp=32) == 32
    assert count(dp=32, shard_domain=1) == 8
    assert count(dp=32, tp=2, shard_domain=1) == 4
    assert count(dp=8, tp=8, shard_domain=1) == 1
    assert count(dp=4, tp=2, cp=2, shard_domain=1) == 4
    mixture = problem("mixtral-8x7b", "dgx-h100:8", seq=2048, batch=64)
    assert float(shard_count(mixture, Strategy(dp=64, ep=8), expert=True)) == 8
    assert float(shard_count(mixture, Strategy(dp=64, ep=8, shard_domain=1), expert=True)) == 1
    assert float(shard_count(mixture, Strategy(dp=64, ep=2, shard_domain=1), expert=True)) == 4


@pytest.mark.parametrize("model", ["llama-3.1-8b", "llama-3.2-1b", "gpt2-xl", "gpt-3-175b", "mixtral-8x7b", "deepseek-v3"])
@pytest.mark.parametrize("pp", [1, 2, 3, 4, 8, 16])
def test_stages_hold_every_parameter_once(problem, model, pp):
    """A tied head is a copy on the last of several stages."""
    p = problem(model, "dgx-h100:8", seq=1024, batch=64)
    arch = p.work.arch
    if pp > arch.n_layer:
        pytest.skip("more stages than layers")
    parts = {stage: stage_parameters(p, Strategy(pp=pp), stage) for stage in STAGES}
    size = {stage: float(part.dense + part.expert) for stage, part in parts.items()}
    layers = {stage: float(n) for stage, n in zip(STAGES, stage_layers(p.n_layer, pp, 1), strict=True)}
    if pp == 1:
        held = size["first"]
    else:
        rest = p.n_layer - layers["first"] - layers["last"]
        per_layer = size["middle"] / layers["middle"]
        held = size["first"] + rest * per_layer + size["last"]
    tied = arch.vocab * (arch.d_embed or arch.d_model) if arch.tied and pp > 1 else 0
    assert held == pytest.approx(parameter_count(arch, mtp=bool(arch.mtp)) + tied, rel=1e-9)


@pytest.mark.parametrize(("model", "tp", "ep"), [("llama-3.1-70b", 8, 1), ("llama-3.1-70b", 16, 1), ("mixtral-8x7b", 4, 8)])
def test_ranks_hold_shards(problem, model, tp, ep):
    """Counted from the list of tensors: what TP splits, what it copies, and experts split by both."""
    p = problem(model, "dgx-h100:8", seq=1024, batch=64)
    mixer = p.work.arch.layers[0].mixer
    dense = expert = 0.0
    for w in weights(p.work.arch):
        if w.shard == "expert":
            expert += w.size / (tp * ep)
        elif w.shard == "replicated":
            dense += w.size
        else:
            dense += w.size / (min(tp, mixer.n_kv_head) if w.shard == "kv" else tp)
    found = stage_parameters(p, Strategy(tp=tp, ep=ep), "first")
    assert float(found.dense) == pytest.approx(dense, rel=1e-12)
    assert float(found.expert) == pytest.approx(expert, rel=1e-12)


def test_activations_of_a_stage(llama):
    acts = ActivationTable(1000.0, 600.0, 100.0, 7.0, 50.0)
    pipeline = Strategy(pp=4, dp=2)

    def kept(s: Strategy, stage: str = "first") -> float:
        return float(stage_memory(llama, s, acts, stage).activation)

    # 8 layers a stage; 4, 3 and 1 micro-batches in flight; the embedding's on the first stage only.
    assert kept(pipeline) == 8 * 4 * 1000 + 4 * 7
    assert kept(pipeline, "middle") == 8 * 3 * 1000
    assert kept(pipeline, "last") == 8 * 1 * 1000
    assert kept(replace(pipeline, selective=1)) == 8 * 4 * 600 + 4 * 7
    # A quarter of the layers keeps its input only.
    assert kept(replace(pipeline, full_frac=0.25), "middle") == 8 * 3 * (0.75 * 1000 + 0.25 * 100)
    assert kept(replace(pipeline, full_frac=1.0), "middle") == 8 * 3 * 100
    assert kept(replace(pipeline, offload_activation=1), "middle") == 2 * 1000
    heads = [float(stage_memory(llama, pipeline, acts, stage).head) for stage in STAGES]
    assert heads == [0.0, 0.0, 50.0]
    assert float(stage_memory(llama, Strategy(), acts, "first").head) == 50.0


def test_the_fullest_moment_is_a_backward_pass_or_the_loss(llama):
    acts = ActivationTable(
        1000.0, 600.0, 100.0, 7.0, 50.0, loss=300.0, working=200.0, whole=1000.0, core=400.0, placeholder=9.0
    )
    pipeline = Strategy(pp=4, dp=2)

    def moment(s: Strategy, stage: str) -> tuple[float, float]:
        memory = stage_memory(llama, s, acts, stage)
        return float(memory.head), float(memory.working)

    assert moment(pipeline, "first") == (0.0, 200.0 + 9.0)
    # the loss is past before the first backward pass begins, so the larger of the two counts
    assert moment(pipeline, "last") == (50.0 + 300.0, 9.0)
    assert moment(replace(pipeline, full_frac=0.25), "last") == (50.0 + 300.0, 200.0 + 1000.0 - 300.0 + 9.0)
    # one whole layer, or the core of one, is there while it runs again
    assert moment(replace(pipeline, full_frac=1.0), "middle") == (0.0, 200.0 + 1000.0 + 9.0)
    assert moment(replace(pipeline, selective=1), "middle") == (0.0, 200.0 + 400.0 + 9.0)


def test_stages_keep_what_their_own_layers_keep(problem):
    """Counted layer by layer: DeepSeek-V3's first three layers are dense and keep less than the mixtures behind them."""
    p = problem("deepseek-v3", "dgx-h100:8", seq=1024, batch=64)
    layers, d_model = p.work.arch.layers, p.work.arch.d_model
    for pp, virtual in ((1, 1), (8, 1), (61, 1)):
        s = Strategy(pp=pp, virtual=virtual)
        first, middle, last = (int(n) for n in stage_layers(len(layers), pp, virtual))
        ends = len(layers) - last
        of = {"first": layers[:first], "middle": layers[ends - middle : ends] or layers, "last": layers[ends:]}
        acts = activation_table(p, s)
        for stage in STAGES if pp > 1 else ("first",):
            expected = sum(float(layer_activation_byte(layer, d_model, p.shape(s))) for layer in of[stage])
            found = len(of[stage]) * float(acts.none + getattr(acts, f"excess_{stage}"))
            assert found == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize(("pp", "virtual"), [(4, 2), (5, 3), (8, 7)])
def test_interleaved_stages_share_out_all_layers(problem, pp, virtual):
    """Chunk by chunk: what all stages together hold of every kind is the model."""
    p = problem("deepseek-v3", "dgx-h100:8", seq=1024, batch=64)
    layers = [layer.ffn for layer in p.work.arch.layers]
    width = len(layers) / (pp * virtual)
    first = sum(
        width if (chunk * pp) * width >= 3 else min(width, max(0.0, (chunk * pp + 1) * width - 3)) for chunk in range(virtual)
    )
    held = float(stage_layers(len(layers), pp, virtual).first)
    of_mixtures = stage_parameters(p, Strategy(pp=pp, virtual=virtual), "first").expert
    one = next(w.size for w in weights(p.work.arch) if w.name.endswith("moe.expert.up")) * 3
    assert float(of_mixtures) == pytest.approx(one * first * held / (width * virtual), rel=1e-9)


def test_te_keeps_one_placeholder_per_shape(problem):
    """bf16 matrices of one layer, counted by hand; transformer_engine 1 frees each, so the largest counts."""
    p = problem("llama-3.1-8b", "dgx-h100:8", seq=2048, batch=64)
    d, ff, kv = 4096, 14336, 1024
    matrices = d * d + 2 * kv * d + d * d + 3 * d * ff
    assert float(activation_table(p, Strategy()).placeholder) == 2 * matrices
    assert float(activation_table(p, Strategy(tp=4)).placeholder) == 2 * matrices / 4
    freed = replace(p, stack=replace(p.stack, placeholder="freed"))
    assert float(activation_table(freed, Strategy()).placeholder) == 2 * d * ff
    none = replace(p, stack=replace(p.stack, placeholder="none"))
    assert float(activation_table(none, Strategy()).placeholder) == 0.0


def test_the_loss_is_all_copies_of_the_logits_or_the_head_s_backward_pass(problem):
    p = problem("llama-3.1-8b", "dgx-h100:8", seq=2048, batch=64)
    token, d, vocab = 2048, 4096, 128256
    head = 2 * token * vocab + 2 * 2 * token * d + 2 * vocab * d
    assert float(activation_table(p, Strategy()).loss) == head
    eager = replace(p, stack=replace(p.stack, loss_peak_byte=12.0))
    assert float(activation_table(eager, Strategy()).loss) == 12 * token * vocab


def test_all_to_all_context_parallelism_keeps_the_core_s_output_twice(problem):
    p = problem("llama-3.1-8b", "dgx-h100:8", seq=8192, batch=64)
    ring, dealt = (activation_table(p, Strategy(cp=4, ulysses=ulysses)) for ulysses in (0, 1))
    assert float(dealt.none - ring.none) == 2 * 8192 / 4 * 4096
    assert float(dealt.selective) == float(ring.selective)


def test_zero_3_gathers_what_the_stack_keeps_alive(llama):
    n = parameter_count(llama.work.arch)

    def gathered(**fields) -> float:
        stack = replace(llama.stack, gradient_reduce_byte=4.0, **fields)
        return float(stage_memory(replace(llama, stack=stack), Strategy(dp=64, zero=3), NOTHING, "first").gathered)

    # two layers' weights and one layer's gradients
    assert gathered() == pytest.approx((2 * 2 + 4) * n / 32)
    assert gathered(live_parameters=1e9) == pytest.approx(2 * 1e9 + 4 * n / 32)
    assert gathered(live_parameters=1e12) == pytest.approx(2 * n + 4 * n / 32)
    assert gathered(bucket_byte=7e8) == pytest.approx((2 * 2 + 4) * n / 32 + 7e8)


def test_a_full_device_squeezes_the_allocator(problem):
    p = problem("llama-3.1-8b", "dgx-h100:8", seq=2048, batch=64)
    capacity, stack = p.memory_byte, p.stack
    totals = []
    for share in np.linspace(0.3, 1.3, 41):
        memory = stage_memory(p, Strategy(dp=64, zero=3), ActivationTable(share * capacity / 32, 0, 0, 0, 0), "first")
        tensors, fixed = float(memory.allocated), float(memory.communicator + memory.runtime)
        total, needed, high = (float(x) for x in (memory.total, memory.needed(stack), memory.high(stack, capacity)))
        assert needed == pytest.approx((1 + stack.allocator_need_frac) * tensors + fixed)
        # sums of the same terms in another order differ in the last digit
        least, most = needed * (1 - 1e-12), max(capacity, needed) * (1 + 1e-12)
        assert least <= total <= high * (1 + 1e-12) <= most * (1 + 1e-12)
        if (1 + stack.allocator_high_frac) * tensors + fixed <= capacity:
            assert total == pytest.approx((1 + stack.allocator_frac) * tensors + fixed)
            assert high == pytest.approx((1 + stack.allocator_high_frac) * tensors + fixed)
        totals.append(total)
    assert all(a <= b for a, b in pairwise(totals))
    assert any(total == pytest.approx(capacity) for total in totals)


def test_offloaded_states_leave_the_device_and_load_the_host(llama):
    n = parameter_count(llama.work.arch)
    s = Strategy(dp=8, zero=1, offload_optimizer=1, offload_weight=1)
    memory = stage_memory(llama, s, NOTHING, "first")
    assert (float(memory.optimizer), float(memory.weight)) == (0.0, 0.0)
    assert float(memory.gathered) == pytest.approx(2 * 2 * n / 32)
    # Each of the node's eight ranks keeps an eighth of the optimizer states and all weights there.
    assert float(host_byte(llama, s, NOTHING)) == pytest.approx(8 * (12 * n / 8 + 2 * n))
    assert float(host_byte(llama, Strategy(dp=8), NOTHING)) == 0.0


def test_offloaded_activations_load_the_host(llama):
    acts = ActivationTable(1000.0, 600.0, 100.0, 7.0, 50.0)
    s = Strategy(pp=4, dp=16, offload_activation=1)
    assert float(host_byte(llama, s, acts)) == pytest.approx(8 * 8 * 4 * 1000)


def test_communicators_runtime_and_allocator(llama):
    stack = llama.stack
    one = stage_memory(llama, Strategy(dp=8, zero=1), NOTHING, "first")
    assert float(one.communicator) == stack.communicator_byte
    assert float(one.runtime) == stack.runtime_byte
    assert float(stage_memory(llama, Strategy(tp=2, pp=2, cp=2), NOTHING, "first").communicator) == 4 * stack.communicator_byte
    tensors = one.weight + one.gradient + one.optimizer + one.activation + one.head + one.working + one.gathered
    assert float(one.allocator) == pytest.approx(stack.allocator_frac * float(tensors))
    assert float(one.total) == pytest.approx(float(sum(one)))


def test_peak_is_that_of_the_fullest_stage(llama):
    s = Strategy(pp=8, dp=8, micro_batch=2)
    acts = activation_table(llama, s)
    stages = [float(stage_memory(llama, s, acts, stage).total) for stage in STAGES]
    assert float(peak_memory(llama, s, acts)) == max(stages)
    assert len({round(x) for x in stages}) == 3


def test_recomputation_keeps_less_and_tp_with_sp_splits_it(llama):
    acts = activation_table(llama, Strategy(micro_batch=np.array([1.0, 2.0])))
    assert np.all(acts.none > acts.selective)
    assert np.all(acts.selective > acts.full)
    np.testing.assert_allclose(acts.none[1], 2 * acts.none[0], rtol=1e-12)
    plain, sp = (activation_table(llama, Strategy(tp=8, sp=sp)) for sp in (0, 1))
    whole = activation_table(llama, Strategy())
    # A layer's input: 2048 tokens of 4096 channels in bf16, an eighth of it with SP.
    assert float(whole.full) == float(plain.full) == 2048 * 4096 * 2
    assert float(sp.full) == 2048 * 4096 * 2 / 8
    assert float(whole.none) / 8 <= float(sp.none) < float(plain.none) < float(whole.none)


def test_in_flight_is_that_of_the_stage(llama):
    acts = ActivationTable(1.0, 1.0, 1.0, 0.0, 0.0)
    s = Strategy(pp=4, virtual=2, dp=2)
    for stage, index in (("first", 0), ("middle", 1), ("last", 3)):
        expected = 8 * float(in_flight(4, 2, 32, index))
        assert float(stage_memory(llama, s, acts, stage).activation) == pytest.approx(expected)


def test_frozen_weights_are_stored_in_the_type_they_are_read_in(llama):
    """NeMo keeps a frozen model in fp8; a model that trains, or one in bf16, stays in two bytes."""
    n = parameter_count(llama.work.arch)
    frozen = replace(llama.work, adapter_rank=16)
    for work, name, fp8, byte in (
        (frozen, "nemo", 1, 1.0),
        (frozen, "nemo", 0, 2.0),
        (llama.work, "nemo", 1, 2.0),
        (frozen, "megatron-core", 1, 2.0),
    ):
        given = Problem(work=work, cluster=llama.cluster, stack=stack(name))
        assert float(stage_memory(given, Strategy(fp8=fp8), NOTHING, "first").weight) == pytest.approx(byte * n, rel=1e-12)


@pytest.mark.parametrize("schedule", [0, 1, 2, 3])
def test_ranks_hold_every_parameter_once_or_twice(problem, schedule):
    """Over all ranks of a pipeline: each parameter as often as the schedule has copies."""
    p = problem("llama-3.1-8b", "dgx-h100:1", seq=2048, batch=64)
    s = Strategy(pp=8, schedule=schedule, virtual=2 if schedule == 2 else 1)
    one = float(stage_parameters(p, Strategy(), "first").dense)
    held = {stage: float(stage_parameters(p, s, stage).dense) for stage in ("first", "middle", "last")}
    total = held["first"] + 6 * held["middle"] + held["last"]
    assert total == pytest.approx((2 if schedule == 3 else 1) * one)


def test_a_rank_holds_the_kinds_of_layers_of_both_its_stages(problem):
    """DeepSeek-V2 begins with a dense layer. DualPipe: the stages of 1F1B from both ends; ZB-V: halves of the model folded."""
    p = problem("deepseek-v2", "dgx-h100:8", seq=1024, batch=64)

    def held(stage: str, **fields: int):
        return np.array(stage_parameters(p, Strategy(**fields), stage), dtype=float)

    plain = {stage: held(stage, pp=4) for stage in STAGES}
    both = {stage: held(stage, pp=4, schedule=3) for stage in STAGES}
    assert both["first"] == pytest.approx(plain["first"] + plain["last"], rel=1e-12)
    assert both["last"] == pytest.approx(both["first"], rel=1e-12)
    assert both["middle"] == pytest.approx(2 * plain["middle"], rel=1e-12)
    whole = held("first")
    folded = held("first", pp=2, schedule=2, virtual=2), held("last", pp=2, schedule=2, virtual=2)
    assert sum(folded) == pytest.approx(whole, rel=1e-12)
    one_mixture = whole[1] / 59
    assert [part[1] / one_mixture for part in folded] == pytest.approx([29.0, 30.0])
