"""The presets are P1's table, whatever corpora take the places of its data sets."""

import pytest

from megatron_nmm.data.mixture_presets import KINDS, P1, TRIPLES, shares, weights
from megatron_nmm.errors import ConfigError


def test_the_table_is_p1s() -> None:
    assert {name: float(share) for name, share in shares("p1").items()} == {
        "dfn": 27,
        "coyo": 11.25,
        "hqitp": 6.75,
        "obelics": 45,
        "dclm": 10,
    }


@pytest.mark.parametrize("preset", [*TRIPLES, "72-18-10", "0-90-10", "90-0-10", "P1"])
def test_every_preset_makes_100_percent_with_the_kinds_it_names(preset: str) -> None:
    found = shares(preset)
    assert sum(found.values()) == 100
    triple = TRIPLES["p1"] if preset.lower() == "p1" else tuple(map(int, preset.split("-")))
    assert tuple(sum(share for name, share in found.items() if P1[name].kind == kind) for kind in KINDS) == triple


def test_captions_keep_their_ratio() -> None:
    assert {name: float(share) for name, share in shares("40-20-40").items()} == {
        "dfn": 24,
        "coyo": 10,
        "hqitp": 6,
        "obelics": 20,
        "dclm": 40,
    }


@pytest.mark.parametrize(
    ("roles", "expected"),
    [
        ("caption interleaved text", (45, 45, 10)),
        ("text caption interleaved", (10, 45, 45)),
        ("dfn coyo hqitp obelics dclm", (27, 11.25, 6.75, 45, 10)),
        ("caption obelics coyo dclm", (33.75, 45, 11.25, 10)),  # a kind takes what its data sets leave
    ],
)
def test_corpora_take_the_places_of_data_sets(roles: str, expected: tuple[float, ...]) -> None:
    corpora = {role: f"corpora/{role}" for role in roles.split()}
    assert weights("p1", corpora) == dict(zip(corpora, expected, strict=True))


def test_a_kind_without_a_share_needs_no_corpus() -> None:
    assert weights("0-90-10", {"interleaved": "a", "text": "b"}) == {"interleaved": 90, "text": 10}


@pytest.mark.parametrize(
    ("preset", "roles", "message"),
    [
        ("p2", "caption", "no mixture is called p2; the nearest is p1, all are p1, 45-45-10, .* triple that makes 100"),
        ("50-30-40", "caption", "preset 50-30-40 makes 120 %, not 100"),
        ("-1-91-10", "caption", "no mixture is called -1-91-10"),
        (
            "p1",
            "dfn text",
            r"caption data for 18 % \(--corpus caption=FOLDER or coyo=FOLDER or hqitp=FOLDER\); interleaved data",
        ),
        ("p1", "", r"text data for 10 % \(--corpus text=FOLDER or dclm=FOLDER\)"),
        ("p1", "captions interleaved text", "captions=here: captions is no part of preset p1; the nearest is caption"),
        ("p1", "obelics interleaved caption text", "nothing of preset p1 is left for interleaved=here; leave it out"),
        ("90-0-10", "caption text obelics", "preset 90-0-10 holds no interleaved data; leave obelics=here out"),
        ("90-0-10", "caption text interleaved", "nothing of preset 90-0-10 is left for interleaved=here"),
    ],
)
def test_what_does_not_fit_is_refused(preset: str, roles: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        weights(preset, dict.fromkeys(roles.split(), "here"))
