"""Finishes an export that is being written: its own files, and the card of what it and the trained model answer."""

from collections.abc import Callable, Mapping
from pathlib import Path

from megatron_nmm.checkpoint.convert import card
from megatron_nmm.checkpoint.convert.card import Card
from megatron_nmm.checkpoint.convert.exported import OPENERS
from megatron_nmm.checkpoint.convert.kinds import KINDS
from megatron_nmm.checkpoint.convert.own_files import own_files
from megatron_nmm.checkpoint.convert.probes import probes
from megatron_nmm.checkpoint.convert.to_hf import DTYPES, Exported
from megatron_nmm.data.tokens import SPECIAL_PIECES, Tokenizer
from megatron_nmm.device import quiet

NONE: Mapping[str, int] = {**dict.fromkeys(SPECIAL_PIECES, -1), "pad": 0}
"""Special tokens of a model whose tokenizer is unknown: no id is one of an image's."""


def proof(
    place: Path,
    family: str,
    dtype: str,
    tokenizer: Tokenizer | None,
    *,
    answers: bool = True,
    chat_template: str | None = None,
) -> Callable[[Path, Exported], None]:
    """What ``to_hf`` is given to finish a folder with its card; the arguments are those of ``to_hf``.

    Without ``answers`` (a model too large for this machine), or where no library holds the code of ``family``, the card
    has hashes alone. ``chat_template`` goes with the processor of our own family. Raises CheckpointError when the
    export answers otherwise.
    """

    def finish(folder: Path, exported: Exported) -> None:
        comparisons = []
        if KINDS[family].own:
            own_files(folder, exported.run, tokenizer, chat_template)
        if answers and family in OPENERS:
            _remember(place, folder, exported, family, dtype, tokenizer)
            comparisons = card.compare(folder, OPENERS[family](folder))
        made = Card(family, exported.step, dtype, exported.mapped, card.hashes(folder), comparisons)
        card.write(folder, made)

    return finish


def _remember(
    place: Path, folder: Path, exported: Exported, family: str, dtype: str, tokenizer: Tokenizer | None
) -> None:
    special = NONE if tokenizer is None else tokenizer.special
    vocabulary = exported.run.model.vocabulary if tokenizer is None else tokenizer.size
    asked = probes(exported.run, special, vocabulary, images=KINDS[family].own and tokenizer is not None)
    # Before megatron-core's modules, whose remarks about absent libraries nobody can use here.
    quiet.install()
    from megatron_nmm.checkpoint.convert.trained import trained

    with trained(place, exported.run, DTYPES[dtype], special, vocabulary) as model:
        card.remember(folder, model, asked)
