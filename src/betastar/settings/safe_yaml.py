"""Settings as YAML: every key once, no surprises of YAML 1.1, nothing that grows without limit, and every fault in one
sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import yaml

from betastar.errors import BetastarError

LARGEST_TEXT = 2**20  # bytes of settings
MOST_NODES = 100_000  # of settings once every alias is followed
LONGEST_NUMBER = 400  # characters


class _Loader(yaml.SafeLoader):
    """Refuses a key that stands twice in one mapping, of which YAML readers silently keep the last. What YAML takes for
    a truth value or a date stays text: pydantic would accept `yes` as the number 1, and nobody names a run with a date.
    """

    yaml_implicit_resolvers: ClassVar = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":bool", ":timestamp"))]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def construct_yaml_int(self, node: Any) -> int:
        _check_number(node)
        return super().construct_yaml_int(node)

    def construct_yaml_float(self, node: Any) -> float:
        _check_number(node)
        return super().construct_yaml_float(node)

    def construct_mapping(self, node: Any, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key.value} appears twice", key.start_mark
                )
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


_Loader.add_constructor("tag:yaml.org,2002:int", _Loader.construct_yaml_int)
_Loader.add_constructor("tag:yaml.org,2002:float", _Loader.construct_yaml_float)
PLAIN = {f"tag:yaml.org,2002:{kind}" for kind in ("map", "seq", "str", "int", "float", "null", "merge", "value")}


def _check_number(node: Any) -> None:
    """YAML 1.1 reads 1:30 as 90, and hexadecimal numbers of any length, which Python then cannot even print."""
    problem = None
    if ":" in node.value:
        problem = f"{node.value[:60]} would be read in base 60; put it in quotes or write the number"
    elif len(node.value) > LONGEST_NUMBER:
        problem = f"a number of {len(node.value)} characters"
    if problem:
        raise yaml.constructor.ConstructorError(None, None, problem, node.start_mark)


def _check_size(node: Any) -> None:
    """Raises a YAMLError for settings that hold themselves, or that aliases make too large: a text of a few lines can
    stand for billions of values."""
    sizes: dict[int, int] = {}
    above: set[int] = set()

    def refuse(part: Any, problem: str) -> Exception:
        return yaml.constructor.ConstructorError(None, None, problem, part.start_mark)

    def size(part: Any) -> int:
        if id(part) in above:
            raise refuse(part, "an alias that holds itself")
        if id(part) not in sizes:
            if part.tag not in PLAIN:
                tag = part.tag.removeprefix("tag:yaml.org,2002:")[:60]
                raise refuse(part, f"the tag {tag} is not used in settings")
            inner = part.value if isinstance(part, yaml.CollectionNode) else []
            above.add(id(part))
            parts = [each for entry in inner for each in (entry if isinstance(entry, tuple) else (entry,))]
            sizes[id(part)] = 1 + sum(map(size, parts))
            above.discard(id(part))
        if sizes[id(part)] > MOST_NODES:
            raise refuse(part, f"more than {MOST_NODES:,} values, aliases followed")
        return sizes[id(part)]

    size(node)


def parsed_yaml(text: str, before: str, after: str = "") -> Any:
    """The value of a YAML text. Raises BetastarError in one line, between `before` and `after`."""
    if len(text) > LARGEST_TEXT:
        raise BetastarError(f"{before}: {len(text):,} characters are no settings (at most {LARGEST_TEXT:,}){after}")
    try:
        loader = _Loader(text)
        node = loader.get_single_node()
        if node is None:
            return None
        _check_size(node)
        return loader.construct_document(node)
    # Beside its own errors PyYAML lets some of Python's through: a number too long, brackets nested too deep.
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f" line {mark.line + 1}" if mark else ""
        problem = str(getattr(error, "problem", None) or error).split("\n")[0]
        raise BetastarError(f"{before}:{where} not valid YAML ({problem}){after}") from None


def read_yaml(path: Path) -> dict[str, Any]:
    """The settings in a YAML file. Raises BetastarError, in one line, where it cannot be read or holds none."""
    try:
        if not path.is_file() and path.exists():
            raise ValueError("not a regular file")
        with path.open("rb") as file:
            text = file.read(LARGEST_TEXT + 1).decode("utf-8").removeprefix("\ufeff")
    except FileNotFoundError:
        raise BetastarError(f"{path}: no such file; `betastar presets` lists the built-in presets.") from None
    except (OSError, ValueError, RuntimeError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise BetastarError(f"{path}: cannot be read ({reason}); give a text file in UTF-8.") from None
    values = parsed_yaml(text, str(path), "; correct the file.")
    if not isinstance(values, dict):
        raise BetastarError(
            f"{path}: empty, or not a mapping of settings; start from the output of `betastar config micro`."
        )
    return values
