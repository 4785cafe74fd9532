"""A group of commands, one of which runs where no other is named."""

from typing import Any

from typer.core import TyperGroup


class DefaultGroup(TyperGroup):
    """``arimage train --data x`` is its first command, ``arimage train tokenizer`` another one.

    ``--help`` is that of the first command, whose last line names the others. What starts like
    another command (a folder called tokenizer) is written ./tokenizer.
    """

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Puts the first command's name before arguments that do not begin with one."""
        first, *others = self.commands
        if not args or args[0] not in self.commands:
            args = [first, *args]
        if others:
            words = ", ".join(f"{ctx.command_path} {name} --help" for name in others)
            self.commands[first].epilog = f"See also: {words}"
        return super().parse_args(ctx, args)
