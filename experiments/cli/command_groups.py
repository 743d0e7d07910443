"""The groups of commands in `smaug --help`."""

from typing import Any

from typer.core import TyperGroup

GROUPS = ("Run", "Inspect", "Report", "Model", "Maintain")
"""In the order of the help; a command names its group as `rich_help_panel`, the word that typer has for it."""

Row = tuple[str, str]


class GroupedCommands(TyperGroup):
    """A list of commands under the titles of their groups, each with the whole first sentence of its help.

    typer prints groups only with rich markup, which is off here because help is plain text, and it cuts sentences
    that do not fit beside the names.
    """

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Print the commands of every group, and those without one under `Commands`."""
        rows = self._rows(ctx)
        width = max(len(name) for found in rows.values() for name, _ in found)
        for title, found in rows.items():
            with formatter.section(title):
                formatter.write_dl([(name.ljust(width), sentence) for name, sentence in found])

    def _rows(self, ctx: Any) -> dict[str, list[Row]]:
        rows: dict[str, list[Row]] = {group: [] for group in GROUPS}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None and not command.hidden:
                group = getattr(command, "rich_help_panel", None) or "Commands"
                sentence = command.get_short_help_str(limit=1000)
                rows.setdefault(group, []).append((name, sentence))
        return {group: found for group, found in rows.items() if found}
