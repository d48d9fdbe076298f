"""The base of all facts: a frozen record that a manifest holds as JSON, whichever version wrote it."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, SerializerFunctionWrapHandler, model_serializer


class Record(BaseModel):
    """A frozen record of facts.

    A field whose default is None is left out of the JSON while it is None. Keys that this version does not know, from
    an older or a newer one, are kept.
    """

    model_config = ConfigDict(frozen=True, extra="allow", protected_namespaces=(), defer_build=True)

    def to_json(self) -> dict[str, Any]:
        """The record as JSON-ready values."""
        return self.model_dump(mode="json")

    @model_serializer(mode="wrap")
    def _without_absent(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        fields = type(self).model_fields
        absent = {name for name, field in fields.items() if field.default is None and getattr(self, name) is None}
        return {name: value for name, value in dump(self).items() if name not in absent}
