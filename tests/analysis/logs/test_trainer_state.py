"""`trainer_state.json` as TRL's trainers write it, against the history they held in memory."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from betastar.analysis.logs.states import read_trainer_state, trainer_state_of
from betastar.errors import BetastarError


@pytest.mark.parametrize("name", ["grpo", "rloo"])
def test_the_history_is_read_as_the_trainer_held_it(trained: dict[str, Any], name: str) -> None:
    folder, history = trained[name]
    path = trainer_state_of(folder)
    # No state in the folder itself: the last of two checkpoints. It was saved before the closing summary was logged.
    assert path is not None
    assert path == folder / "checkpoint-4" / "trainer_state.json"
    rows = read_trainer_state(path, name).rows
    assert len(rows) == len(history) - 1 == 7  # evaluations at 0, 2, 4 and steps 1 to 4
    for i, logged in enumerate(history[:7]):
        for column, value in logged.items():
            assert rows.loc[i, column] == value, (i, column)
        assert set(rows.columns[rows.loc[i].notna().to_numpy()]) == set(logged)
    # The trainer rewards the sum of both functions; means of sums are sums of means.
    total = rows["eval_rewards/distinct/mean"] + rows["eval_rewards/correct/mean"]
    assert np.allclose(total.dropna(), rows["eval_reward"].dropna())


def test_the_longest_history_is_found(trained: dict[str, Any], tmp_path: Path) -> None:
    for step in (2, 4):
        source = trained["grpo"].folder / f"checkpoint-{step}" / "trainer_state.json"
        (tmp_path / f"checkpoint-{step}").mkdir()
        shutil.copy(source, tmp_path / f"checkpoint-{step}")
    (tmp_path / "checkpoint-notes").mkdir()
    assert trainer_state_of(tmp_path) == tmp_path / "checkpoint-4" / "trainer_state.json"
    # A state of the whole training beside the checkpoints, from save_state().
    state = json.loads((tmp_path / "checkpoint-4" / "trainer_state.json").read_text())
    (tmp_path / "trainer_state.json").write_text(json.dumps({**state, "global_step": 5}))
    assert trainer_state_of(tmp_path) == tmp_path / "trainer_state.json"
    # A checkpoint that a full disk left unfinished does not hide the others.
    (tmp_path / "trainer_state.json").write_text('{"global_step": ')
    assert trainer_state_of(tmp_path) == tmp_path / "checkpoint-4" / "trainer_state.json"
    assert trainer_state_of(tmp_path / "checkpoint-notes") is None


@pytest.mark.parametrize(
    ("text", "said"), [('{"model": 1}', "log_history is missing"), ("{", "not valid JSON"), ("[1]", "log_history")]
)
def test_another_file_is_refused_in_one_sentence(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "trainer_state.json").write_text(text)
    with pytest.raises(BetastarError, match=said):
        read_trainer_state(tmp_path / "trainer_state.json", "x")
