"""An entry of `bentoml.detectron`, stored anew as plain files: the way off a route that is deprecated and pickles.

The weights are those in the entry, whichever way it was saved; its configuration and custom objects are pickles, and reading them
runs whatever they say.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from harness.errors import HarnessError, UsageError
from harness.integrity import Damaged
from harness.serving.routes import ADOPTABLE, cure_of, route_of

if TYPE_CHECKING:
    from harness.serving.store import PlainStore
    from harness.serving.tags import Tag
    from harness.types import ModelSpec


class Untrusted(UsageError):
    """It would have to be unpickled, and nobody said that it may be."""


@dataclass(frozen=True, slots=True, eq=False)
class Adopted:
    """What was found in the entry; `harness.serving.entry.Storable`."""

    spec: ModelSpec
    module: Any
    config: Any
    attached: Mapping[str, Any] = field(default_factory=dict)


def adopt(store: PlainStore, text: str, *, trust_pickle: bool = False, classes: Sequence[str] = ()) -> Tag:
    """Store the entry of a tag anew, as the newest version of its name; gives the new tag. The old one stays.

    ``classes`` names the classes, in their order; without them the names among its metadata or custom objects are taken.
    Raises `Untrusted` without ``trust_pickle``, and `UsageError` for an entry of another route.
    """
    tag, folder = store.find(text)
    route = route_of(folder)
    if route != ADOPTABLE:
        cure = f"Only entries of {ADOPTABLE} can be adopted. {cure_of(tag, folder)}"
        raise UsageError(f"{tag} was stored by {route or 'no route of the library'}", cure)
    if not trust_pickle:
        cure = "If you trust whoever made it, say --trust-pickle."
        raise Untrusted(f"{tag} holds pickles: opening it runs whatever they say", cure)
    return store.save(tag.name, _opened(store, tag, classes))


def _opened(store: PlainStore, tag: Tag, classes: Sequence[str]) -> Adopted:
    import torch

    from harness.adapters.bentoml_store import CONFIG, PREDICTOR_FLAG, WEIGHTS, attached_of
    from harness.families import detectron2_configs
    from harness.families.detectron2 import require
    from harness.serving.bentoml_home import bentoml_home

    require()
    with bentoml_home(store.home):
        import bentoml
        from detectron2.config import CfgNode

        stored = bentoml.models.get(str(tag))
        objects = stored.custom_objects
        if not isinstance(objects.get(CONFIG), CfgNode):
            raise Damaged(f"{tag} has no CfgNode among its custom objects", "Save the model again.")
        config = objects[CONFIG].clone()
        attached = attached_of(stored)
        try:
            tensors = torch.load(stored.path_of(WEIGHTS), map_location="cpu", weights_only=True)["model"]
        except (OSError, RuntimeError, KeyError, EOFError) as error:
            raise Damaged(f"the weights of {tag} cannot be read: {error}", "Save the model again.") from error
    metadata = {key: value for key, value in attached["metadata"].items() if key != PREDICTOR_FLAG}
    names = classes or _names(metadata) or _names(attached["custom_objects"])
    spec = detectron2_configs.spec_of(config, tag.name, names)
    config.defrost()
    config.MODEL.DEVICE = "cpu"
    module = detectron2_configs.build_module(config).eval()
    try:
        module.load_state_dict(tensors)
    except RuntimeError as error:
        raise HarnessError(f"the weights of {tag} do not fit its configuration: {error}", "Save the model again.") from error
    return Adopted(spec, module, config, {**attached, "metadata": metadata})


def _names(kept: Mapping[str, Any]) -> tuple[str, ...]:
    found = kept.get("classes")
    return tuple(found) if isinstance(found, list | tuple) and all(isinstance(name, str) for name in found) else ()
