"""A fleet file names its model: sizes without torch, and the plan by every matrix's own size."""

import subprocess
import sys
from pathlib import Path

import pytest
from transformers import AutoConfig

from fedfit.experiment.adaptation import adapted_layer
from fedfit.experiment.fleet_file import parse_fleet
from fedfit.experiment.plan_fleet import PlanOptions, plan_fleet
from fedfit.fleet_settings import AdaptationSettings
from fedfit.models.families import GENERATING, family_of
from fedfit.models.named_shapes import KNOWN, named_shape
from tests.cli.command import fedfit
from tests.experiment.test_fleet_file import faults

FLEET = """
[adaptation]
{}
layers = 1
bits_per_parameter = 1
[round]
deadline_s = {}
[fleet]
devices = 1
samples = 10
max_frequency_hz = 1e9
capacitance = 1e-28
energy_budget_j = 500
circuit_energy_j = 0
transmit_power_w = 1
downlink_power_w = 1
uplink_bandwidth_hz = 1e6
downlink_bandwidth_hz = 1e6
uplink_gain = 1.023e-9
downlink_gain = 1.023e-9
noise_w = 1e-12
"""


def plan(adaptation: str, deadline_s: float = 1.0, solver: str = "exact") -> int | None:
    rank: int | None = plan_fleet(parse_fleet(FLEET.format(adaptation, deadline_s)), PlanOptions(solver=solver))["rank"]
    return rank


def test_the_folders_of_all_families_have_the_shape_of_their_configuration(tiny_models: dict[str, Path]) -> None:
    for kind, folder in tiny_models.items():
        config = AutoConfig.from_pretrained(folder)
        assert named_shape(str(folder)) == family_of(kind).shape_of(config, None if kind in GENERATING else 1), kind


@pytest.mark.parametrize("alias", ["minilm", "smollm2"])
def test_the_packaged_models_are_in_the_table(alias: str, request: pytest.FixtureRequest) -> None:
    config = AutoConfig.from_pretrained(request.getfixturevalue(alias))
    expected = family_of(config.model_type).shape_of(config, None if config.model_type in GENERATING else 1)
    assert named_shape(alias) == expected


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("FacebookAI/roberta-base", 85.0),
        ("HuggingFaceTB/SmolLM2-360M", 361.8),
        ("SmolLM2-1.7B", 1711.3),
        ("meta-llama/Llama-3.2-1B-Instruct", 1235.8),
        ("llama-3.2-3b", 3212.6),
        ("meta-llama/Llama-2-7b-hf", 6738.4),
    ],
)
def test_sizes_add_up_to_the_published_parameters(name: str, millions: float) -> None:
    """Layers and vocabulary; Llama 2 has a matrix of its own for input and for output. Norms are less than the last digit.
    RoBERTa's is that of its layers: 12·(4·768² + 2·768·3072 + 4·768 + 3072 + 768)."""
    shape = named_shape(name)
    words = 0 if not shape.language else shape.head[0].parameters * (2 if "Llama-2" in name else 1)
    total = words + shape.layers * sum(matrix.parameters for matrix in shape.matrices.values())
    assert total / 1e6 == pytest.approx(millions, abs=0.3)


def test_every_name_has_a_shape() -> None:
    assert all(named_shape(name).layers for name in KNOWN)


def test_unequal_matrices_are_summed() -> None:
    """SmolLM2: query 576 × 576, value 192 × 576; by hand Σ d·k = 576·768, Σ (d + k) = 1152 + 768."""
    layer = adapted_layer(AdaptationSettings(model="smollm2"))
    assert (layer.products, layer.sums, layer.outputs, layer.max_rank) == (442_368, 1_920, 768, 192)


def test_a_model_and_its_sizes_in_numbers_plan_alike() -> None:
    named, sizes = 'model = "minilm"', "input_dim = 384\noutput_dim = 384"
    for solver in ("exact", "exhaustive", "as_printed"):
        assert plan(named, 0.1, solver) == plan(sizes, 0.1, solver)


def test_the_rank_by_hand() -> None:
    """The rate is 1e6·log2(1 + 1023) = 1e7 bit/s. Rank r: (2r − 1)·442,368·10 cycles at 1e9 Hz, and 2·1920·r bits at 1e7 bit/s:
    0.0088474·r − 0.0044237 + 0.000384·r ≤ 1 for r ≤ 108.8."""
    assert plan('model = "smollm2"') == 108
    assert plan('model = "smollm2"', 10.0) == 192, "value has 192 rows"


def test_no_torch() -> None:
    code = (
        "import sys; from fedfit.experiment.fleet_file import read_fleet_file as r; "
        "r('three-devices', ['adaptation.model=meta-llama/Llama-3.2-3B']); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


FLEET_OF_3 = "[fleet]\ndevices = 3\nsamples = 10\n"


@pytest.mark.parametrize(
    ("text", "key", "value", "remedy"),
    [
        ('model = "smollm3"', "model", "smollm3", "did you mean 'smollm2'?"),
        ('targets = ["query"]', "targets", ["query"], "name it"),
        ('model = "smollm2"\ninput_dim = 576', "input_dim", 576, "the model gives the sizes"),
        ('model = "smollm2"\nlayers = 31', "layers", 31, "has 30"),
        ('model = "smollm2"\nmax_rank = 193', "max_rank", 193, "192 rows or columns"),
        ('model = "smollm2"\nhead_parameters = 5', "head_parameters", 5, "set it to 0"),
        ('model = "smollm2"\ntargets = ["query", "query"]', "targets", ["query", "query"], "at most once"),
        ('model = "smollm2"\ntargets = ["dense"]', "targets", ["dense"], "q_proj"),
        ('model = "no/such/folder"', "model", "no/such/folder", "config.json"),
    ],
)
def test_faults(text: str, key: str, value: object, remedy: str) -> None:
    found = faults(f"[adaptation]\n{text}\n" + FLEET_OF_3)
    assert list(found) == [f"adaptation.{key}"]
    assert found[f"adaptation.{key}"][0] == value
    assert remedy in found[f"adaptation.{key}"][1]


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ("{", "cannot be read"),
        ("[]", "not the configuration"),
        ('{"model_type": "t5"}', "cannot be split yet"),
        ('{"model_type": "llama", "hidden_size": 8}', "does not tell the sizes of a llama"),
    ],
)
def test_a_configuration_that_is_none(config: str, says: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(config)
    found = faults(f"[adaptation]\nmodel = '{tmp_path}'\n" + FLEET_OF_3)
    assert says in found["adaptation.model"][1]


def test_the_command() -> None:
    answer = fedfit("plan", "three-devices", "adaptation.model=meta-llama/Llama-3.2-1B", "--for-rank", "8", "--json")
    assert answer.status in (0, 2)
    assert answer.json["for_rank"]["rank"] == 8
