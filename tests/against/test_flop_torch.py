"""FLOP against torch's counter, on transformers' models under fake tensors.

The counter sees matrix products, convolutions and attention kernels; element-wise work counts zero, as here. It counts
attention kernels as if every pair were computed: our ``full`` convention.
"""

from __future__ import annotations

import json
from typing import Any

import pytest

torch = pytest.importorskip("torch", reason="torch is the oracle of FLOP")
transformers = pytest.importorskip("transformers", reason="transformers is the oracle of FLOP")

from torch._subclasses.fake_tensor import FakeTensorMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count, sdpa_flop_count  # noqa: E402

from suanchou.model.architecture import Architecture, LinearAttention, MoE, StateSpace  # noqa: E402
from suanchou.model.config import architecture_from_config  # noqa: E402
from suanchou.model.flop import executed_flop_per_token, flop_per_token  # noqa: E402
from suanchou.model.layer_operators import layer_forward  # noqa: E402
from suanchou.model.operators import Shape  # noqa: E402

BATCH, SEQ = 2, 64
# torch counts its CUDA attention kernels; the same formulas serve the one it takes on a CPU
ATTENTION = {
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu: lambda q, k, v, *args, **kwargs: sdpa_flop_count(q, k, v),
    torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward: lambda g, q, k, v, *args, **kwargs: (
        sdpa_backward_flop_count(g, q, k, v)
    ),
}

SMALL: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 90,
    "pad_token_id": 0,
}
LATENT = {
    "num_key_value_heads": 4,
    "kv_lora_rank": 24,
    "q_lora_rank": 40,
    "qk_nope_head_dim": 16,
    "qk_rope_head_dim": 8,
    "v_head_dim": 12,
    "head_dim": 8,
    "n_routed_experts": 8,
    "num_experts_per_tok": 2,
    "n_shared_experts": 1,
    "n_group": 2,
    "topk_group": 1,
    "moe_intermediate_size": 30,
    "first_k_dense_replace": 1,
}
EXPERTS = {"num_experts": 8, "num_experts_per_tok": 2, "moe_intermediate_size": 30}
# family: what its configuration adds, and the attention implementations it has
CASES: dict[str, tuple[dict[str, Any], str]] = {
    "gpt2": ({}, "eager sdpa"),
    "gptj": ({"rotary_dim": 8}, "eager"),
    "gpt_neox": ({}, "eager sdpa"),
    "opt": ({"ffn_dim": 90, "word_embed_proj_dim": 32}, "eager sdpa"),
    "bloom": ({}, "eager"),
    "mpt": ({"d_model": 64, "n_heads": 4, "n_layers": 2}, "eager"),
    "falcon": ({"num_kv_heads": 2, "new_decoder_architecture": True}, "eager sdpa"),
    "phi": ({}, "eager sdpa"),
    "phi3": ({}, "eager sdpa"),
    "llama": ({}, "eager sdpa"),
    "mistral": ({"head_dim": 18, "sliding_window": 16}, "eager sdpa"),
    "qwen2": ({}, "eager sdpa"),
    "qwen3": ({"head_dim": 20}, "eager sdpa"),
    "gemma2": ({"head_dim": 18, "sliding_window": 16}, "eager"),
    "gemma3_text": ({"head_dim": 18, "sliding_window": 16}, "eager sdpa"),
    "starcoder2": ({}, "eager sdpa"),
    "stablelm": ({}, "eager sdpa"),
    "cohere": ({}, "eager sdpa"),
    "olmo2": ({}, "eager sdpa"),
    "granite": ({}, "eager sdpa"),
    "glm4": ({"head_dim": 18}, "eager sdpa"),
    "mixtral": ({"num_local_experts": 4, "sliding_window": None}, "eager sdpa"),
    "qwen2_moe": ({**EXPERTS, "shared_expert_intermediate_size": 22}, "eager sdpa"),
    "qwen3_moe": ({**EXPERTS, "head_dim": 20, "mlp_only_layers": [1]}, "eager sdpa"),
    "olmoe": (EXPERTS, "eager sdpa"),
    "gpt_oss": ({"num_local_experts": 4, "head_dim": 18, "sliding_window": 16}, "eager"),
    "glm4_moe": ({**LATENT, "num_key_value_heads": 2}, "eager sdpa"),
    "deepseek_v2": (LATENT, "eager sdpa"),
    "deepseek_v3": (LATENT, "eager sdpa"),
}
RUNS = [(family, attention) for family, (_, kinds) in CASES.items() for attention in kinds.split()]
OWN_INTERMEDIATE = {"gpt2", "gptj", "bloom", "falcon"}


def config_of(family: str, values: dict[str, Any]) -> Any:
    values = SMALL | values
    if family in OWN_INTERMEDIATE:
        del values["intermediate_size"]
    return transformers.CONFIG_MAPPING[family](**values)


def ours(config: Any) -> Architecture:
    return architecture_from_config(json.loads(json.dumps(config.to_dict(), default=str)), name=config.model_type)


def counted(
    config: Any, attention: str, *, auto: str = "AutoModelForCausalLM", seq: int = SEQ, backward: bool = False, **inputs: int
) -> tuple[dict[str, int], dict[str, int]]:
    """FLOP by kernel of a forward pass, and of the backward pass where asked for."""
    with FakeTensorMode(allow_non_fake_inputs=True):
        # of the implementations of experts, the batched products are those that the counter knows
        model = getattr(transformers, auto).from_config(
            config, dtype=torch.bfloat16, attn_implementation=attention, experts_implementation="batched_mm"
        )
        model.train()
        ids = torch.zeros(BATCH, seq, dtype=torch.long)
        fed = {name: torch.zeros(BATCH, length, dtype=torch.long) for name, length in inputs.items()} or {"input_ids": ids}
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as forward:
            loss = model(**fed, labels=ids, use_cache=False).loss
        with FlopCounterMode(display=False, custom_mapping=ATTENTION) as after:
            if backward:
                loss.backward()
    first, second = (counter.get_flop_counts().get("Global", {}) for counter in (forward, after))
    return {str(kernel): flop for kernel, flop in first.items()}, {str(kernel): flop for kernel, flop in second.items()}


def forward_flop(config: Any, attention: str = "eager", **fields: Any) -> int:
    return sum(counted(config, attention, **fields)[0].values())


@pytest.mark.parametrize(("family", "attention"), RUNS)
def test_forward_and_backward(family: str, attention: str) -> None:
    """Eager attention executes the model FLOP. SDPA's kernel computes the scores again: a fifth product in its backward."""
    config = config_of(family, CASES[family][0])
    arch = ours(config)
    forward, backward = counted(config, attention, backward=True)
    tokens = BATCH * SEQ
    full = flop_per_token(arch, SEQ, attention="full")
    assert full["forward"].value * tokens == pytest.approx(sum(forward.values()), rel=1e-12)
    again = backward.get("aten._scaled_dot_product_flash_attention_for_cpu_backward", 0) // 5
    assert full["backward"].value * tokens == pytest.approx(sum(backward.values()) - again, rel=1e-12)
    assert (again > 0) == ("aten._scaled_dot_product_flash_attention_for_cpu" in forward)
    assert executed_flop_per_token(arch, SEQ, attention="eager").value == full.value


@pytest.mark.parametrize("encoder", [16, 64, 200])
def test_t5(encoder: int) -> None:
    """Encoder and decoder of different lengths; T5 knows eager attention only."""
    config = transformers.CONFIG_MAPPING["t5"](
        vocab_size=101, d_model=64, d_kv=12, d_ff=90, num_layers=3, num_heads=4, decoder_start_token_id=0
    )
    seen = forward_flop(config, auto="AutoModelForSeq2SeqLM", input_ids=encoder)
    estimate = flop_per_token(ours(config), SEQ, attention="full", backward=False, encoder_seq=encoder)
    assert estimate.value * BATCH * (SEQ + encoder) == pytest.approx(seen, rel=1e-12)


def test_sparse_indexer() -> None:
    """Forward only: in transformers no gradient reaches the indexer."""
    config = config_of("deepseek_v32", {**LATENT, "index_n_heads": 3, "index_head_dim": 10, "index_topk": 16})
    seen = forward_flop(config)
    assert flop_per_token(ours(config), SEQ, attention="full", backward=False).value * BATCH * SEQ == pytest.approx(
        seen, rel=1e-12
    )


def operator_flop(arch: Architecture, seq: int, *endings: str) -> float:
    """FLOP of the layers' operators with these names, for one batch."""
    shape = Shape(batch=float(BATCH), seq=float(seq), attention="eager")
    return sum(
        float(op.flop) for layer in arch.layers for op in layer_forward(layer, arch.d_model, shape) if op.name.endswith(endings)
    )


def test_gated_delta() -> None:
    """Two terms apart: torch solves the triangular system in a kernel its counter does not know, and convolves padding."""
    seq = 192
    config = config_of(
        "qwen3_next",
        {
            **EXPERTS,
            "shared_expert_intermediate_size": 22,
            "head_dim": 18,
            "num_hidden_layers": 4,
            "linear_key_head_dim": 16,
            "linear_value_head_dim": 8,
            "linear_num_key_heads": 4,
            "linear_num_value_heads": 8,
        },
    )
    arch = ours(config)
    seen = forward_flop(config, seq=seq)
    mixers = [layer.mixer for layer in arch.layers if isinstance(layer.mixer, LinearAttention)]
    assert len(mixers) == 3
    chunk = 64
    solved = sum(m.n_value_head * (2 * chunk * (m.d_key + m.d_value) + chunk * chunk / 3) for m in mixers) * BATCH * seq
    padding = operator_flop(arch, seq, ".conv") * (mixers[0].conv_kernel - 1) / seq
    expected = flop_per_token(arch, seq, attention="full", backward=False).value * BATCH * seq - solved + padding
    assert expected == pytest.approx(seen, rel=1e-12)


def test_lightning() -> None:
    seq = 512
    config = config_of("minimax", {"num_local_experts": 4, "head_dim": 18, "block_size": 256})
    seen = forward_flop(config, seq=seq)
    arch = ours(config)
    assert any(isinstance(layer.mixer, LinearAttention) for layer in arch.layers)
    assert flop_per_token(arch, seq, attention="full", backward=False).value * BATCH * seq == pytest.approx(seen, rel=1e-12)


RECURRENT: dict[str, dict[str, Any]] = {
    "mamba": {"state_size": 8, "intermediate_size": 128},
    "mamba2": {"state_size": 16, "n_groups": 2, "num_heads": 4, "head_dim": 32},
    "jamba": {"mamba_d_state": 8, "mamba_dt_rank": 12, "num_experts": 4},
    "falcon_h1": {"mamba_d_state": 8, "mamba_n_heads": 4, "mamba_d_head": 32, "mamba_d_ssm": 128},
    "zamba2": {
        "layers_block_type": ["mamba", "hybrid", "mamba", "hybrid"],
        "num_hidden_layers": 4,
        "mamba_d_state": 16,
        "n_mamba_heads": 4,
        "mamba_ngroups": 2,
        "adapter_rank": 5,
        "num_mem_blocks": 1,
        "attention_head_dim": 32,
        "num_key_value_heads": 4,
    },
    "kimi_linear": {
        **{name: LATENT[name] for name in ("kv_lora_rank", "qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim")},
        "num_key_value_heads": 4,
        "num_hidden_layers": 4,
        "linear_head_dim": 16,
        "linear_num_heads": 4,
        "num_local_experts": 8,
    },
    "recurrent_gemma": {
        "block_types": ["recurrent", "attention"],
        "lru_width": 48,
        "head_dim": 16,
        "attention_window_size": 16,
    },
    "lfm2": {"num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"], "block_auto_adjust_ff_dim": False},
}


@pytest.mark.parametrize("family", RECURRENT)
def test_projections_beside_a_scan(family: str) -> None:
    """The projections and convolutions of models with a state; their scans are element-wise in transformers' reference code."""
    config = config_of(family, RECURRENT[family])
    arch = ours(config)
    kernels, _ = counted(config, "eager")
    forward = flop_per_token(arch, SEQ, attention="full", backward=False)["forward"]
    roles = {child.name: child.value * BATCH * SEQ for child in forward.children}
    # batched products (attention, experts, parts of scans) are counted in the other tests
    expected = sum(flop for role, flop in roles.items() if role not in {"attention_core", "scan", "experts"})
    products = sum(kernels.get(f"aten.{kind}", 0) for kind in ("mm", "addmm", "baddbmm"))
    assert products == pytest.approx(expected, rel=1e-12)
    mixers = [mixer for layer in arch.layers for mixer in (layer.mixer, layer.hybrid)]
    (kernel,) = {mixer.conv_kernel for mixer in mixers if isinstance(mixer, LinearAttention | StateSpace)}
    # transformers pads both ends and drops what it convolved beyond the sequence
    convolved = operator_flop(arch, SEQ, ".conv") * (SEQ + kernel - 1) / SEQ
    assert kernels["aten.convolution"] == pytest.approx(convolved, rel=1e-12)


def test_some_cases_have_experts() -> None:
    assert sum(any(isinstance(x.ffn, MoE) for x in ours(config_of(f, v)).layers) for f, (v, _) in CASES.items()) >= 7
