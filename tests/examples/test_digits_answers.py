"""Questions are held-out records cut before their answer; what is missing is one clear message."""

from pathlib import Path

import pytest

from examples.data.digits import write
from examples.digits_answers import main, questions


def test_questions_end_where_the_answer_begins(tmp_path: Path) -> None:
    write(tmp_path, pairs=1, held_out_pairs=5)
    for kind, images, end in (("caption", 1, " a handwritten"), ("interleaved", 2, " is")):
        asked = questions(tmp_path, kind, 3)
        assert len(asked) == 3
        for question in asked:
            assert len(question.images) == question.prompt.count("<image>") == images
            assert question.prompt.endswith(end) and question.answer.isalpha()


def test_missing_run_or_data_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["digits_answers.py", "--run", str(tmp_path), "--data", str(tmp_path / "data")])
    assert main() == 2
    assert "caption.jsonl cannot be read: No such file or directory; give --data the folder" in capsys.readouterr().err
    (tmp_path / "data" / "held_out").mkdir(parents=True)
    for kind in ("caption", "interleaved"):
        (tmp_path / "data" / "held_out" / f"{kind}.jsonl").touch()
    assert main() == 2
    assert f"{tmp_path} is neither the folder of a run (checkpoints/ inside)" in capsys.readouterr().err
    (tmp_path / "checkpoints").mkdir()
    assert main() == 2
    assert "config.json cannot be read: No such file or directory; use the config.json" in capsys.readouterr().err
