"""Pages of the documentation site that are generated when it is built, and links that leave `docs/`.

MkDocs calls the functions named `on_…`. Generated: every setting (from the configuration's own sections), every command
(by typer), and the changelog, whose home is the root of the repository.
"""

from __future__ import annotations

import re
import subprocess
import sys
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin

import typer
import yaml
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page
from pydantic import BaseModel
from pydantic.fields import FieldInfo

from betastar.cli import app
from betastar.settings.config import Config

ROOT = Path(__file__).resolve().parents[1]
PLAIN = {int: "whole number", float: "number", str: "text", bool: "`true` or `false`", Path: "path"}
LIMITS = {"gt": ">", "ge": "≥", "lt": "<", "le": "≤", "multiple_of": "a multiple of"}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Put the generated pages in place of the short ones that stand for them on a code host."""
    generated = {
        "reference/settings.md": settings_page(Config),
        "reference/commands.md": commands_page(),
        "reference/changelog.md": (ROOT / "CHANGELOG.md").read_text(encoding="utf-8"),
    }
    for path, text in generated.items():
        if (standing := files.get_file_from_path(path)) is not None:
            files.remove(standing)
        files.append(File.generated(config, path, content=text))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Make links to files outside `docs/`, which are valid on a code host, valid on the site."""
    here, repository = page.file.src_uri, str(config.repo_url).rstrip("/")
    pattern = r"(?<=\]\()((?:\.\./)+[^)#\s]+)(#[^)\s]*)?(?=\))"
    return re.sub(pattern, lambda match: _link(match, here, repository), markdown)


def on_page_content(html: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Let long names in tables break behind a dot, a slash or an underscore (`site.css` forbids it elsewhere)."""
    return re.sub(r"<td.*?</td>", lambda cell: re.sub(r"<code>.*?</code>", _breakable, cell[0]), html, flags=re.DOTALL)


def _breakable(code: re.Match[str]) -> str:
    return re.sub(r"(?<=\w)([._/]+)(?=\w)(?![^<]*>)", r"\1<wbr>", code[0])


def _link(match: re.Match[str], here: str, repository: str) -> str:
    target = (ROOT / "docs" / here).parent.joinpath(match[1]).resolve()
    if target.is_relative_to(ROOT / "docs") or not target.exists():
        return match[0]  # MkDocs checks it
    path = target.relative_to(ROOT).as_posix()
    if path == "CHANGELOG.md":
        return "../" * here.count("/") + "reference/changelog.md"
    return f"{repository}/blob/main/{path}{match[2] or ''}"


def commands_page() -> str:
    """Every command with its arguments and options, as typer describes them."""
    command = [sys.executable, "-m", "typer", "betastar.cli", "utils", "docs", "--name", "betastar"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    for name, known in typer.main.get_group(app).commands.items():  # typer cuts these sentences off
        cut_off = rf"^\* `{name}`: .*\.\.\.$"
        text = re.sub(cut_off, f"* `{name}`: {_first_sentence(known.help)}", text, flags=re.MULTILINE)
    return text.replace("# `betastar`\n", "# Commands\n", 1)


def _first_sentence(text: str | None) -> str:
    return re.split(r"(?<=\.)\s", " ".join((text or "").split()), maxsplit=1)[0]


class Row(NamedTuple):
    """One setting."""

    path: str
    type: str
    default: str
    meaning: str


def settings_page(root: type[BaseModel]) -> str:
    """Every setting of a configuration: path, type, default, meaning."""
    plain = [_row(name, field) for name, field in root.model_fields.items() if not sections_in(field.annotation)]
    lines = [
        "# Settings",
        "",
        "`betastar config PRESET` prints them all with a preset's values, as a file to start from. On the command line "
        "a setting is named by its path, `--set online.steps=80`; in a file the dots are nested mappings.",
        "",
        "## The experiment",
        "",
        *_table(plain),
    ]
    shown: dict[tuple[type[BaseModel], ...], str] = {}
    for name, field in root.model_fields.items():
        kinds = sections_in(field.annotation)
        if not kinds:
            continue
        lines += ["", f"## `{name}` {{ #{name} }}", "", _sentence(field.description or "")]
        if kinds in shown:
            lines += ["", f"The settings are those of [`{shown[kinds]}`](#{shown[kinds]})."]
            continue
        shown[kinds] = name
        for kind in kinds:
            if len(kinds) > 1:
                tag = next(n for n in ("kind", "source") if n in kind.model_fields)
                value = get_args(kind.model_fields[tag].annotation)[0]
                lines += ["", f"### `{name}.{tag}: {value}`"]
            lines += ["", *_table(list(_rows(kind, f"{name}.")))]
    return "\n".join(lines) + "\n"


def sections_in(annotation: Any) -> tuple[type[BaseModel], ...]:
    """The sections that a setting of this type may be; none of a plain setting."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return (annotation,)
    if get_origin(annotation) in (Union, types.UnionType, Annotated):
        return tuple(section for part in get_args(annotation) for section in sections_in(part))
    return ()


def _rows(section: type[BaseModel], prefix: str) -> Iterator[Row]:
    for name, field in section.model_fields.items():
        inner = sections_in(field.annotation)
        if not inner:
            yield _row(f"{prefix}{name}", field)
            continue
        yield Row(f"{prefix}{name}", "settings", "required" if field.is_required() else "", field.description or "")
        for part in inner:
            yield from _rows(part, f"{prefix}{name}.")


def _row(path: str, field: FieldInfo) -> Row:
    limits = [
        f"{sign} {getattr(part, name):g}"
        for part in field.metadata
        for name, sign in LIMITS.items()
        if getattr(part, name, None) is not None
    ]
    return Row(path, ", ".join([type_in_words(field.annotation), *limits]), _default(field), field.description or "")


def type_in_words(annotation: Any) -> str:
    """A type as a reader of a configuration file thinks of it."""
    origin, parts = get_origin(annotation), get_args(annotation)
    if origin is Literal:
        return " or ".join(f"`{part}`" for part in parts)
    if origin is Annotated:
        return type_in_words(parts[0])
    if origin in (Union, types.UnionType):
        return " or ".join("empty" if part is type(None) else type_in_words(part) for part in parts)
    if origin in (tuple, list):
        return f"list: {type_in_words(parts[0])}"
    if origin is dict:
        return "settings"
    return PLAIN.get(annotation) or getattr(annotation, "__name__", str(annotation))


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    value = field.get_default(call_default_factory=True)
    if value is None:
        return "empty"
    plain = list(value) if isinstance(value, tuple) else value
    text = yaml.safe_dump(plain, default_flow_style=True, width=10**6).strip().removesuffix("\n...").strip()
    return f"`{text}`"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def _table(rows: list[Row]) -> list[str]:
    lines = ["| setting | type | default | meaning |", "| --- | --- | --- | --- |"]
    for row in rows:
        cells = (f"`{row.path}`", row.type, row.default, row.meaning)
        lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
    return lines
