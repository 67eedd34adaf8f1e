"""Predictions for published runs: models against their parameter counts, metrics against hand calculations."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suanchou.model.flop import flop_per_token
from suanchou.model.parameters import parameter_count
from suanchou.training.memory import shard_count
from suanchou.training.price import price
from suanchou.validation.layout import lay_out
from suanchou.validation.predict import predict, scale
from suanchou.validation.runs import open_runs
from suanchou.validation.setup import architecture_of, machine_of

RUNS = {run.run_id: run for run in open_runs("training_runs")}


def first(text: str, **fields):
    return next(r for r in RUNS.values() if text in r.source and all(getattr(r, k) == v for k, v in fields.items()))


def test_parameters_of_every_dense_row_are_those_published():
    """An oracle of its own: the file's counts were computed elsewhere. Learned positions explain what is over 3 %."""
    dense = [run for run in RUNS.values() if not run.moe and run.params_total and "foundry" not in run.source]
    assert len(dense) > 450
    for run in dense:
        assert parameter_count(architecture_of(run)) == pytest.approx(run.params_total, rel=0.03), run.run_id


def test_whether_the_mlp_is_gated_follows_the_parameters():
    llama = first("FlagPerf", model_name="Llama3-8B")
    gpt = first("Narayanan")
    assert architecture_of(llama).layers[0].ffn.gated
    assert not architecture_of(gpt).layers[0].ffn.gated


def test_latent_attention_comes_from_the_catalogue():
    run = first("SimuMax", model_name="DeepSeek-V3 cut to 4 layers")
    arch = architecture_of(run)
    assert (arch.n_layer, type(arch.layers[0].mixer).__name__, arch.mtp) == (4, "LatentAttention", ())
    assert [type(layer.ffn).__name__ for layer in arch.layers] == ["MLP", "MoE", "MoE", "MoE"]
    assert parameter_count(arch) == pytest.approx(run.params_total, rel=0.01)


def test_the_machine_is_that_of_the_row():
    run = first("prequel")
    machine = machine_of(run, run.accelerators)
    node = machine.groups[0].node
    assert (machine.n_accelerator, node.n_accelerator) == (384, 8)
    assert node.nic_byte_per_s == 8 * 50e9 / 8
    part = first("FlagPerf", accelerator_id="bi-v150")
    assert machine_of(part, 16).groups[0].node.accelerator.peak("bf16") == pytest.approx(96e12)


def test_a_pod_in_slices_has_smaller_domains():
    whole, four = (next(r for r in RUNS.values() if r.run_id == f"maxtext-v4-22b-x{n}") for n in (1, 4))
    assert machine_of(whole, 64).groups[0].node.scale_up.size == 64
    assert machine_of(four, 256).groups[0].node.scale_up.size == 64


def test_step_time_is_that_of_the_training_room():
    """The fast path must give the very number that `suanchou plan` would explain."""
    for text in ("Narayanan", "prequel", "SimuMax", "mosaicml", "Megatron-Bridge"):
        laid = lay_out(first(text))
        assert float(laid.priced.step.total) == pytest.approx(price(laid.problem, laid.strategy).step.value, rel=1e-9)


def test_what_the_row_states_is_held():
    run = next(r for r in RUNS.values() if r.run_id.startswith("narayanan21-529"))
    s = lay_out(run).strategy
    assert (s.tp, s.pp, s.virtual, s.micro_batch, s.full_frac) == (run.tp, run.pp, run.vpp, run.micro_batch, 1)
    assert s.tp * s.pp * s.dp == run.accelerators


def test_what_is_unknown_is_filled_and_named():
    run = next(r for r in RUNS.values() if r.source.startswith("alibaba") and r.tp is None and r.global_batch is None)
    laid = lay_out(run)
    assert {"layout", "global_batch", "micro_batch", "recompute"} <= set(laid.assumed)
    assert laid.strategy.n_rank == run.accelerators
    assert lay_out(first("SimuMax")).assumed == ()


def test_metrics_are_one_figure_in_several_units():
    """From one step time: tokens/s, model TFLOPS, MFU and GPU-hours by their definitions."""
    base = replace(first("SimuMax"), flop_convention="6N + full attention; peak 1000")
    laid = lay_out(base)
    work = laid.problem.work
    step = 2.0
    token = work.batch_token / step / base.accelerators
    flop = flop_per_token(work.arch, work.seq, attention="full").value
    wanted = {
        "tokens_per_s_per_acc": token,
        "model_tflops_per_acc": token * flop / 1e12,
        "mfu": token * flop / 1e15,
        "step_time_s": step,
        "gpu_hours": 1e12 / (token * 3600),
    }
    for kind, value in wanted.items():
        run = replace(base, metric_kind=kind, notes="trust=A; train_tokens=1.0e12 (all)")
        constant = scale(run, laid)
        found = constant * step if kind in ("step_time_s", "gpu_hours") else constant / step
        assert found == pytest.approx(value), kind


def test_hardware_flop_follow_the_published_formula():
    """96 B s L h^2 (1 + s/6h + V/16Lh), Narayanan et al. 2021, with full recomputation."""
    run = first("Narayanan")
    laid = lay_out(run)
    h, layers, s, v = run.hidden, run.layers, run.seq_len, run.vocab
    flop = 96 * run.global_batch * s * layers * h**2 * (1 + s / (6 * h) + v / (16 * layers * h))
    assert scale(run, laid) * run.accelerators * 1e12 == pytest.approx(flop, rel=1e-3)


def test_errors_agree_with_each_other():
    for text in ("Narayanan", "SimuMax"):
        p = predict(first(text))
        assert p.error_frac == pytest.approx(p.predicted / p.run.published - 1)
        assert p.step_s / p.measured_step_s - 1 == pytest.approx(p.time_frac)
        assert (p.time_frac < 0) == (p.error_frac < 0 if text == "SimuMax" else p.error_frac > 0)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"accelerator_id": "abacus"}, "abacus"),
        ({"tp": 3}, "do not make"),
        ({"ffn_hidden": None}, "width of the MLP"),
        ({"precision": "ternary"}, "ternary"),
        ({"pp": 8, "tp": 1, "dp": 1, "layers": 2}, "do not fill"),
        ({"ep": 3}, "EP3"),
    ],
)
def test_a_run_that_makes_no_sense_is_refused_with_the_reason(changes, words):
    p = predict(replace(first("SimuMax", model_name="Llama3-70B cut to 12 layers"), **changes))
    assert p.status == "refused"
    assert words in p.reason
    assert p.predicted is None


def test_lora_costs_less_than_training_all():
    """Frozen weights have no gradient of their own: about 4N instead of 6N FLOP, and next to no states."""
    run = next(r for r in RUNS.values() if r.run_id.startswith("mbridge") and "lora" in r.run_id)
    lora, full = lay_out(run), lay_out(replace(run, model_name="Llama3-70B", flop_convention="", recompute="none"))
    assert lora.problem.work.adapter_rank == 16
    assert 0.6 < float(lora.priced.step.total) / float(full.priced.step.total) < 0.85
    assert lora.priced.memory_byte < full.priced.memory_byte


def test_maxtext_takes_the_batch_of_a_replica_at_once():
    """The row counts a device's share: 6 sequences on each of 4 chips that TP joins."""
    s = lay_out(RUNS["maxtext-v5p-32b-64chips-x2"]).strategy
    assert (s.tp, s.dp, s.micro_batch) == (4, 32, 24)


def test_slices_shard_within_and_replicate_across():
    two = lay_out(RUNS["maxtext-v4-22b-x2"])
    assert two.strategy.shard_domain == 1
    assert float(shard_count(two.problem, two.strategy, expert=False)) == 64


def test_maxtext_cuts_no_stages_where_the_row_is_silent():
    laid = lay_out(RUNS["maxtext-custom-v6e-700b-moe-final"])
    assert laid.strategy.pp == 1
    assert laid.strategy.micro_batch * laid.strategy.dp == laid.problem.work.global_batch


def test_a_capacity_factor_pads_experts():
    final, base = (RUNS[f"maxtext-custom-v6e-700b-moe-{name}"] for name in ("final", "exp"))
    assert lay_out(final).problem.work.expert_capacity == 1.5
    assert lay_out(base).problem.work.expert_capacity == 1.0


def test_switches_of_a_script_set_the_stack():
    both = lay_out(RUNS["mindspeed-rc3-chatglm3-6b-8k"]).problem.stack
    assert (both.overlap_gradient_reduce, both.overlap_parameter_gather) == (1.0, 1.0)
    fused, plain = (lay_out(RUNS[f"mindspeed-rc3-{name}"]).problem.stack for name in ("aquila2-7b-2k", "aquila-7b-2k"))
    assert fused.overlap_tensor_parallel > plain.overlap_tensor_parallel == 0.0
    one = lay_out(RUNS["mindspeed-rc3-llama2-7b-4k"]).problem.stack
    assert (one.overlap_gradient_reduce, one.overlap_parameter_gather) == (1.0, 0.0)
    assert lay_out(RUNS["mindspeed-rc3-qwen1.5-0.5b-8k"]).problem.stack.overlap_gradient_reduce == 0.0


def test_an_open_batch_is_one_that_the_devices_share_out():
    """7968 is 32 x 249: a batch that 249 does not divide would leave 83 pipeline stages as the only layout."""
    laid = lay_out(RUNS["mindspeed-gpt3-175b-linearity-n7968"])
    assert laid.problem.work.global_batch % 249 == 0
    assert laid.strategy.dp % 83 == 0


def test_overlap_is_read_from_the_row():
    """Megatron-LLaMA's two optimizers differ in nothing else."""
    overlapped, plain = (lay_out(RUNS[f"megatron-llama-13b-{name}-n256"]) for name in ("overlapped", "distopt"))
    assert (overlapped.problem.stack.name, plain.problem.stack.name) == ("megatron-llama", "megatron-2023")
    assert overlapped.problem.stack.overlap_gradient_reduce == 1.0 > plain.problem.stack.overlap_gradient_reduce
    assert plain.priced.step.gradient_reduce > overlapped.priced.step.gradient_reduce


def test_activations_may_go_to_the_host_where_the_recipe_does_so():
    """Sharded Megatron-Bridge recipes offload; what is quicker wins, and nothing else offloads."""
    sharded = lay_out(RUNS["mbridge-26.04.01-gb200-Llama3-70B-pre--fp8-n64"])
    assert sharded.strategy.zero == 3
    assert sharded.strategy.offload_activation == 1
    assert sharded.strategy.full_frac == 0
    assert lay_out(RUNS["mbridge-26.06-gb200-Llama3.1-405B-pre--fp8-n256"]).strategy.offload_activation == 0
