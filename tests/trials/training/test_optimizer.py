"""An optimizer goes with its trial."""

import torch
from bitsandbytes.functional import GlobalPageManager

from trials.training.optimizer import give_back_pages


def test_no_page_of_a_trial_stays_in_the_list_of_the_process() -> None:
    pages = GlobalPageManager.get_instance().paged_tensors
    pages.append(torch.zeros(8))  # as `get_state_buffer` does on a GPU
    give_back_pages()
    assert GlobalPageManager.get_instance().paged_tensors == []
