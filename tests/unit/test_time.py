"""Step time by hand, from made-up layer times; and what each parallelism sends."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from suanchou.cost.collectives import distinct
from suanchou.cost.kernels import kernels_s
from suanchou.model.architecture import MoE
from suanchou.training.layer_time import LayerTime, layer_time
from suanchou.training.memory import ActivationTable, activation_table, stage_parameters
from suanchou.training.pipeline import parameter_copies, stage_ends, stage_layers
from suanchou.training.strategy import Strategy, layouts
from suanchou.training.time import stage_time, step_halves, step_time, step_total_s

NOTHING = ActivationTable(0.0, 0.0, 0.0, 0.0, 0.0)
PLAIN = LayerTime(
    forward=1.0,
    backward=2.0,
    core=0.25,
    tensor_forward=0.0,
    tensor_backward=0.0,
    context_forward=0.0,
    context_backward=0.0,
    ring_forward=0.0,
    ring_backward=0.0,
    expert=0.0,
    embedding=0.5,
    head=3.0,
    head_tensor=0.0,
    tensor_again=0.0,
    again=1.0,
    gradient=0.0,
)


def without_stolen_cores(problem):
    """The same problem where communication takes no cores from the kernels it hides behind."""
    other = replace(problem)
    other.__dict__["eff"] = replace(problem.eff, overlap_core_frac=0.0)
    return other


@pytest.fixture(scope="module")
def llama(problem):
    """32 layers, 64 sequences per step."""
    return problem("llama-3.1-8b", "dgx-h100:8", seq=2048, batch=64)


def test_one_stage(llama):
    step = step_time(llama, Strategy(), PLAIN, NOTHING)
    assert float(step.micro_batches) == 64
    assert float(step.slowest.total) == pytest.approx(32 * 3 + 3.5)
    assert float(step.bubble) == 0.0
    assert float(step.pipeline_send) == 0.0
    assert float(step.total) == pytest.approx(64 * 99.5 + float(step.optimizer + step.host_step))


def test_the_head_makes_the_last_stage_slowest(llama):
    step = step_time(llama, Strategy(pp=4), PLAIN, NOTHING)
    assert float(step.slowest.total) == pytest.approx(8 * 3 + 3)
    assert float(step.slowest.embedding_head) == 3.0
    assert float(step.bubble) == pytest.approx(3 * 8 * 3 + 0.5)


def test_a_light_head_leaves_the_first_stage_slowest(llama):
    step = step_time(llama, Strategy(pp=4), PLAIN._replace(head=0.1), NOTHING)
    assert float(step.slowest.embedding_head) == 0.5
    assert float(step.slowest.total) == pytest.approx(24.5)


def test_a_middle_stage_with_a_layer_more_is_slowest(llama):
    # 32 layers on 5 stages: 6, 7, 7, 6, 6; the head of 0.1 does not make up for a layer.
    step = step_time(llama, Strategy(pp=5), PLAIN._replace(head=0.1), NOTHING)
    assert float(step.slowest.forward) == 7.0
    assert float(step.slowest.embedding_head) == 0.0


def test_interleaving_divides_the_bubble(llama):
    even = PLAIN._replace(embedding=0.0, head=0.0)
    plain = step_time(llama, Strategy(pp=4), even, NOTHING)
    chunks = step_time(llama, Strategy(pp=4, virtual=4), even, NOTHING)
    assert float(plain.bubble) == pytest.approx(3 * 24)
    assert float(chunks.bubble) == pytest.approx(3 * 24 / 4)


def test_recomputation_runs_the_forward_again(llama):
    def recompute(**fields) -> float:
        return float(step_time(llama, Strategy(**fields), PLAIN, NOTHING).slowest.recompute)

    assert recompute() == 0.0
    assert recompute(selective=1) == pytest.approx(32 * 0.25)
    assert recompute(full_frac=1.0) == pytest.approx(32 * 1.0)
    assert recompute(full_frac=0.25) == pytest.approx(8 * 1.0)


def test_full_recomputation_repeats_forward_tp_communication(llama):
    tp = PLAIN._replace(tensor_forward=0.1, tensor_backward=0.2, tensor_again=0.1, head_tensor=0.7)
    for share, expected in ((0.0, 0.3), (1.0, 0.4), (0.5, 0.35)):
        step = step_time(llama, Strategy(full_frac=share), tp, NOTHING)
        assert float(step.slowest.tensor_parallel) == pytest.approx(32 * expected + 0.7)


def test_dead_recomputation_spares_the_last_product_of_a_dense_layer(problem):
    """By hand: forward less the products and residuals that no gradient reads; behind experts, the router's does."""
    for name, spared in (("llama-3.1-8b", ("mlp.down", "residual.ffn")), ("mixtral-8x7b", ("residual.ffn",))):
        given = problem(name, "dgx-h100:8", seq=2048, batch=64)
        dead = replace(given, stack=replace(given.stack, early_stop=True))
        s = Strategy(tp=2)
        every, needed = layer_time(given, s), layer_time(dead, s)
        assert float(every.again) == pytest.approx(float(every.forward))
        layer = given.kinds[0].layer
        last = tuple(op for op in given.forward(layer, given.shape(s)) if op.name in spared)
        less = kernels_s(last, given.accelerator, given.eff, dtype="bf16")
        assert float(needed.again) == pytest.approx(float(every.forward) - float(less))
        halves = 0.5 if "mlp.down" in spared else 1.0
        assert float(needed.tensor_again) == pytest.approx(halves * float(every.tensor_forward))


def test_offloaded_activations_hide_behind_compute(llama):
    rate = llama.host_link_byte_per_s
    for seconds, exposed in ((0.5, 0.0), (1.5, 0.5), (2.5, 1.5 + 0.5)):
        acts = ActivationTable(rate * seconds, 0.0, 0.0, 0.0, 0.0)
        step = step_time(llama, Strategy(offload_activation=1), PLAIN, acts)
        assert float(step.slowest.host_transfer) == pytest.approx(32 * exposed)
    assert float(step_time(llama, Strategy(), PLAIN, acts).slowest.host_transfer) == 0.0


@pytest.mark.parametrize("zero", [0, 1, 2])
def test_only_zero_3_gathers_weights_layer_by_layer(llama, zero):
    hurried = PLAIN._replace(forward=0.0, backward=0.0)
    assert float(step_time(llama, Strategy(dp=64, zero=zero), hurried, NOTHING).slowest.parameter_gather) == 0.0


def test_zero_3_gathers_each_layer_forward_and_backward(llama):
    hurried = PLAIN._replace(forward=0.0, backward=0.0)
    step = step_time(llama, Strategy(dp=64, zero=3), hurried, NOTHING)
    layer = llama.kinds[0].parameters
    byte = llama.stack.weight_byte * (layer.split + layer.kv + layer.replicated)
    one = float(llama.fabric.ring_s(byte, llama.group(64, 1)))
    assert float(step.slowest.parameter_gather) == pytest.approx(32 * 2 * one)
    # Hidden, it costs the cores it takes.
    patient = step_time(llama, Strategy(dp=64, zero=3), PLAIN, NOTHING)
    stolen = llama.eff.overlap_core_frac
    assert 0 < stolen < 1
    assert float(patient.slowest.parameter_gather) == pytest.approx(32 * 2 * one * stolen)


def test_zero_3_gathers_experts_from_their_own_replicas(problem):
    mixtral = problem("mixtral-8x7b", "dgx-h100:8", seq=2048, batch=64)
    hurried = PLAIN._replace(forward=0.0, backward=0.0)
    step = step_time(mixtral, Strategy(dp=64, ep=8, zero=3), hurried, NOTHING)
    layer = mixtral.kinds[0].parameters
    dense = float(mixtral.fabric.ring_s(2 * (layer.split + layer.kv + layer.replicated), mixtral.group(64, 1)))
    expert = float(mixtral.fabric.ring_s(2 * layer.expert / 8, mixtral.group(8, 8)))
    assert float(step.slowest.parameter_gather) == pytest.approx(32 * 2 * (dense + expert))
    # Every replica of an expert is in its own EP group: nothing to gather.
    alone = step_time(mixtral, Strategy(dp=64, ep=64, zero=3), hurried, NOTHING)
    assert float(alone.slowest.parameter_gather) == pytest.approx(32 * 2 * dense)


@pytest.mark.parametrize(("zero", "gathers"), [(0, False), (1, True), (2, True), (3, False)])
def test_zero_1_and_2_gather_updated_weights_once(llama, zero, gathers):
    step = step_time(llama, Strategy(dp=64, zero=zero), PLAIN, NOTHING)
    assert (float(step.parameter_gather) > 0) is gathers


def test_gradient_reduction_without_overlap_is_an_all_reduce(llama):
    bare = replace(llama, stack=replace(llama.stack, overlap_gradient_reduce=0.0))
    step = step_time(bare, Strategy(dp=64), PLAIN, NOTHING)
    n = sum(float(kind.parameters.split + kind.parameters.kv + kind.parameters.replicated) for kind in llama.kinds) * 32
    ends = sum(end.split + end.kv + end.replicated for end in llama.ends)
    byte = llama.stack.gradient_reduce_byte * (n + ends)
    bucket = 64e6 * llama.stack.gradient_reduce_byte  # 1 million parameters a rank
    one = float(llama.fabric.all_reduce_s(bucket, llama.group(64, 1)))
    assert float(step.gradient_reduce) == pytest.approx(one * byte / bucket)
    few = step_time(bare, Strategy(dp=8), PLAIN, NOTHING)
    bucket = 40e6 * llama.stack.gradient_reduce_byte
    one = float(llama.fabric.all_reduce_s(bucket, llama.group(8, 1)))
    assert float(few.gradient_reduce) == pytest.approx(one * byte / bucket)
    whole = replace(bare, stack=replace(bare.stack, bucket_parameter=1e12))
    one = float(llama.fabric.all_reduce_s(byte, llama.group(64, 1)))
    assert float(step_time(whole, Strategy(dp=64), PLAIN, NOTHING).gradient_reduce) == pytest.approx(one)
    by_layer = replace(bare, stack=replace(bare.stack, bucket_parameter=0.0))
    one = float(llama.fabric.all_reduce_s(byte / 32, llama.group(64, 1)))
    assert float(step_time(by_layer, Strategy(dp=64), PLAIN, NOTHING).gradient_reduce) == pytest.approx(32 * one)


def test_a_model_without_experts_calls_no_collective_for_them(llama):
    """Updated weights: one all-gather, of the dense ones."""
    bare = replace(llama, stack=replace(llama.stack, overlap_parameter_gather=0.0, bucket_parameter=1e12))
    step = step_time(bare, Strategy(dp=64, zero=1), PLAIN, NOTHING)
    n = sum(float(kind.parameters.split + kind.parameters.kv + kind.parameters.replicated) for kind in llama.kinds) * 32
    n += sum(end.split + end.kv + end.replicated for end in llama.ends)
    assert float(step.parameter_gather) == pytest.approx(float(llama.fabric.ring_s(2 * n, llama.group(64, 1))), rel=1e-9)


def test_owners_of_whole_tensors_broadcast_them(llama):
    dealt = replace(llama, stack=replace(llama.stack, overlap_parameter_gather=0.0, broadcast_weights=True))
    n = sum(float(kind.parameters.split + kind.parameters.kv + kind.parameters.replicated) for kind in llama.kinds) * 32
    n += sum(end.split + end.kv + end.replicated for end in llama.ends)
    assert llama.n_tensor == 32 * 9  # four in the attention, three in the MLP, two norms
    for ranks, owners in ((64, 64), (8, 8)):
        expected = float(llama.fabric.chain_s(2 * n, llama.group(ranks, 1), owners))
        found = step_time(dealt, Strategy(dp=ranks, zero=1), PLAIN, NOTHING).parameter_gather
        assert float(found) == pytest.approx(expected)


def test_a_table_shared_by_the_outer_stages_is_reduced_between_them(problem):
    tied = problem("llama-3.2-1b", "dgx-h100:8", seq=2048, batch=64)
    table = 128_256 * 2048
    one = float(tied.fabric.all_reduce_s(table * 4, tied.group(2, 3)))
    assert float(step_time(tied, Strategy(pp=4), PLAIN, NOTHING).gradient_reduce) == pytest.approx(one)
    assert float(step_time(tied, Strategy(), PLAIN, NOTHING).gradient_reduce) == 0.0
    assert float(step_time(tied, Strategy(pp=4, tp=2), PLAIN, NOTHING).gradient_reduce) == pytest.approx(
        float(tied.fabric.all_reduce_s(table * 2, tied.group(2, 6)))
    )


def test_gradient_reduction_hides_all_but_the_last_bucket_and_the_cores_it_takes(llama):
    bare = replace(llama, stack=replace(llama.stack, overlap_gradient_reduce=0.0))
    whole = float(step_time(bare, Strategy(dp=64), PLAIN, NOTHING).gradient_reduce)
    free = float(step_time(without_stolen_cores(llama), Strategy(dp=64), PLAIN, NOTHING).gradient_reduce)
    n = sum(float(kind.parameters.split + kind.parameters.kv + kind.parameters.replicated) for kind in llama.kinds) * 32
    last = 64e6 / (n + sum(end.split + end.kv + end.replicated for end in llama.ends))
    assert free == pytest.approx(last * whole)
    hidden = float(step_time(llama, Strategy(dp=64), PLAIN, NOTHING).gradient_reduce)
    assert hidden == pytest.approx(max(last, llama.eff.overlap_core_frac) * whole)


def test_zero_2_reduces_with_every_micro_batch(llama):
    one, two = (float(step_time(llama, Strategy(dp=8, zero=z), PLAIN, NOTHING).gradient_reduce) for z in (1, 2))
    assert two == pytest.approx(8 * one)


def test_nothing_is_reduced_or_gathered_with_one_replica(llama):
    for zero in range(4):
        step = step_time(llama, Strategy(tp=8, pp=8, zero=zero), PLAIN, NOTHING)
        assert (float(step.gradient_reduce), float(step.parameter_gather)) == (0.0, 0.0)
        assert float(step.slowest.parameter_gather) == 0.0


def test_the_optimizer_is_memory_traffic(llama):
    n = sum(float(kind.parameters.split + kind.parameters.kv + kind.parameters.replicated) for kind in llama.kinds) * 32
    n += sum(end.split + end.kv + end.replicated for end in llama.ends)
    step = step_time(llama, Strategy(), PLAIN, NOTHING)
    rate = llama.accelerator.memory_bandwidth_byte_per_s * llama.eff.memory_frac
    assert float(step.optimizer) == pytest.approx(30 * n / rate)
    sharded = step_time(llama, Strategy(dp=64, zero=1), PLAIN, NOTHING)
    assert float(sharded.optimizer) == pytest.approx(30 * n / rate / 64)
    offloaded = step_time(llama, Strategy(offload_optimizer=1), PLAIN, NOTHING)
    host = max(6 * n / llama.host_link_byte_per_s, 30 * n / llama.eff.host_memory_byte_per_s)
    assert float(offloaded.optimizer) == pytest.approx(host)


def test_sends_between_stages(llama):
    exposed = replace(llama, stack=replace(llama.stack, overlap_pipeline=0.0, overlap_pipeline_interleaved=1.0))
    byte = 2048 * 4096 * 2
    one = float(llama.fabric.send_s(byte, 16))
    assert float(step_time(exposed, Strategy(pp=4, dp=16), PLAIN, NOTHING).pipeline_send) == pytest.approx(2 * (3 + 4) * one)
    chunks = step_time(exposed, Strategy(pp=4, dp=16, virtual=4), PLAIN, NOTHING)
    assert float(chunks.pipeline_send) == pytest.approx(2 * 3 * one)
    # Sequence parallelism sends an eighth.
    eighth = float(llama.fabric.send_s(byte / 8, 16))
    sp = step_time(exposed, Strategy(pp=4, tp=8, dp=2, sp=1), PLAIN, NOTHING)
    assert float(sp.pipeline_send) == pytest.approx(2 * (3 + 32) * eighth)
    # Stages of one node send over its links, but where the chain leaves the node, and that send sets the pace.
    near, far = float(llama.fabric.send_s(byte, 4)), float(llama.fabric.send_s(byte, 8))
    mixed = step_time(exposed, Strategy(pp=4, tp=4), PLAIN, NOTHING)
    assert float(mixed.pipeline_send) == pytest.approx(2 * (2 * near + far + 64 * far))
    # Scattered sends pass on an eighth, and gather it over TP.
    scatter = replace(exposed, stack=replace(exposed.stack, scatter_sends=True))
    gather = float(llama.fabric.ring_s(byte, llama.group(8, 1)))
    step = step_time(scatter, Strategy(pp=4, tp=8, dp=2), PLAIN, NOTHING)
    assert float(step.pipeline_send) == pytest.approx(2 * (3 + 32) * (eighth + gather))


def test_tensor_parallel_joins_two_blocks_a_layer_and_direction(llama):
    t = layer_time(llama, Strategy(tp=8))
    byte = 2048 * 4096 * 2
    reduce_s = float(llama.fabric.all_reduce_s(byte, llama.group(8, 1)))
    assert float(t.tensor_forward) == pytest.approx(2 * reduce_s)
    bare = replace(llama, stack=replace(llama.stack, overlap_tensor_backward=0.0))
    assert float(layer_time(bare, Strategy(tp=8)).tensor_backward) == pytest.approx(2 * reduce_s)
    # Beside weight gradients, a quarter of the backward products, the reduction of input gradients is hidden.
    free = layer_time(without_stolen_cores(llama), Strategy(tp=8))
    assert float(free.tensor_backward) == pytest.approx(max(0.0, 2 * reduce_s - float(free.backward) / 4))
    # SP scatters and gathers, and gathers once more backward.
    ring = float(llama.fabric.ring_s(byte, llama.group(8, 1)))
    split = layer_time(bare, Strategy(tp=8, sp=1))
    assert float(split.tensor_forward) == pytest.approx(4 * ring)
    assert float(split.tensor_backward) == pytest.approx(6 * ring)


def test_tensor_parallel_behind_its_own_products_leaves_the_first_piece(llama):
    pieces = replace(llama, stack=replace(llama.stack, overlap_tensor_parallel=1.0))
    pieces.__dict__["eff"] = replace(llama.eff, overlap_core_frac=0.0)
    byte = 2048 * 4096 * 2
    two, eight = layer_time(pieces, Strategy(tp=2)), layer_time(pieces, Strategy(tp=8))
    reduce_s = float(pieces.fabric.all_reduce_s(byte, pieces.group(2, 1)))
    assert float(two.tensor_forward) == pytest.approx(reduce_s)  # half of two, the other half hides
    reduce_s = float(pieces.fabric.all_reduce_s(byte, pieces.group(8, 1)))
    assert float(eight.tensor_forward) == pytest.approx(reduce_s / 4 + max(0.0, reduce_s * 7 / 4 - float(eight.forward)))


def test_a_parallel_block_joins_once(problem):
    gptj = problem("gpt-j-6b", "dgx-h100:8", seq=2048, batch=64)
    t = layer_time(gptj, Strategy(tp=8))
    assert float(t.tensor_forward) == pytest.approx(float(gptj.fabric.all_reduce_s(2048 * 4096 * 2, gptj.group(8, 1))))


def test_experts_exchange_tokens_twice_a_direction(problem):
    mixtral = problem("mixtral-8x7b", "dgx-h100:8", seq=2048, batch=64)
    t = layer_time(mixtral, Strategy(ep=8, dp=8))
    one = float(mixtral.fabric.all_to_all_s(2048 * 2 * 4096 * 2, mixtral.group(8, 1)))
    assert float(t.expert) == pytest.approx(2 * one)
    hidden = replace(mixtral, stack=replace(mixtral.stack, overlap_expert_parallel=1.0))
    hidden.__dict__["eff"] = replace(mixtral.eff, overlap_core_frac=0.0)
    window = (float(t.forward) + float(t.backward)) / 2
    assert float(layer_time(hidden, Strategy(ep=8, dp=8)).expert) == pytest.approx(max(0.0, 2 * one - window))
    # EP over two nodes follows the rule for EP that leaves a domain.
    assert float(layer_time(hidden, Strategy(ep=8, dp=8, tp=8)).expert) == pytest.approx(
        float(layer_time(mixtral, Strategy(ep=8, dp=8, tp=8)).expert)
    )
    assert float(layer_time(mixtral, Strategy(dp=8)).expert) == 0.0
    exchange = PLAIN._replace(expert=0.1, context_forward=0.2, context_backward=0.3)
    for share in (0.0, 0.5, 1.0):
        slowest = step_time(mixtral, Strategy(full_frac=share), exchange, NOTHING).slowest
        assert float(slowest.expert_parallel) == pytest.approx(32 * 0.1 * (2 + share))
        assert float(slowest.context_parallel) == pytest.approx(32 * (0.2 * (1 + share) + 0.3))


def test_ways_to_dispatch(problem):
    v3 = problem("deepseek-v3", "dgx-h100:8", seq=2048, batch=64)
    token = 2048 * 7168

    def expert(name: str, **fields) -> float:
        other = replace(v3, stack=replace(v3.stack, expert_dispatch=name, expert_dispatch_byte=1.0))
        share = sum(kind.share for kind in v3.kinds if isinstance(kind.layer.ffn, MoE))
        return float(layer_time(other, Strategy(**fields)).expert) / share

    group = v3.group(64, 1)
    assert expert("all-to-all", ep=64, dp=64) == pytest.approx(2 * float(v3.fabric.all_to_all_s(token * 8 * 2, group)))
    assert expert("all-gather", ep=64, dp=64) == pytest.approx(2 * float(v3.fabric.ring_s(token * 64 * 2, group)))
    near, far = (float(distinct(n, 256, 8, n_group=8, top_group=4)) for n in (64, 8))
    one = float(v3.fabric.dispatch_s(token * 2, group, near, far))
    assert expert("one-copy", ep=64, dp=64) == pytest.approx(2 * one)
    assert one < 0.5 * float(v3.fabric.all_to_all_s(token * 8 * 2, group))
    # Dispatch in fp8 halves one of the two.
    narrow = float(v3.fabric.dispatch_s(token, group, near, far))
    assert expert("one-copy", ep=64, dp=64, fp8=1) == pytest.approx(one + narrow)


def test_whole_experts_take_their_ranks_out_of_tp_as_well(problem):
    """EP 16 on TP 2 and DP 8: split experts would need DP 16; whole ones leave TP nothing to join but the shared expert."""
    v3 = problem("deepseek-v3", "dgx-h100:2", seq=2048, batch=64)
    whole = replace(v3, stack=replace(v3.stack, expert_tensor=False))
    s = Strategy(tp=2, dp=8, ep=16, sp=1)
    assert tuple(map(float, whole.expert_replicas(s))) == (1.0, 16.0)
    assert tuple(map(float, v3.expert_replicas(replace(s, ep=8)))) == (1.0, 16.0)
    assert float(whole.expert_tp(s)) == 1.0
    assert float(whole.expert_tp(replace(s, ep=1))) == 2.0
    both = stage_parameters(whole, s, "middle").expert, stage_parameters(v3, replace(s, ep=8), "middle").expert
    assert float(both[0]) == pytest.approx(float(both[1]))  # as many on a rank either way
    found = layouts(whole.work, 16, fp8=False, fixed={"tp": 2, "pp": 1}, expert_tensor=False)[0]
    assert float(np.max(found.ep)) == 16.0
    assert float(np.max(layouts(v3.work, 16, fp8=False, fixed={"tp": 2, "pp": 1})[0].ep)) == 8.0
    split_s, whole_s = (layer_time(p, t).tensor_forward for p, t in ((v3, replace(s, ep=8)), (whole, s)))
    assert float(whole_s) < float(split_s)


def test_the_ring_of_keys_and_values_hides_behind_attention(llama):
    hidden = layer_time(without_stolen_cores(llama), Strategy(cp=2))
    bare = layer_time(replace(llama, stack=replace(llama.stack, overlap_context_parallel=0.0)), Strategy(cp=2))
    ring = float(llama.fabric.ring_s(2048 * 2 * 1024 * 2, llama.group(2, 1)))
    assert float(bare.context_forward) == pytest.approx(ring)
    assert float(bare.context_backward) == pytest.approx(2 * ring)
    assert float(hidden.context_forward) == pytest.approx(max(0.0, ring - float(hidden.core)))
    assert float(hidden.context_backward) == pytest.approx(max(0.0, 2 * ring - 2.5 * float(hidden.core)))
    assert float(layer_time(llama, Strategy(cp=2)).context_forward) > float(hidden.context_forward)


def test_ulysses_exchanges_heads(llama):
    t = layer_time(llama, Strategy(cp=2, ulysses=1))
    # 1024 tokens a rank: queries and outputs of 4096 channels, keys and values of 1024, bf16.
    one = float(llama.fabric.all_to_all_s(1024 * (2 * 4096 + 2 * 1024) * 2, llama.group(2, 1)))
    assert float(t.context_forward) == float(t.context_backward) == pytest.approx(one)


def test_multi_token_prediction_runs_with_the_head(problem):
    """DeepSeek-V3 has one more layer and head behind the last layer."""
    v3 = problem("deepseek-v3", "dgx-h100:8", seq=2048, batch=64)
    bare = replace(v3, work=replace(v3.work, arch=replace(v3.work.arch, mtp=())))
    with_mtp, without = (float(layer_time(p, Strategy()).head) for p in (v3, bare))
    assert with_mtp > 2 * without > 0


def test_fp8_speeds_up_linear_layers(llama):
    plain, fast = (layer_time(llama, Strategy(fp8=fp8)) for fp8 in (0, 1))
    assert float(plain.core) == float(fast.core)
    assert float(plain.forward) / 2 < float(fast.forward) < float(plain.forward)


def test_a_layer_is_never_quicker_than_its_peak(llama):
    """Forward and backward of a layer: 6 FLOP per parameter and token at least."""
    t = layer_time(llama, Strategy())
    layer = llama.kinds[0].parameters
    flop = 6 * (layer.split + layer.kv) * 2048
    assert float(t.forward + t.backward) > flop / llama.accelerator.peak("bf16")


def test_half_a_batch_of_sequences_is_not_more_than_half_as_quick(llama):
    """Larger micro-batches fill waves and pay launches less often."""
    one, two = (layer_time(llama, Strategy(micro_batch=b)) for b in (1, 2))
    assert float(two.forward) <= 2 * float(one.forward)
    acts = activation_table(llama, Strategy())
    assert float(acts.none) > 0


def stacked(problem, **fields):
    """The same problem with some fields of its stack replaced."""
    return replace(problem, stack=replace(problem.stack, **fields))


def test_the_host_holds_up_a_whole_micro_batch_and_never_shortens_it(llama):
    for full in (0.0, 1.0):
        s = Strategy(full_frac=full)
        device = float(step_time(stacked(llama, host_layer_s=0.0), s, PLAIN, NOTHING).slowest.total)
        passes = 32 * (2 + full)
        assert device == pytest.approx(32 * (3 + full) + 3.5)
        for host in (1.0, 1.5, 3.0):
            found = step_time(stacked(llama, host_layer_s=host), s, PLAIN, NOTHING).slowest
            assert float(found.total) == pytest.approx(max(device, passes * host))


def test_passes_over_gradients_follow_the_parameters_of_a_rank(llama):
    plain, passes = stacked(llama, gradient_pass_byte=0.0), stacked(llama, gradient_pass_byte=18.0)
    for tp in (1, 2, 4):
        s = Strategy(tp=tp)
        assert float(layer_time(plain, s).gradient) == 0.0
        parameters = sum(kind.share * (kind.parameters.split + kind.parameters.kv) / tp for kind in llama.kinds)
        parameters += sum(kind.share * kind.parameters.replicated for kind in llama.kinds)
        rate = llama.accelerator.memory_bandwidth_byte_per_s * llama.eff.memory_frac
        assert float(layer_time(passes, s).gradient) == pytest.approx(18 * parameters / rate)


def test_recomputation_that_stops_early_costs_less_by_the_last_product(llama):
    late, early = (layer_time(stacked(llama, early_stop=stop), Strategy()) for stop in (False, True))
    assert float(late.again) == float(late.forward) == float(early.forward)
    assert 0.6 * float(late.again) < float(early.again) < 0.85 * float(late.again)


def test_zero_1_by_all_reduce_costs_about_twice_the_reduce_scatter(problem):
    p = problem("llama-3.1-8b", "dgx-h100:16")
    exposed = {"overlap_gradient_reduce": 0.0}
    t = layer_time(p, Strategy(tp=8, dp=16, zero=1))
    scatter, reduce = (
        float(
            step_time(
                stacked(p, gradient_all_reduce=whole, **exposed), Strategy(tp=8, dp=16, zero=1), t, NOTHING
            ).gradient_reduce
        )
        for whole in (False, True)
    )
    assert reduce == pytest.approx(2 * scatter, rel=0.05)


def test_slices_of_a_torus_wait_for_each_other_as_one(problem):
    """Chips of one slice run in step; on switches every accelerator keeps its own pace."""
    pod = problem("llama-3.1-8b", "tpu-v5p-host:16", seq=2048, batch=64)
    assert float(pod.paced(Strategy(dp=64))) == 1.0
    small = replace(pod.node, scale_up=replace(pod.node.scale_up, size=16))
    four = replace(pod, cluster=replace(pod.cluster, groups=(replace(pod.cluster.groups[0], node=small),)))
    assert float(four.paced(Strategy(dp=64))) == 4.0
    assert float(problem("llama-3.1-8b", "dgx-h100:8", seq=2048, batch=64).paced(Strategy(dp=64))) == 64.0


@pytest.mark.parametrize(
    "fields",
    [
        {"dp": 8, "zero": 3},
        {"tp": 2, "sp": 1, "pp": 4, "dp": 2, "zero": 1},
        {"tp": 2, "cp": 2, "pp": 2, "dp": 2, "virtual": 4, "full_frac": 0.5, "offload_optimizer": 1},
        {"pp": 8, "dp": 2, "schedule": 1, "zero": 1, "offload_activation": 1},
    ],
)
def test_the_total_alone_is_the_sum_of_the_causes(problem, fields):
    p, s = problem("llama-3.1-8b", "dgx-h100:8", seq=2048, batch=64, software="primus"), Strategy(**fields)
    t, acts = layer_time(p, s), activation_table(p, s)
    assert float(step_total_s(p, s, t, acts)) == pytest.approx(float(step_time(p, s, t, acts).total), rel=1e-12)


@pytest.mark.parametrize(
    ("name", "fields"),
    [
        ("primus", {"tp": 8, "dp": 8}),
        ("primus", {"tp": 8, "pp": 4, "dp": 2, "zero": 1}),
        ("primus", {"tp": 8, "pp": 4, "dp": 2, "virtual": 2, "full_frac": 0.5}),
        ("primus", {"tp": 8, "pp": 4, "dp": 2, "schedule": 2, "virtual": 2}),
        ("hai-llm", {"tp": 8, "pp": 4, "dp": 2, "schedule": 3, "selective": 1}),
        ("torch-fsdp2", {"tp": 8, "pp": 4, "dp": 2, "zero": 3, "full_frac": 1.0}),
    ],
)
@pytest.mark.parametrize("host_layer_s", [0.0, 2e-3, 6e-3, 1.0])
def test_halves_add_up_to_the_stage_whoever_holds_it_up(problem, name, fields, host_layer_s):
    """While the device runs embedding or head, the host gets ahead; a middle stage has neither."""
    p = stacked(problem("llama-3.1-8b", "dgx-h100:8", seq=4096, batch=64, software=name), host_layer_s=host_layer_s)
    s = Strategy(**fields)
    t, acts = layer_time(p, s), activation_table(p, s)
    halves, layers = step_halves(p, s, t, acts), stage_layers(p.n_layer, s.pp, s.virtual, s.schedule)
    stages = []
    for stage in ("first", "middle", "last"):
        ends = tuple(float(end / parameter_copies(s.schedule)) for end in stage_ends(s.pp, s.schedule, stage))
        n = float(getattr(layers, stage))
        found = halves.layer.times(n).plus(halves.embedding, ends[0]).plus(halves.head, ends[1])
        expected = stage_time(p, s, t, acts, n, ends)
        assert float(found.total) == pytest.approx(float(expected.total), rel=1e-12)
        assert all(float(value) >= 0 for value in found.split)
        if host_layer_s == 1.0:
            assert float(found.forward) == pytest.approx(n, rel=0.02)
        stages.append(float(expected.total))
    step = step_time(p, s, t, acts)
    assert float(step.slowest.total) == pytest.approx(max(stages), rel=1e-12)
    assert float(step_total_s(p, s, t, acts)) == pytest.approx(float(step.total), rel=1e-12)
