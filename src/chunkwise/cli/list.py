"""``chunkwise list``: what there is of each kind, without importing any of it."""

from __future__ import annotations

import inspect
import json
from collections.abc import Sequence

from chunkwise import plugins
from chunkwise.cli.extras import missing
from chunkwise.cli.parser import Parser
from chunkwise.contract.errors import nearest
from chunkwise.options import UsageError, options_of

EXAMPLES = """\
  chunkwise list
  chunkwise list robots
  chunkwise list strategies --json
  chunkwise list strategies rtc          (its options, for --strategy.OPTION)
"""


def main(argv: Sequence[str]) -> int:
    """Print the adapters of one kind, or of all."""
    parser = Parser("list", "The adapters there are; module:Class and path/to/file.py:Class work too.", EXAMPLES)
    parser.add_argument("kind", nargs="?", help=f"one of {', '.join(plugins.KINDS)}")
    parser.add_argument("name", nargs="?", help="one adapter: what it says of itself, and its options")
    parser.add_argument("--json", action="store_true", help="as JSON")
    parsed = parser.parse(argv)
    if parsed.kind is not None and parsed.kind not in plugins.KINDS:
        known = ", ".join(plugins.KINDS)
        raise UsageError(f"no kind {parsed.kind!r}{nearest(parsed.kind, plugins.KINDS)}; there are: {known}")
    if parsed.name is not None:
        print(_describe(parsed.kind, parsed.name))
        return 0
    kinds = [parsed.kind] if parsed.kind else list(plugins.KINDS)
    found = {kind: [_entry(kind, name) for name in plugins.names(kind)] for kind in kinds}
    print(json.dumps(found, indent=2) if parsed.json else "\n\n".join(map(_text, found, found.values())))
    return 0


def _describe(kind: str, name: str) -> str:
    """An adapter's own words and its options; this imports it."""
    made = plugins.load(kind, name)
    options = options_of(made)
    lines = [inspect.getdoc(made) or "", "", "options:" if options else "no options"]
    for option in options.values():
        default = "required" if option.default is inspect.Parameter.empty else f"default {option.default!r}"
        lines.append(f"  {option.name:<24} {default}")
    return "\n".join(lines)


def _entry(kind: str, name: str) -> dict[str, str | list[str]]:
    return {"name": name, "summary": plugins.summary(kind, name), "missing": missing(name)}


def _text(kind: str, entries: Sequence[dict[str, str | list[str]]]) -> str:
    lines = [kind]
    for entry in entries:
        lines.append(f"  {entry['name']:<18} {entry['summary']}".rstrip())
        if entry["missing"]:
            lines.append(f"  {'':<18} not installed: {plugins.cure(str(entry['name']))}")
    return "\n".join(lines)
