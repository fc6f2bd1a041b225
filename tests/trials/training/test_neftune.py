"""NEFTune's noise: its size follows each row's own length, whatever stands beside it."""

from __future__ import annotations

import pytest
import torch

from trials.training.neftune import EmbeddingNoise

WIDTH = 64


class Model(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(10, WIDTH)
        torch.nn.init.zeros_(self.embedding.weight)

    def get_input_embeddings(self) -> torch.nn.Module:
        return self.embedding


MASK = torch.tensor([[1] * 16, [1] * 4 + [0] * 12])
BOUNDS = [5 / (16 * WIDTH) ** 0.5, 5 / (4 * WIDTH) ** 0.5]


@pytest.fixture
def model() -> Model:
    return Model()


def largest(noise: torch.Tensor) -> float:
    return float(noise.detach().abs().max())


def test_each_row_of_a_padded_batch_has_noise_of_its_own_size(model: Model) -> None:
    EmbeddingNoise(model, alpha=5.0).expect(MASK)
    output = model.embedding(torch.zeros(2, 16, dtype=torch.long))
    for row, bound in zip(output, BOUNDS, strict=True):
        assert 0.9 * bound < largest(row) <= bound


def test_rows_end_to_end_have_the_noise_they_have_in_a_padded_batch(model: Model) -> None:
    EmbeddingNoise(model, alpha=5.0).expect(MASK)
    output = model.embedding(torch.zeros(1, 20, dtype=torch.long))
    for row, bound in zip(output[0].split([16, 4]), BOUNDS, strict=True):
        assert 0.9 * bound < largest(row) <= bound


def test_an_evaluation_has_no_noise_and_nothing_is_left_after_the_trial(model: Model) -> None:
    noise = EmbeddingNoise(model, alpha=5.0)
    noise.expect(MASK)
    model.eval()
    assert largest(model.embedding(torch.zeros(2, 16, dtype=torch.long))) == 0
    noise.remove()
    model.train()
    assert largest(model.embedding(torch.zeros(2, 16, dtype=torch.long))) == 0
