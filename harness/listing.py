"""What there is to check: models, backends, variants, devices, checks. Reads metadata only."""

from __future__ import annotations

from typing import Any

import platformdirs

from harness import doctor, registry
from harness.checks import CHECKS


def listing() -> dict[str, Any]:
    """As plain JSON values. A device that nobody has looked for yet is ``unknown``."""
    backends = []
    for ref in registry.adapters().values():
        adapter = ref.load()
        absent = [module for module in adapter.requires if not doctor.present(module)]
        variants = [{"id": v.id, "base": v.base, "precision": v.precision, "mends": v.mends} for v in adapter.variants]
        backends.append({"name": ref.name, "from": ref.source, "variants": variants, "not_installed": absent})
    models = [
        {
            "id": spec.id,
            "family": spec.family,
            "task": spec.task,
            "classes": list(spec.classes),
            "not_installed": [] if doctor.present(spec.family) else [spec.family],
        }
        for spec in registry.models().values()
    ]
    devices = doctor.devices_cached(platformdirs.user_cache_path("detection-harness"))
    checks = [{"id": check.id, "title": check.title} for check in CHECKS.values()]
    unknown = "unknown: `harness env` looks for them"
    return {"models": models, "backends": backends, "devices": devices or unknown, "checks": checks}


def listing_text(found: dict[str, Any]) -> str:
    """For people."""
    lines = ["models"]
    lines += [f"  {model['id']:<22} {model['family']:<12} {model['task']}{_absent(model)}" for model in found["models"]]
    lines.append("backends")
    for backend in found["backends"]:
        variants = ", ".join(v["id"] + ("" if v["base"] else " (--full)") for v in backend["variants"])
        lines.append(f"  {backend['name']:<22} {variants}{_absent(backend)}")
    lines.append("devices")
    devices = found["devices"]
    named = {"": [devices]} if isinstance(devices, str) else devices
    lines += [f"  {name:<22} {', '.join(have)}" for name, have in named.items()]
    lines.append("checks (more with --checks)")
    lines += [f"  {check['id']:<25} {check['title']}" for check in found["checks"]]
    return "\n".join(lines)


def _absent(entry: dict[str, Any]) -> str:
    return f"  [not installed: {', '.join(entry['not_installed'])}]" if entry["not_installed"] else ""


def diagnosis_text(found: doctor.Diagnosis) -> str:
    """What ``harness env`` says, for people."""
    machine = found.machine
    lines = [
        f"machine      {machine.cpu}, {machine.cores} cores, {machine.memory_bytes / 2**30:.0f} GiB, {machine.system}",
        f"python       {machine.python}",
        f"gpu          {', '.join(machine.gpus) or machine.gpu_note}",
        f"fingerprint  {machine.fingerprint}",
        f"versions     {found.tested}",
        "libraries",
        *(f"  {library}" for library in found.libraries),
        "devices",
        *(f"  {name:<12} {', '.join(have)}" for name, have in found.devices.items()),
    ]
    return "\n".join(lines)
