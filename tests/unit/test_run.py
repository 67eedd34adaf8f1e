"""Days, card-hours, energy, carbon and money by hand."""

from __future__ import annotations

from dataclasses import replace

import pytest

from suanchou.cost.spread import spread
from suanchou.estimate import Estimate
from suanchou.training.defaults import default
from suanchou.training.run import run_estimates


def run(problem, step_s=2.0, n_rank=64, **fields):
    return {part.name: part for part in run_estimates(problem, step_s, n_rank, **fields)}


def machine(problem, *, node=None, **fields):
    """The problem with other figures of its accelerator and node."""
    old = problem.node
    new = replace(old, accelerator=replace(old.accelerator, **fields), **(node or {}))
    return replace(problem, cluster=replace(problem.cluster, groups=(replace(problem.cluster.groups[0], node=new),)))


@pytest.fixture(scope="module")
def llama(problem):
    """4096 x 64 = 262,144 tokens per step."""
    return problem("llama-3.1-8b", "dgx-h100:8", seq=4096, batch=64, token=2.62144e9)


def test_steps_and_wall_time(llama):
    parts = run(llama, goodput=0.5)
    assert parts["time"]["steps"].value == pytest.approx(10_000)
    assert parts["time"].value == pytest.approx(10_000 * 2.0 / 0.5)
    assert parts["time"].grade == "exact"
    quick, slow = spread(llama.family)
    assert quick < 1 < slow
    assert (parts["time"].low, parts["time"].high) == pytest.approx((40_000 * quick, 40_000 * slow))


def test_the_range_of_time_is_that_of_the_step_times_that_of_the_goodput(llama):
    time, (quick, slow) = run(llama)["time"], spread(llama.family)
    share = time["goodput"]
    assert time.value == pytest.approx(20_000 / share.value)
    assert time.low == pytest.approx(20_000 * quick / share.high)
    assert time.high == pytest.approx(20_000 * slow / share.low)
    assert share.low < share.value < share.high


def test_machines_of_one_job_have_the_widest_interval(llama):
    other = machine(llama, family="measured-by-nobody", family_path=())
    ends = [spread(one.family) for one in (llama, other)]
    assert ends[0] != ends[1]
    widest = min(low for low, _high in ends), max(high for _low, high in ends)
    for one, peer in ((llama, other), (other, llama)):
        time = run(one, goodput=1.0, peers=[(peer, 64)])["time"]
        assert (time.low, time.high) == pytest.approx((20_000 * widest[0], 20_000 * widest[1]))


def test_a_goodput_estimate_keeps_its_range(llama):
    share = Estimate(name="goodput", value=0.8, unit="frac", low=0.5, high=0.9, formula="given")
    time, (quick, slow) = run(llama, goodput=share)["time"], spread(llama.family)
    assert time["goodput"] == share
    assert (time.low, time.value, time.high) == pytest.approx((20_000 * quick / 0.9, 25_000, 20_000 * slow / 0.5))


def test_ranges_go_from_time_to_energy_carbon_and_money(llama):
    parts, load = run(llama), default("power_frac")
    time, energy = parts["time"], parts["energy"]
    assert energy.low / energy.value == pytest.approx(time.low / time.value * load.low / load.value)
    assert energy.high / energy.value == pytest.approx(time.high / time.value * load.high / load.value)
    for name in ("carbon", "money", "card_hours"):
        assert parts[name].low < parts[name].value < parts[name].high
    assert parts["carbon"].high / parts["carbon"].value == pytest.approx(energy.high / energy.value)
    given, (quick, slow) = run(llama, goodput=1.0, usd_per_accelerator_h=2.0), spread(llama.family)
    for name in ("money", "card_hours"):
        part = given[name]
        assert (part.low, part.high) == pytest.approx((part.value * quick, part.value * slow))


def test_card_hours_count_packages(llama):
    assert run(llama, goodput=1.0)["card_hours"].value == pytest.approx(64 * 20_000 / 3600)
    dual = machine(llama, dies=2)
    assert run(dual, goodput=1.0)["card_hours"].value == pytest.approx(32 * 20_000 / 3600)


def test_energy_of_whole_nodes(llama):
    site, load = llama.cluster.site, default("power_frac").value
    fed = machine(llama, node={"power_w": 10_000.0})
    energy = run(fed, goodput=1.0)["energy"]
    assert energy.value == pytest.approx(8 * 10_000 * load * site.pue * 20_000)
    assert energy.low < energy.value < energy.high
    carbon = run(fed, goodput=1.0)["carbon"]
    assert carbon.value == pytest.approx(energy.value / 3.6e6 * site.gco2_per_kwh / 1000)


def test_energy_of_boards_where_the_node_is_unknown(llama):
    site, load = llama.cluster.site, default("power_frac").value
    boards = machine(llama, node={"power_w": None}, tdp_w=500.0)
    energy = run(boards, goodput=1.0)["energy"]
    assert energy.value == pytest.approx(64 * 500 * load * site.pue * 20_000)
    assert energy.grade == "assumed"
    assert "hosts and network left out" in energy.formula


def test_no_power_no_energy(llama):
    dark = machine(llama, node={"power_w": None}, tdp_w=None)
    assert not {"energy", "carbon"} & set(run(dark))


def test_rent_wins_over_purchase(llama):
    hours = 64 * 20_000 / 3600
    rented = machine(llama, rent_usd_per_h=3.0, price_usd=30_000.0)
    assert run(rented, goodput=1.0)["money"].value == pytest.approx(3.0 * hours)
    given = run(rented, goodput=1.0, usd_per_accelerator_h=2.0)["money"]
    assert given.value == pytest.approx(2.0 * hours)
    assert given.sources == ("given by --usd-per-hour",)


def test_a_rent_is_per_accelerator_of_two_dies(llama):
    """The user rents accelerators; a rank is half of one."""
    dual = machine(llama, dies=2)
    assert run(dual, goodput=1.0, usd_per_accelerator_h=2.0)["money"].value == pytest.approx(2.0 * 32 * 20_000 / 3600)


def test_purchase_is_spread_over_the_service_life(llama):
    site = llama.cluster.site
    bought = machine(llama, rent_usd_per_h=None, price_usd=30_000.0)
    parts = run(bought, goodput=1.0)
    hours = 64 * 20_000 / 3600
    life_h = default("amortisation_year").value * 24 * 365.25
    hardware = 30_000 * (1 + default("server_cost_frac").value) / life_h * hours
    electricity = parts["energy"].value / 3.6e6 * site.usd_per_kwh
    assert parts["money"].value == pytest.approx(hardware + electricity)
    life, server = default("amortisation_year"), default("server_cost_frac")
    quick, slow = (hours * end for end in spread(bought.family))
    least = 30_000 * (1 + server.low) / (life.high * 24 * 365.25) * quick + parts["energy"].low / 3.6e6 * site.usd_per_kwh
    most = 30_000 * (1 + server.high) / (life.low * 24 * 365.25) * slow + parts["energy"].high / 3.6e6 * site.usd_per_kwh
    assert (parts["money"].low, parts["money"].high) == pytest.approx((least, most))


def test_no_price_no_money(llama):
    assert "money" not in run(machine(llama, rent_usd_per_h=None, price_usd=None))
    assert "money" in run(machine(llama, rent_usd_per_h=None, price_usd=None), usd_per_accelerator_h=1.0)


def test_every_part_says_how(llama):
    for part in run(llama).values():
        assert part.formula
        assert part.unit in ("s", "card_h", "j", "kg", "usd")
