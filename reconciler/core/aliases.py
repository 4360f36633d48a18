"""Aliases: other names under which records serve requests.

A record's own name takes precedence over every alias. An alias that several records declare belongs
to the oldest of them; the others keep a claim, and the next oldest gets it when the owner drops it.
"""

from collections.abc import Container, Mapping

from reconciler.core.records import Record, SettingWarning


class Aliases:
    """The aliases that records declare."""

    def __init__(self) -> None:
        self._declared: dict[str, tuple[str, ...]] = {}
        """Aliases by record."""
        self._claims: dict[str, dict[str, Record]] = {}
        """Records that declare an alias, by alias and name."""

    def put(self, record: Record) -> None:
        """Add or update the aliases of a record."""
        self.drop(record.name)
        if record.spec.aliases:
            self._declared[record.name] = record.spec.aliases
            for alias in record.spec.aliases:
                self._claims.setdefault(alias, {})[record.name] = record

    def drop(self, name: str) -> None:
        """Remove the aliases of the record of that name."""
        for alias in self._declared.pop(name, ()):
            claims = self._claims[alias]
            claims.pop(name, None)
            if not claims:
                del self._claims[alias]

    def owner(self, alias: str) -> str | None:
        """Name of the record that owns an alias, unless a record has it as its own name."""
        claims = self._claims.get(alias)
        if claims is None:
            return None
        return min(claims.values(), key=lambda record: (record.created_at, record.name)).name

    def in_force(self, record: Record, names: Container[str]) -> tuple[str, ...]:
        """Aliases under which a record serves requests; `names` are those of all records."""
        declared = record.spec.aliases
        return tuple(a for a in declared if a not in names and self.owner(a) == record.name)

    def warnings(self, record: Record, records: Mapping[str, Record]) -> tuple[SettingWarning, ...]:
        """Warnings for the aliases of a record that are not in force."""
        found = []
        for alias in record.spec.aliases:
            owner = self.owner(alias)
            if alias == record.name:
                continue
            if alias in records:
                why = (
                    f"it is the name of the record at {records[alias].place}, "
                    "which takes precedence"
                )
            elif owner is not None and owner != record.name:
                place = records[owner].place
                why = f"'{owner}' ({place}) declared it first"
            else:
                continue
            found.append(SettingWarning("aliases", alias, f"'{alias}' is not in force: {why}"))
        return tuple(found)
