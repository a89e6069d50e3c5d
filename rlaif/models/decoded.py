"""A model that draws its texts by a setting of its own, whatever a request says: what evaluation and a guard ask where
a policy's folder holds one (`decoding.py`)."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

from rlaif.config.models import JudgeModel, engine_of
from rlaif.models.decoding import Decoding
from rlaif.models.engine import ChatRequest, Engine, InLots, Lot, lots_of
from rlaif.records import content_id


class DecodedModel(InLots):
    """Requests for a text get the setting's temperature, top_p, shape and system turn; others pass as they are."""

    def __init__(self, model: Engine, decoding: Decoding) -> None:
        self._model, self._decoding = model, decoding
        self.window = getattr(model, "window", None)

    @property
    def name(self) -> str:
        return self._model.name

    @property
    def revision(self) -> str:
        return f"{self._model.revision}-{content_id(self._decoding.model_dump(mode='json'))}"

    def lots(self, requests: Iterable[ChatRequest]) -> Iterator[Lot]:
        """As the model's."""
        return lots_of(self._model, map(self._set, requests))

    def _set(self, request: ChatRequest) -> ChatRequest:
        if request.labels or request.answer is not None:
            return request
        own = self._decoding
        drawn = {"temperature": own.temperature, "top_p": own.top_p, "shape": own.shape}
        return request.model_copy(update={"messages": own.messages(request.messages), **drawn})

    def close(self) -> None:
        self._model.close()


def decoded(model: Engine, config: JudgeModel) -> Engine:
    """The model, by the setting that its folder holds, if any."""
    decoding = Decoding.of(Path(os.path.expanduser(engine_of(config).model)))
    return model if decoding is None else DecodedModel(model, decoding)
