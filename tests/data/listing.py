"""The rules for a list, read from the words of its prompt, and checked without the grader."""

from __future__ import annotations

from betastar.data.micro.lists import LISTED


def rules_in(text: str) -> tuple[str, int, dict[str, str]]:
    """Kind, length and rules about single words, from the words of the prompt alone."""
    asked, *rules = text.removesuffix(" .").split(" . ")
    please, verb, length, kind = asked.split()
    assert (please, verb) == ("Please", "list")
    return kind, int(length), dict(rule.rsplit(" ", 1) for rule in rules)


def follows(text: str, items: list[str]) -> bool:
    """The prompt's rules, checked without the grader."""
    kind, length, rules = rules_in(text)
    return (
        len(items) == length
        and sorted(set(items)) == sorted(items)
        and all(item in LISTED[kind].split() for item in items)
        and items[0] == rules.get("Start with", items[0])
        and items[-1] == rules.get("End with", items[-1])
        and rules.get("Leave out") not in items
    )
