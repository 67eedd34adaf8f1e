"""Step time by hand, from made-up layer times; and what each parallelism sends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suanchou.training.layer_time import LayerTime, layer_time
from suanchou.training.memory import ActivationTable, activation_table
from suanchou.training.strategy import Strategy
from suanchou.training.time import step_time, step_total_s

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
    assert float(step.total) == pytest.approx(64 * 99.5 + float(step.optimizer))


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
    tp = PLAIN._replace(tensor_forward=0.1, tensor_backward=0.2, head_tensor=0.7)
    for share, expected in ((0.0, 0.3), (1.0, 0.4), (0.5, 0.35)):
        step = step_time(llama, Strategy(full_frac=share), tp, NOTHING)
        assert float(step.slowest.tensor_parallel) == pytest.approx(32 * expected + 0.7)


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
    assert float(step.gradient_reduce) == pytest.approx(float(llama.fabric.all_reduce_s(byte, llama.group(64, 1))))


def test_a_model_without_experts_calls_no_collective_for_them(llama):
    """Updated weights: one all-gather, of the dense ones."""
    bare = replace(llama, stack=replace(llama.stack, overlap_parameter_gather=0.0))
    step = step_time(bare, Strategy(dp=64, zero=1), PLAIN, NOTHING)
    n = sum(float(kind.parameters.split + kind.parameters.kv + kind.parameters.replicated) for kind in llama.kinds) * 32
    n += sum(end.split + end.kv + end.replicated for end in llama.ends)
    assert float(step.parameter_gather) == pytest.approx(float(llama.fabric.ring_s(2 * n, llama.group(64, 1))), rel=1e-9)


def test_gradient_reduction_hides_all_but_the_last_bucket_and_the_cores_it_takes(llama):
    bare = replace(llama, stack=replace(llama.stack, overlap_gradient_reduce=0.0))
    whole = float(step_time(bare, Strategy(dp=64), PLAIN, NOTHING).gradient_reduce)
    free = float(step_time(without_stolen_cores(llama), Strategy(dp=64), PLAIN, NOTHING).gradient_reduce)
    assert free == pytest.approx(llama.stack.bucket_frac * whole)
    hidden = float(step_time(llama, Strategy(dp=64), PLAIN, NOTHING).gradient_reduce)
    assert hidden == pytest.approx(max(llama.stack.bucket_frac, llama.eff.overlap_core_frac) * whole)


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


def test_tensor_parallel_joins_two_blocks_a_layer_and_direction(llama):
    t = layer_time(llama, Strategy(tp=8))
    byte = 2048 * 4096 * 2
    reduce_s = float(llama.fabric.all_reduce_s(byte, llama.group(8, 1)))
    assert float(t.tensor_forward) == float(t.tensor_backward) == pytest.approx(2 * reduce_s)
    overlapped = replace(llama, stack=replace(llama.stack, overlap_tensor_parallel=1.0))
    assert float(layer_time(overlapped, Strategy(tp=8)).tensor_forward) == 0.0


def test_a_parallel_block_joins_once(problem):
    gptj = problem("gpt-j-6b", "dgx-h100:8", seq=2048, batch=64)
    t = layer_time(gptj, Strategy(tp=8))
    assert float(t.tensor_forward) == pytest.approx(float(gptj.fabric.all_reduce_s(2048 * 4096 * 2, gptj.group(8, 1))))


def test_experts_exchange_tokens_twice_a_direction(problem):
    mixtral = problem("mixtral-8x7b", "dgx-h100:8", seq=2048, batch=64)
    t = layer_time(mixtral, Strategy(ep=8, dp=8))
    one = float(mixtral.fabric.all_to_all_s(2048 * 2 * 4096 * 2, mixtral.group(8, 1)))
    assert float(t.expert) == pytest.approx(2 * one)
    assert float(layer_time(mixtral, Strategy(dp=8)).expert) == 0.0
    exchange = PLAIN._replace(expert=0.1, context_forward=0.2, context_backward=0.3)
    for share in (0.0, 0.5, 1.0):
        slowest = step_time(mixtral, Strategy(full_frac=share), exchange, NOTHING).slowest
        assert float(slowest.expert_parallel) == pytest.approx(32 * 0.1 * (2 + share))
        assert float(slowest.context_parallel) == pytest.approx(32 * (0.2 * (1 + share) + 0.3))


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
