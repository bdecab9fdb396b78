"""Weights and cards: saving and loading are exact, and no other files are loaded."""

from __future__ import annotations

import json

import pytest
import torch

from microlab.data import weights
from microlab.data.errors import WeightsError
from microlab.data.files import sha256
from microlab.data.weights import fill, read_tensors, write_tensors

CARD = {
    "architecture": "Small",
    "parameters": {"width": 3},
    "trained_by": "tests/test_weights.py",
    "data": "none, drawn at random",
    "licence": "MIT",
    "scores": {},
    "hardware": "any",
    "minutes": 0,
    "date": "2025-01-01",
    "seed": 0,
}


class Small(torch.nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.conv = torch.nn.Conv2d(1, width, 3)
        self.norm = torch.nn.BatchNorm2d(width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.conv(x))


def trained(seed: int = 0) -> Small:
    """A network whose running statistics differ from those of a fresh one."""
    torch.manual_seed(seed)
    model = Small(3)
    for _ in range(3):
        model(torch.randn(2, 1, 8, 8))
    return model.eval()


@pytest.fixture
def saved(tmp_path):
    return weights.save(tmp_path / "model.safetensors", trained(), CARD)


def test_a_saved_network_gives_the_same_answer_when_loaded(saved):
    x = torch.randn(1, 1, 9, 9, generator=torch.Generator().manual_seed(1))
    model, card = weights.load(saved, Small)
    assert not model.training
    assert torch.equal(model(x), trained()(x))
    assert {field: card[field] for field in CARD} == CARD


def test_the_card_states_size_and_checksum_of_the_file(saved):
    card = json.loads(saved.with_suffix(".json").read_text())
    assert card["sha256"] == sha256(saved)
    assert card["bytes"] == saved.stat().st_size
    assert card["precision"] == "float32"


def test_half_precision_halves_the_file_and_loads_as_float32(tmp_path):
    state = {"w": torch.randn(500, 100), "steps": torch.tensor(7)}
    whole = weights.save(tmp_path / "whole.safetensors", state, CARD)
    half = weights.save(tmp_path / "half.safetensors", state, CARD, half=True)
    assert half.stat().st_size == pytest.approx(whole.stat().st_size / 2, rel=0.01)
    back, card = weights.load_state(half)
    assert card["precision"] == "float16"
    assert back["w"].dtype == torch.float32
    torch.testing.assert_close(back["w"], state["w"], rtol=2**-10, atol=1e-6)
    assert back["steps"] == 7


def test_weights_are_found_by_bare_name_in_the_package_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    assert weights.available() == []
    weights.save("grains", trained(), CARD)
    assert weights.available() == ["grains"]
    assert weights.card("grains")["architecture"] == "Small"
    assert set(weights.load_state("grains")[0]) == set(trained().state_dict())


def test_shipped_weights_are_small_complete_and_unchanged():
    for name in weights.available():
        weights.load_state(name)
        assert (weights.FOLDER / f"{name}.safetensors").stat().st_size < 8 * 2**20


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda path: path.write_bytes(path.read_bytes() + b"?"), "differs from the checksum"),
        (lambda path: path.unlink(), "no such weights"),
        (lambda path: path.with_suffix(".json").unlink(), "no card"),
        (lambda path: path.with_suffix(".json").write_text("{"), "no readable card"),
        (lambda path: path.with_suffix(".json").write_text("[1]"), "card lacks architecture"),
        (lambda path: path.with_suffix(".json").write_text('{"seed": 0}'), "card lacks architecture"),
    ],
)
def test_damaged_weights_and_cards_give_one_line(saved, damage, reason):
    damage(saved)
    with pytest.raises(WeightsError, match=reason) as error:
        weights.load(saved, Small)
    assert "\n" not in str(error.value)
    assert "model" in str(error.value)


def test_a_file_that_is_not_safetensors_is_refused_even_with_a_correct_checksum(saved):
    saved.write_bytes(b"not tensors")
    path = saved.with_suffix(".json")
    path.write_text(json.dumps({**json.loads(path.read_text()), "sha256": sha256(saved)}))
    with pytest.raises(WeightsError, match="no readable safetensors"):
        weights.load_state(saved)


def test_weights_of_another_network_are_refused_in_one_line(tmp_path):
    class Other(Small):
        pass

    path = weights.save(tmp_path / "model.safetensors", trained(), CARD)
    with pytest.raises(WeightsError, match="holds a Small, not a Other"):
        weights.load(path, Other)
    for card in ({**CARD, "parameters": {"width": 4}}, {**CARD, "parameters": {"depth": 4}}):
        weights.save(path, trained(), card)
        with pytest.raises(WeightsError, match="does not fit the Small") as error:
            weights.load(path, Small)
        assert "\n" not in str(error.value)


def test_an_unknown_name_is_an_error_that_lists_the_shipped_ones(tmp_path, monkeypatch):
    monkeypatch.setattr(weights, "FOLDER", tmp_path)
    weights.save("grains", trained(), CARD)
    with pytest.raises(WeightsError, match="grains"):
        weights.card("grain")


def test_a_card_without_its_fields_is_not_written(tmp_path):
    with pytest.raises(WeightsError, match="licence"):
        weights.save(tmp_path / "m.safetensors", trained(), {k: v for k, v in CARD.items() if k != "licence"})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_cannot_be_created_is_reported(tmp_path):
    (tmp_path / "file").touch()
    with pytest.raises(WeightsError, match="cannot be written"):
        weights.save(tmp_path / "file" / "m.safetensors", trained(), CARD)


def test_weights_are_restored_in_any_memory_layout(tmp_path):
    model = torch.nn.Conv2d(3, 5, 3).to(memory_format=torch.channels_last)
    path = tmp_path / "deep" / "w.safetensors"
    write_tensors(path, model.state_dict(), {"made by": "a test"})
    other = torch.nn.Conv2d(3, 5, 3)
    fill(other, path)
    assert read_tensors(path)[1] == {"made by": "a test"}
    assert torch.equal(other.weight, model.weight)


def test_wrong_weight_files_are_named(tmp_path):
    (tmp_path / "text.safetensors").write_text("not weights at all")
    with pytest.raises(WeightsError, match=r"text\.safetensors: is no readable safetensors file"):
        fill(torch.nn.Linear(3, 1), tmp_path / "text.safetensors")
    with pytest.raises(WeightsError, match="no such weights"):
        fill(torch.nn.Linear(3, 1), tmp_path / "missing.safetensors")
    write_tensors(tmp_path / "linear.safetensors", torch.nn.Linear(2, 2).state_dict())
    with pytest.raises(WeightsError, match="another network"):
        fill(torch.nn.Linear(3, 1), tmp_path / "linear.safetensors")
