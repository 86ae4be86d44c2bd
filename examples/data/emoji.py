"""Writes a multilingual image-text corpus of emoji in the three shapes raw corpora come in: tars, Parquet and JSONL.

    OUT/<split>/caption/*.tar         WebDataset: 1f44b.png with 1f44b.txt "waving hand: hand, hello, wave", and
                                      what Megatron-Energon writes about shards and fields (.nv-meta/)
    OUT/<split>/interleaved.parquet   pages: ``texts`` and ``images`` side by side, None where the other one stands
    OUT/<split>/text.jsonl.gz         {"id": "de-1f44b", "text": "winkende Hand: Hand, hallo, winken"}

``<split>`` is train or held_out; a held-out emoji is in no training record of any shape or language. Images and names
come from two npm packages, emoji-datasource-google (Apache-2.0) and emojibase-data (MIT), fetched with ``npm pack``.

Run: python examples/data/emoji.py OUT
"""

import argparse
import gzip
import hashlib
import io
import json
import subprocess
import sys
import tarfile
import tempfile
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

PACKAGES = {"images": "emoji-datasource-google@16.0.0", "names": "emojibase-data@17.0.0"}
LANGUAGES = ("en", "de", "es", "fr", "it", "ja", "ko", "pt", "ru", "zh")
ENGLISH = "en"
SPLITS = ("train", "held_out")
HELD_OUT = 20
"""One emoji in this many is held out."""
TAR_SAMPLES = 500
PAGE = 8
"""Emoji on one interleaved page."""


@dataclass(frozen=True)
class Emoji:
    """One image and what it is called."""

    key: str
    png: bytes
    group: str
    captions: dict[str, str]
    """Language -> name and tags."""


def main(argv: Sequence[str] | None = None) -> int:
    """Fetch, write, say what was written."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path, metavar="OUT", help="folder to write to")
    parser.add_argument("--packages", type=Path, metavar="FOLDER", help="where the packages lie, or are fetched to")
    parser.add_argument(
        "--languages",
        nargs="+",
        choices=LANGUAGES,
        default=LANGUAGES,
        metavar="L",
        help="of the text (default: all ten)",
    )
    parser.add_argument("--translate", action="store_true", help="captions and pages in these languages, too")
    arguments = parser.parse_args(argv)
    try:
        with tempfile.TemporaryDirectory() as scratch:
            paths = fetch(arguments.packages or Path(scratch))
            emoji = list(read(paths["images"], paths["names"], arguments.languages))
            counts = write(arguments.output, emoji, arguments.languages if arguments.translate else (ENGLISH,))
    except (OSError, subprocess.CalledProcessError) as error:
        print(f"error: {explain(error)}", file=sys.stderr)
        return 2
    for name, count in counts.items():
        print(f"{arguments.output / name}: {count:,}")
    return 0


def fetch(folder: Path) -> dict[str, Path]:
    """The two packages in ``folder``; those that are missing are fetched with npm."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = {name: folder / f"{package.replace('@', '-')}.tgz" for name, package in PACKAGES.items()}
    missing = [PACKAGES[name] for name, path in paths.items() if not path.is_file()]
    if missing:
        subprocess.run(["npm", "pack", "--silent", *missing], cwd=folder, check=True, stdout=subprocess.DEVNULL)
    return paths


def explain(error: OSError | subprocess.CalledProcessError) -> str:
    """Fact and remedy."""
    if isinstance(error, subprocess.CalledProcessError):
        return f"npm could not fetch {' and '.join(PACKAGES.values())}; see its message above, or give --packages"
    if error.filename == "npm":
        return "npm is not installed; install Node.js, or fetch the two packages elsewhere and give --packages FOLDER"
    return f"{error.filename}: {error.strerror}; make room or give another OUT"


def read(images: Path, names: Path, languages: Sequence[str] = LANGUAGES) -> Iterator[Emoji]:
    """Every emoji that has an image and an English name, called by its name in ``languages`` and in English."""
    with tarfile.open(names) as package:
        spoken = dict.fromkeys((ENGLISH, *languages))
        tables = {language: _json(package, f"package/{language}/data.json") for language in spoken}
        groups = [group["message"] for group in _json(package, "package/en/messages.json")["subgroups"]]
    captions: dict[str, dict[str, str]] = defaultdict(dict)
    for language, table in tables.items():
        for row in table:
            captions[_key(row["hexcode"])][language] = ": ".join([row["label"], *_listed(row.get("tags"))])
    grouped = {_key(row["hexcode"]): groups[row["subgroup"]] for row in tables[ENGLISH] if "subgroup" in row}
    with tarfile.open(images) as package:
        for member in package:
            key = _key(Path(member.name).stem)
            if "/img/google/64/" in member.name and key in grouped:
                file = package.extractfile(member)
                assert file is not None, f"{member.name} is no file"
                yield Emoji(key, file.read(), grouped[key], captions[key])


def write(output: Path, emoji: Sequence[Emoji], languages: Sequence[str] = (ENGLISH,)) -> dict[str, int]:
    """Write both splits, captions and pages in ``languages``; name -> records written. The same bytes in every run."""
    counts: dict[str, int] = {}
    for split in SPLITS:
        members = sorted((e for e in emoji if split_of(e.key) == split), key=lambda e: e.key)
        folder = output / split
        (folder / "caption").mkdir(parents=True, exist_ok=True)
        counts[f"{split}/caption"] = write_tars(folder / "caption", members, languages)
        counts[f"{split}/interleaved.parquet"] = write_pages(folder / "interleaved.parquet", members, languages)
        counts[f"{split}/text.jsonl.gz"] = write_texts(folder / "text.jsonl.gz", members)
    return counts


def split_of(key: str) -> str:
    """The same for an emoji in every shape and language."""
    return SPLITS[hashlib.sha256(key.encode()).digest()[0] % HELD_OUT == 0]


def write_tars(folder: Path, emoji: Sequence[Emoji], languages: Sequence[str] = (ENGLISH,)) -> int:
    """Tars of ``TAR_SAMPLES`` with the shard counts, split and fields that Megatron-Energon keeps beside them."""
    shards: dict[str, int] = {}
    captioned = [(one, language) for language in languages for one in emoji if language in one.captions]
    for number, start in enumerate(range(0, len(captioned), TAR_SAMPLES)):
        members = captioned[start : start + TAR_SAMPLES]
        name = f"emoji-{number:03d}.tar"
        with tarfile.open(folder / name, "w", format=tarfile.USTAR_FORMAT) as tar:
            for one, language in members:
                name_in = one.key if language == ENGLISH else f"{one.key}-{language}"
                for ending, content in (("png", one.png), ("txt", one.captions[language].encode())):
                    header = tarfile.TarInfo(f"{name_in}.{ending}")
                    header.size = len(content)
                    tar.addfile(header, io.BytesIO(content))
        shards[name] = len(members)
    meta = folder / ".nv-meta"
    meta.mkdir(exist_ok=True)
    (meta / ".info.json").write_text(json.dumps({"energon_version": "7.0.0", "shard_counts": shards}, indent=2) + "\n")
    (meta / "split.yaml").write_text(
        "split_parts:\n  train:\n" + "".join(f"  - {name}\n" for name in shards) + "exclude: []\n"
    )
    (meta / "dataset.yaml").write_text(
        "sample_type:\n  __module__: megatron.energon\n  __class__: CaptioningSample\n"
        "field_map:\n  image: png\n  caption: txt\n"
    )
    return len(captioned)


def write_pages(path: Path, emoji: Sequence[Emoji], languages: Sequence[str] = (ENGLISH,)) -> int:
    """Pages of ``PAGE`` emoji of one group in one language: a heading, then image and name in turn."""
    groups: dict[tuple[str, str], list[tuple[Emoji, str]]] = defaultdict(list)
    for language in languages:
        for one in emoji:
            if language in one.captions:
                groups[language, one.group].append((one, one.captions[language].partition(": ")[0]))
    rows: list[dict[str, Any]] = []
    for (language, group), members in sorted(groups.items()):
        place = group if language == ENGLISH else f"{group}-{language}"
        for start in range(0, len(members), PAGE):
            page = members[start : start + PAGE]
            texts: list[str | None] = [f"{group}: "]
            images: list[bytes | None] = [None]
            for one, name in page:
                texts += [None, f"{name}. "]
                images += [one.png, None]
            rows.append({"id": f"page-{place}-{start // PAGE}", "texts": texts, "images": images})
    schema = pa.schema([("id", pa.string()), ("texts", pa.list_(pa.string())), ("images", pa.list_(pa.binary()))])
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), path, row_group_size=64)
    return len(rows)


def write_texts(path: Path, emoji: Sequence[Emoji]) -> int:
    """Name and tags of every emoji in every language."""
    count = 0
    with open(path, "wb") as raw, gzip.GzipFile(fileobj=raw, mode="wb", mtime=0) as file:
        for one in emoji:
            for language, caption in one.captions.items():
                record = {"id": f"{language}-{one.key}", "text": caption}
                file.write(json.dumps(record, ensure_ascii=False).encode() + b"\n")
                count += 1
    return count


def _json(package: tarfile.TarFile, name: str) -> Any:
    file = package.extractfile(name)
    assert file is not None, f"{name} is no file"
    return json.load(file)


def _key(hexcode: str) -> str:
    """One spelling for both packages: lower case, without the variation selector."""
    return hexcode.lower().replace("-fe0f", "")


def _listed(tags: list[str] | None) -> list[str]:
    return [", ".join(tags)] if tags else []


if __name__ == "__main__":
    sys.exit(main())
