"""What variables of Kata's scripts that are set come to: flags and settings of ours, notes that say so, or an error.

A flag that is given, and a setting from anywhere else, win. What cannot be had is refused, what is not needed is
explained: nothing is ignored silently.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from osbuilder.errors import UsageError
from osbuilder.kata.table import CROSS_BUILD, POLICY, POLICY_FILE, ROWS, TARGET_ARCH, Fate, Row

_SWITCHES: Final = {"yes": True, "true": True, "1": True, "no": False, "false": False, "0": False}

_OPTIONS: Final = "agent_option"
_SOURCES: Final = {"git", "tree", "url"}
# What an extension has none of.
_OF_GUESTS: Final = ("init", "agent", "agent_policy", _OPTIONS)
# What a tree that the user brings has none of: flags, and settings that hold a distribution's name.
_OF_DISTROS: Final = {"distro", "release", "package", "mirrors", "components"}
# Their agent, as versions.yaml calls it.
_KATA: Final = "kata"


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Translation:
    """What their variables come to: values of flags, texts of settings, and the notes that say so."""

    flags: Mapping[str, Any]
    settings: Mapping[str, str]
    notes: tuple[str, ...]


def translate(
    command: str, variables: Mapping[str, str], given: Mapping[str, Any], defaults: Mapping[str, Any]
) -> Translation:
    """Return what their `variables` mean to a command whose flags are `given`; `defaults` tell which of them are not.

    Raises UsageError for a value that fits no meaning, and for what cannot be had here.
    """
    translator = _Translator(variables, given, defaults)
    for row in ROWS:
        text = variables.get(row.variable, "")
        # `inv why` is asked of a result, not of where a copy of it goes.
        matters = command in row.commands and (not row.flag or row.flag in given)
        if text and matters and row.fate is not Fate.SAME:
            translator.take(row, text)
    return Translation(flags=translator.flags, settings=translator.settings, notes=tuple(translator.notes))


class _Translator:
    def __init__(self, variables: Mapping[str, str], given: Mapping[str, Any], defaults: Mapping[str, Any]) -> None:
        self.variables = variables
        self.given = given
        self.defaults = defaults
        self.flags: dict[str, Any] = {}
        self.settings: dict[str, str] = {}
        self.notes: list[str] = []
        self.said_by: dict[str, str] = {}

    def take(self, row: Row, text: str) -> None:
        shown = f"{row.variable}={'***' if row.secret else text} (Kata's)"
        value = _value(row, text)
        if value is None:
            self.notes.append(f"{shown}: as it is here anyway")
        elif row.fate in (Fate.REFUSED, Fate.LATER):
            raise _refusal(row, shown)
        elif why := row.ours if row.fate is Fate.EXPLAINED else self.why_not(row):
            self.notes.append(f"{shown} has no effect: {why}")
        elif row.setting:
            self.set(row, shown, str(value))
        elif self.is_given(row.flag, value):
            self.notes.append(f"{shown} gives way to --{_dashed(row.flag)}")
        else:
            self.turn(row, shown, value)

    def why_not(self, row: Row) -> str:
        """Return why something of the agent, an init or a distro means nothing to what is built; "" where it does."""
        if row.flag in _OF_GUESTS and self.value("extension"):
            return "an extension has neither an agent nor an init"
        if {row.flag, row.setting} & _OF_DISTROS and self.value("provision"):
            return "the tree that is provisioned is no distribution's (--provision)"
        if row.variable == TARGET_ARCH and not self.is_on(CROSS_BUILD):
            return f"it names an architecture with {CROSS_BUILD}=true only (here: --arch)"
        if row.variable == POLICY_FILE and not self.has_policy():
            return f"a policy is installed with {POLICY}=yes only (here: --agent-policy)"
        agent = self.value("agent")
        if row.compiled and agent and ("/" in agent or ":" in agent):
            return f"the agent is not compiled here, it is {agent}"
        if row.compiled and not agent and row.variable != "AGENT_VERSION":
            return f"it is about an agent that is compiled here (--agent {_KATA}, or AGENT_VERSION)"
        return ""

    def has_policy(self) -> bool:
        """Whether the agent is to have policies, by their variable or by ours."""
        return self.is_on(POLICY) or "policy=yes" in self.given[_OPTIONS]

    def is_on(self, switch: str) -> bool:
        return _SWITCHES.get(self.variables.get(switch, "").lower(), False)

    def set(self, row: Row, shown: str, value: str) -> None:
        self.check_alone(row.setting, row.variable)
        text = row.template.format(value=value, distro=self.value("distro") or "debian")
        self.settings[row.setting] = text
        self.notes.append(f"{shown}: the setting {row.setting}={text}, if nothing else sets it")

    def turn(self, row: Row, shown: str, value: object) -> None:
        words = [_flag_text(row.flag, value)]
        if isinstance(value, list):
            value = [*self.flags.get(row.flag, self.given[row.flag] if row.flag == _OPTIONS else []), *value]
        else:
            self.check_alone(row.flag, row.variable)
        self.flags[row.flag] = value
        if row.compiled and not self.value("agent"):
            self.flags["agent"] = _KATA
            words.insert(0, _flag_text("agent", _KATA))
        self.notes.append(f"{shown}: taken as {' '.join(words)}")

    def check_alone(self, name: str, variable: str) -> None:
        """Refuse two variables that say what can be said once."""
        other = self.said_by.setdefault(name, variable)
        if other != variable:
            raise UsageError(f"{other} and {variable} (Kata's) exclude each other", hint="Unset one of them.")

    def is_given(self, flag: str, value: object) -> bool:
        if flag != _OPTIONS or not isinstance(value, list):
            return self.given[flag] not in (self.defaults[flag], [])
        # Each option is a flag of its own; where the source is can be said in three ways.
        names = {word.partition("=")[0] for word in value}
        return any(
            word.partition("=")[0] in names | (_SOURCES if names & _SOURCES else set()) for word in self.given[flag]
        )

    def value(self, flag: str) -> Any:
        """Return a flag's value as far as it is known: what a variable made of it, else what is given."""
        return self.flags.get(flag) or self.given.get(flag)


def _switch(row: Row, text: str) -> object:
    if text.lower() not in _SWITCHES:
        raise UsageError(f"{row.variable}: expected yes or no, got {text!r}", hint=f"Here: {row.ours}")
    return (row.values or {True: True}).get(_SWITCHES[text.lower()])


def _value(row: Row, text: str) -> object:
    """Return what a variable's text means; None where it asks for what is so anyway."""
    if row.form == "switch":
        return _switch(row, text)
    if text in row.accepted:
        return None
    if row.form == "number" and not text.isdigit():
        raise UsageError(f"{row.variable}: expected a whole number, got {text!r}", hint=f"Here: {row.ours}")
    path = text if "/" in text else f"./{text}"
    match row.form:
        case "words":
            return text.replace(",", " ").split()
        case "options":
            return row.template.format(value=text).split()
        case "list":
            return ",".join(text.replace(",", " ").split())
        case "path":
            return path
        case "paths":
            return [path]
        case "number":
            return int(text)
    return text


def _refusal(row: Row, shown: str) -> UsageError:
    what = "is not available yet" if row.fate is Fate.LATER else "cannot be had here"
    return UsageError(f"{shown}, {row.meaning}: {what}", hint=f"{row.ours} Unset {row.variable} to go on.")


def _flag_text(flag: str, value: object) -> str:
    name = _dashed(flag)
    if isinstance(value, bool):
        return f"--{name}" if value else f"--no-{name}"
    if isinstance(value, list):
        return " ".join(f"--{name} {item}" for item in value)
    return f"--{name} {value}"


def _dashed(flag: str) -> str:
    return flag.replace("_", "-")
