from __future__ import annotations

from pathlib import Path

import pytest

from suanchou import catalog
from suanchou.errors import MissingData, SpecError
from suanchou.machine import accelerator, training_dtype

GIB = 2**30


def test_figures_in_si_units() -> None:
    device = accelerator("h100-sxm5-80gb")
    assert device.peak("bf16") == 989.4e12
    assert device.memory_byte == 80 * 2**30  # HBM is sold in binary gigabytes
    assert device.memory_bandwidth_byte_per_s == 3350e9
    assert device.link_byte_per_s == 450e9  # 900 GB/s is the sum of both directions
    assert device.host_link_byte_per_s == pytest.approx(63.0e9, rel=1e-3)
    assert device.family_path == ("nvidia-hopper", "nvidia-hbm", "nvidia", "gpu")


def test_pcie_3_x16_is_15_75_gb_s() -> None:
    assert accelerator("v100-pcie-32gb").host_link_byte_per_s == pytest.approx(15.75e9, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "dies", "bf16_or_fp16", "memory_byte", "bandwidth_gb_s", "link_gb_s"),
    [
        ("ascend-910c", 2, 353.9, 64 * GIB, 1600, 196),
        ("mi250x", 2, 191.5, 64 * GIB, 1638.5, 200),
        ("atlas-300i-duo-96gb", 2, 70, 48e9, 204, None),
        ("mlu370-x8", 2, 48, 24e9, 307.2, 50),
        ("bi-v150", 2, 96, 32 * GIB, 800, 16),
        ("sophgo-sc7-hp75", 3, 16, 16e9, 68, None),
    ],
)
def test_a_rank_of_a_package_with_several_dies_is_one_die(
    name: str, dies: int, bf16_or_fp16: float, memory_byte: float, bandwidth_gb_s: float, link_gb_s: float | None
) -> None:
    device = accelerator(name)
    assert device.dies == dies
    assert device.peak(training_dtype(device)) == pytest.approx(bf16_or_fp16 * 1e12)
    assert device.memory_byte == pytest.approx(memory_byte)
    assert device.memory_bandwidth_byte_per_s == pytest.approx(bandwidth_gb_s * 1e9)
    assert device.link_byte_per_s == (None if link_gb_s is None else pytest.approx(link_gb_s * 1e9))
    assert any("devices per package" in text for text in device.warnings)


def test_power_and_price_are_shared_by_the_dies() -> None:
    device, package = accelerator("mi250x"), catalog.get("accelerators", "mi250x")
    assert device.tdp_w == package.require("tdp_w") / 2
    card, whole = accelerator("atlas-300i-duo-96gb"), catalog.get("accelerators", "atlas-300i-duo-96gb")
    assert card.price_usd == whole.require("price_usd_approx") / 2


def test_a_die_of_its_own_equals_a_rank_of_its_package() -> None:
    die, rank = accelerator("ascend-910c-die"), accelerator("ascend-910c")
    assert dict(die.peak_flop_per_s) == dict(rank.peak_flop_per_s)
    assert (die.memory_byte, die.memory_bandwidth_byte_per_s, die.link_byte_per_s) == (
        rank.memory_byte,
        rank.memory_bandwidth_byte_per_s,
        rank.link_byte_per_s,
    )


@pytest.mark.parametrize(("name", "cube"), [("ascend-910b2", 353.9), ("ascend-910b3", 294.9), ("ascend-910b4-32gb", 245.8)])
def test_matrix_units_alone_give_the_gemm_peak(name: str, cube: float) -> None:
    device = accelerator(name)
    assert device.peak("fp16") == device.peak("bf16") == cube * 1e12
    assert device.peak("int8") == pytest.approx(2 * cube * 1e12)
    assert any("Cube" in text for text in device.warnings)
    headline = catalog.get("accelerators", name).require("fp16_tflops")
    assert headline > cube


def test_cube_rate_follows_from_cores_and_clock() -> None:
    """24 cores x 1.8 GHz x 8192 flop per cycle; 20 cores for 910B3; 25 cores at 1.9 GHz for 910B1."""
    assert accelerator("ascend-910b2").peak("fp16") == pytest.approx(24 * 1.8e9 * 8192, rel=1e-3)
    assert accelerator("ascend-910b3").peak("fp16") == pytest.approx(20 * 1.8e9 * 8192, rel=1e-3)
    assert accelerator("ascend-910b1").peak("fp16") == pytest.approx(25 * 1.9e9 * 8192, rel=1e-3)


def test_unpublished_bf16_falls_back_to_fp16_where_the_hardware_has_it() -> None:
    device = accelerator("hygon-bw1000")
    assert device.peak("bf16") == device.peak("fp16") == 480e12
    assert any("bf16 rate is not published" in text for text in device.warnings)


@pytest.mark.parametrize("name", ["v100-sxm2-32gb", "ascend-910a", "ascend-310p-atlas-300i-pro", "t4", "mr-v100"])
def test_hardware_without_bf16_says_so_and_names_fp16(name: str) -> None:
    device = accelerator(name)
    assert training_dtype(device) == "fp16"
    with pytest.raises(MissingData) as caught:
        device.peak("bf16")
    assert "no bf16 in hardware" in caught.value.what
    assert "fp16" in (caught.value.hint or "")


def test_no_rate_at_all_is_refused_not_guessed() -> None:
    device = accelerator("mlu590-m9")
    assert dict(device.peak_flop_per_s) == {}
    with pytest.raises(MissingData, match="no bf16 peak is published"):
        training_dtype(device)
    with pytest.raises(MissingData):
        accelerator("mtt-s5000").peak("bf16")  # only an untyped 1000 TFLOP/s is printed: nothing to fall back to


def test_unknown_accelerator() -> None:
    with pytest.raises(SpecError, match="no accelerator 'h1000'"):
        accelerator("h1000")


def test_user_value_reaches_the_device(tmp_path: Path) -> None:
    (tmp_path / "accelerators.csv").write_text("id,bf16_tflops,memory_bandwidth_gb_s\nmlu590-m9,300,2000\n", encoding="utf-8")
    with catalog.use_catalog(tmp_path):
        device = accelerator("mlu590-m9")
    assert device.peak("bf16") == 300e12
    assert device.memory_bandwidth_byte_per_s == 2000e9


def test_chip_of_ones_own_has_no_family_and_says_so(tmp_path: Path) -> None:
    (tmp_path / "accelerators.csv").write_text("id,kind,fp16_tflops\nmy-chip,npu,100\n", encoding="utf-8")
    with catalog.use_catalog(tmp_path):
        device = accelerator("my-chip")
        assert device.family_path == ("npu",)
        assert any("no family" in text for text in device.warnings)
    (tmp_path / "families.csv").write_text("accelerator_id,family\nmy-chip,huawei-910b\n", encoding="utf-8")
    with catalog.use_catalog(tmp_path):
        assert accelerator("my-chip").family == "huawei-910b"
