"""Tools that run under torchrun have no option that torchrun's own parser would take."""

import pytest
from torch.distributed.run import get_args_parser

import tools.evaluate
import tools.generate


@pytest.mark.parametrize("tool", [tools.generate, tools.evaluate])
def test_torchrun_hands_every_option_on(tool: object, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        tool.main(["--help"])  # type: ignore[attr-defined]
    words = capsys.readouterr().out.replace("[", " ").replace(",", " ").split()
    options = {word for word in words if word.startswith("--")} - {"--run", "--help", "--nproc-per-node"}
    assert {"--model", "--set"} <= options
    for option in sorted(options):
        found = get_args_parser().parse_args(["--nproc-per-node", "2", "tool.py", option, "1"])
        assert (found.training_script, found.training_script_args) == ("tool.py", [option, "1"])


def test_the_short_name_is_one_that_torchrun_would_take() -> None:
    with pytest.raises(SystemExit):
        get_args_parser().parse_args(["tool.py", "--run", "1"])
