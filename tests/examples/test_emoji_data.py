"""The emoji corpus is split by emoji, pairs each image with its own name, and is the same in every run."""

import gzip
import io
import json
import tarfile
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from PIL import Image

from examples.data import emoji

COUNT = 60
GROUPS = ("hands", "plants")


def png(number: int) -> bytes:
    """An image no other number has."""
    file = io.BytesIO()
    Image.new("RGBA", (8, 8), (number, 0, 0, 255)).save(file, "PNG")
    return file.getvalue()


def add(package: tarfile.TarFile, name: str, content: bytes) -> None:
    header = tarfile.TarInfo(f"package/{name}")
    header.size = len(content)
    package.addfile(header, io.BytesIO(content))


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two packages laid out as npm's, with ``COUNT`` emoji, every second under a name with a variation selector."""
    folder = tmp_path_factory.mktemp("packages")
    paths = {name: folder / f"{package.replace('@', '-')}.tgz" for name, package in emoji.PACKAGES.items()}
    codes = [f"1F{number:03X}" for number in range(COUNT)]
    with tarfile.open(paths["images"], "w:gz") as package:
        for number, code in enumerate(codes):
            add(package, f"img/google/64/{code.lower()}{'-fe0f' if number % 2 else ''}.png", png(number))
    with tarfile.open(paths["names"], "w:gz") as package:
        for language in emoji.LANGUAGES:
            rows = [
                {"hexcode": code, "label": f"{language} {number}", "tags": ["a", "b"], "subgroup": number % len(GROUPS)}
                for number, code in enumerate(codes)
            ]
            add(package, f"{language}/data.json", json.dumps(rows).encode())
        messages = {"subgroups": [{"message": group} for group in GROUPS]}
        add(package, "en/messages.json", json.dumps(messages).encode())
    return folder


@pytest.fixture(scope="module")
def corpus(packages: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("emoji")
    assert emoji.main([str(folder), "--packages", str(packages)]) == 0
    return folder


def captions(folder: Path, split: str) -> dict[str, tuple[bytes, str]]:
    """Key -> (image, text) of all tars."""
    found: dict[str, dict[str, bytes]] = {}
    for path in sorted((folder / split / "caption").glob("*.tar")):
        with tarfile.open(path) as tar:
            for member in tar:
                file = tar.extractfile(member)
                assert file is not None
                found.setdefault(Path(member.name).stem, {})[Path(member.name).suffix] = file.read()
    return {key: (parts[".png"], parts[".txt"].decode()) for key, parts in found.items()}


def texts(folder: Path, split: str) -> list[dict[str, str]]:
    with gzip.open(folder / split / "text.jsonl.gz") as file:
        return [json.loads(line) for line in file]


def test_each_image_has_its_own_name(corpus: Path) -> None:
    pairs = captions(corpus, "train") | captions(corpus, "held_out")
    assert len(pairs) == COUNT
    for key, (image, text) in pairs.items():
        number = int(key[2:], 16)
        assert image == png(number) and text == f"en {number}: a, b"


def test_no_held_out_emoji_is_trained_on_in_any_language(corpus: Path) -> None:
    held_out = captions(corpus, "held_out").keys()
    assert held_out and not held_out & captions(corpus, "train").keys()
    assert {row["id"].split("-", 1)[1] for row in texts(corpus, "held_out")} == held_out
    assert not {row["id"].split("-", 1)[1] for row in texts(corpus, "train")} & held_out
    assert len(texts(corpus, "held_out")) == len(held_out) * len(emoji.LANGUAGES)


def test_pages_alternate_texts_and_images(corpus: Path) -> None:
    shown = []
    for row in pq.read_table(corpus / "train" / "interleaved.parquet").to_pylist():
        assert all((text is None) != (image is None) for text, image in zip(row["texts"], row["images"], strict=True))
        assert row["texts"][0].rstrip(": ") in GROUPS
        shown += [image for image in row["images"] if image is not None]
    assert sorted(shown) == sorted(image for image, _ in captions(corpus, "train").values())


def test_the_same_bytes_in_every_run(corpus: Path, packages: Path, tmp_path: Path) -> None:
    emoji.main([str(tmp_path), "--packages", str(packages)])
    for path in corpus.rglob("*"):
        if path.is_file():
            assert path.read_bytes() == (tmp_path / path.relative_to(corpus)).read_bytes()


def test_without_npm_the_remedy_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    assert emoji.main([str(tmp_path / "out")]) == 2
    assert "install Node.js" in capsys.readouterr().err
