"""``harness serve`` and ``harness store``: keep detectors in a store, serve one of them."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from harness.errors import UsageError

if TYPE_CHECKING:
    from harness.serving.store import PlainStore

_LOOPBACK = ("127.0.0.1", "::1", "localhost")

_home = click.option(
    "--store", "home", type=click.Path(path_type=Path), metavar="DIR", help="The store. Default: $BENTOML_HOME, else ~/bentoml."
)


@click.command()
@click.argument("tag")
@_home
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to listen at.")
@click.option("--port", default=3000, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
@click.option("--token", help="Who has it not is refused. Better kept in HARNESS_TOKEN: others see a command line.")
@click.option("--device", default="cpu", show_default=True, type=click.Choice(["cpu", "cuda"]))
@click.option("--batch", type=click.IntRange(2, 1024), metavar="N", help="Up to N pictures that come together go in one call.")
def serve(tag: str, home: Path | None, host: str, port: int, token: str | None, device: str, batch: int | None) -> None:
    """Serve the stored detector TAG over HTTP until it is interrupted; no process is left then.

    POST a picture to /detect for its boxes, to /draw for a picture of them, rows of base64 to /predict.
    """
    from tempfile import TemporaryDirectory

    from harness.serving.server import DETECTOR, NotServing, Stopped, serving
    from harness.serving.settings import Settings, checked_token

    # By hand: click takes a variable that is set and empty for none, and would serve to everybody.
    token = os.environ.get("HARNESS_TOKEN") if token is None else token
    if token is not None:
        checked_token(token)
    elif host not in _LOOPBACK:
        click.echo(f"harness: without --token everybody who reaches {host} may ask.", err=True)
    store = _opened(home)
    entry = store.get(tag)
    for sentence in entry.differing():
        click.echo(f"harness: {sentence}", err=True)
    settings = Settings(str(entry.tag), store.home.resolve(), token, device, batch=batch or 0)
    stopped = _stopping()
    with (
        suppress(Stopped),
        _showing_its_log(),
        TemporaryDirectory(prefix="harness-serve-") as folder,
        serving(DETECTOR, settings, Path(folder) / "log", host, port, stopped) as server,
    ):
        needs = "" if token is None else ", with the token"
        click.echo(f"{entry.tag} at {server.url}: POST a picture to /detect or /draw, rows to /predict{needs}. Ctrl-C stops it.")
        while not stopped.wait(0.5):
            if server.process.poll() is not None:
                raise NotServing(f"the server ended by itself, with status {server.process.returncode}", server.last_lines())
    click.echo("stopped")


@click.command()
@click.option("--endpoint", default="", metavar="URL", help="Where the detector is served; can be typed on the page too.")
@click.option("--host", default="127.0.0.1", show_default=True, help="The address to show the page at.")
@click.option("--port", default=7860, show_default=True, type=click.IntRange(0, 65535), help="0 takes a free one.")
def demo(endpoint: str, host: str, port: int) -> None:
    """Show a page that asks a served detector: endpoint, token and picture in, the picture with its detections out."""
    from harness.serving.demo import showing

    if endpoint and not endpoint.startswith(("http://", "https://")):
        raise UsageError(f"{endpoint} is no address of a served detector", "It begins with http:// or https://.")
    if host not in _LOOPBACK:
        click.echo(f"harness: everybody who reaches {host} may use the page, and from this machine.", err=True)
    stopped = _stopping()
    with showing(endpoint, host, port) as address:
        click.echo(f"the page is at {address}. Ctrl-C stops it.")
        stopped.wait()
    click.echo("stopped")


@click.group()
def store() -> None:
    """List, show, export, import and delete stored detectors. Nothing that is stored is run."""


@store.command("list")
@_home
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def list_(home: Path | None, as_json: bool) -> None:
    """Every entry, damaged and foreign ones too."""
    found = _opened(home).list()
    if as_json:
        fields = ("size_bytes", "created", "ours", "damage", "task")
        click.echo(json.dumps([{"tag": str(one.tag), **{name: getattr(one, name) for name in fields}} for one in found], indent=2))
        return
    for one in found:
        state = f"damaged: {one.damage}" if one.damage else one.task if one.ours else "of BentoML's own routes"
        click.echo(f"{one.tag!s:40}  {one.size_bytes / 2**20:8.1f} MiB  {one.created[:19]:19}  {state}")
    if not found:
        click.echo("the store is empty")


@store.command()
@click.argument("tag")
@_home
def show(tag: str, home: Path | None) -> None:
    """What is stored under TAG, as JSON: found whole first."""
    entry = _opened(home).get(tag)
    told: dict[str, Any] = {
        "tag": str(entry.tag),
        "created": entry.created,
        "family": entry.spec.family,
        "task": entry.spec.task,
        "classes": list(entry.spec.classes),
        "versions": dict(entry.versions),
        "differs_here": entry.differing(),
        **{key: entry.attached[key] for key in ("labels", "metadata", "signatures")},
        "custom_objects": sorted(entry.attached["custom_objects"]),
    }
    click.echo(json.dumps(told, indent=2, ensure_ascii=False))


@store.command()
@click.argument("tag")
@_home
def delete(tag: str, home: Path | None) -> None:
    """Remove TAG, damaged or not."""
    click.echo(f"deleted {_opened(home).delete(tag)}")


@store.command("export")
@click.argument("tag")
@click.argument("archive", type=click.Path(path_type=Path))
@_home
def export(tag: str, archive: Path, home: Path | None) -> None:
    """Write TAG to ARCHIVE: .tar, .tar.gz, .tar.xz, .tar.bz2 or .zip."""
    click.echo(f"{_opened(home).export(tag, archive)} is in {archive}")


@store.command("import")
@click.argument("archive", type=click.Path(path_type=Path))
@_home
def import_(archive: Path, home: Path | None) -> None:
    """Store what an export wrote; a hostile or damaged archive is refused whole."""
    click.echo(f"stored {_opened(home).take(archive)}")


@store.command()
@click.argument("tag")
@_home
@click.option("--trust-pickle", is_flag=True, help="Open it although that runs whatever its pickles say.")
@click.option("--classes", default="", metavar="A,B,...", help="The classes' names, in their order; else those stored with it.")
def adopt(tag: str, home: Path | None, trust_pickle: bool, classes: str) -> None:
    """Store TAG, an entry of bentoml.detectron, anew as plain files; the old entry stays."""
    from harness.serving.adopted import adopt

    names = [name.strip() for name in classes.split(",") if name.strip()]
    click.echo(f"stored {adopt(_opened(home), tag, trust_pickle=trust_pickle, classes=names)}")


@store.command()
@click.argument("tag")
@click.argument("archive", type=click.Path(path_type=Path))
@_home
@click.option(
    "--wheel", type=click.Path(path_type=Path), metavar="FILE", help="This package's wheel, for `bentoml containerize` to install."
)
def bento(tag: str, archive: Path, home: Path | None, wheel: Path | None) -> None:
    """Make a Bento of TAG in ARCHIVE (.bento), for `bentoml import` and `bentoml serve`; `bentoml containerize` needs --wheel."""
    from harness.serving.bento import build_bento

    click.echo(f"{build_bento(_opened(home), tag, archive, wheel)} is in {archive}")


def _stopping() -> threading.Event:
    """Set once this process is asked to end, or its terminal is closed."""
    stopped = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        # `nohup` ignores hangups, and means it; what a shell starts in the background ignores interrupts, which nobody meant.
        if number != signal.SIGHUP or signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda *_: stopped.set())
    return stopped


@contextmanager
def _showing_its_log() -> Iterator[None]:
    """What a server said last, before the sentence that it is not there."""
    from harness.serving.server import NotServing

    try:
        yield
    except NotServing as error:
        click.echo(error.last_lines, err=True)
        raise


def _opened(home: Path | None) -> PlainStore:
    from harness.serving.logged import user_store
    from harness.serving.store import PlainStore

    if home is not None and home.exists() and not home.is_dir():
        raise UsageError(f"{home} is no folder", "Name the store's folder.")
    return user_store() if home is None else PlainStore(home)
