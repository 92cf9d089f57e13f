"""Templates over a row's columns: Jinja in a sandbox, in which a column that is not there is a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from betastar.data.rows import BadRow, MissingColumn, Row
from betastar.errors import BetastarError


def template(text: str, setting: str) -> Callable[[Row], str]:
    """Compile a template once; the function renders a row. Columns are variables, and `row` holds them all.

    Raises BetastarError for a text that is no template. The function raises BadRow where the row does not have what
    the template prints, or the result is empty.
    """
    import jinja2
    from jinja2.meta import find_undeclared_variables
    from jinja2.sandbox import SandboxedEnvironment

    environment = SandboxedEnvironment(undefined=jinja2.StrictUndefined, finalize=_printed)
    try:
        compiled = environment.from_string(text)
        columns = sorted(find_undeclared_variables(environment.parse(text)) - {"row"})
    except jinja2.TemplateSyntaxError as error:
        raise BetastarError(f"{setting}: line {error.lineno} is not valid Jinja ({error}); correct it.") from None

    def render(row: Row) -> str:
        try:
            result = compiled.render({"row": row, **row})
        except BadRow as fault:
            raise BadRow(f"{setting} {fault}") from None
        except Exception as error:  # a template computes, so anything that Python can raise
            missing = [column for column in columns if column not in row]
            if isinstance(error, jinja2.UndefinedError) and missing:
                raise MissingColumn(missing[0], row, setting) from None
            raise BadRow(f"{setting} cannot be filled in ({error}); correct the row or the template") from None
        if not result.strip():
            raise BadRow(f"{setting} gives an empty text; correct the row or the template")
        return result

    return render


def _printed(value: Any) -> Any:
    if value is None:
        raise BadRow("prints a column that is null; fill it in or remove the row")
    return value
