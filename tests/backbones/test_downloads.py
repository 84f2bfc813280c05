import errno
import hashlib
import socket
import threading
import time
from collections.abc import Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, NoReturn

import huggingface_hub
import pytest
import timm.models
import torch.hub
import torchvision.models

from tlcli.backbones import downloads
from tlcli.backbones.downloads import (
    _url_cache_path,
    cached_hub_file,
    cached_url_file,
    download_hub_file,
    download_url,
    sha_prefix_of,
)
from tlcli.errors import MachineError, WeightsError

REPO = "timm/tiny.a1_in1k"
REVISION = "0123456789" * 4
CONTENT = b"weights of a tiny model"
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture(autouse=True)
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A private cache; huggingface_hub reads its environment only when it is imported."""
    folder = tmp_path / "hf"
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(folder))
    monkeypatch.setattr(torch.hub, "_hub_dir", None)  # else TORCH_HOME is not asked
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def no_sockets(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


def serve(handler: Any) -> Iterator[str]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


class QuietFiles(SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def web(tmp_path: Path) -> Iterator[str]:
    """A server of the folder `web`."""
    folder = tmp_path / "web"
    folder.mkdir()
    yield from serve(partial(QuietFiles, directory=str(folder)))


class FakeHub(BaseHTTPRequestHandler):
    """The part of huggingface.co that a download of one file needs."""

    def do_HEAD(self) -> None:
        self.answer()

    def do_GET(self) -> None:
        if self.answer():
            self.wfile.write(CONTENT)

    def answer(self) -> bool:
        _, _, repo, _, revision, name = self.path.split("/")
        errors = {
            "tiny.gated": (403, "GatedRepo"),
            "tiny.gone": (404, "RepoNotFound"),
            "tiny.busy": (500, ""),
        }
        status, code = errors.get(repo, (200, ""))
        if status == 200 and revision not in ("main", "v2"):
            status, code = 404, "RevisionNotFound"
        wanted = "pytorch_model.bin" if repo == "tiny.old" else "model.safetensors"
        if status == 200 and name != wanted:
            status, code = 404, "EntryNotFound"
        self.send_response(status)
        self.send_header("X-Repo-Commit", REVISION)
        self.send_header("ETag", f'"{SHA}"')
        if code:
            self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", str(len(CONTENT) if status == 200 else 0))
        self.end_headers()
        return status == 200

    def log_message(self, format: str, *args: Any) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A hub on this machine."""
    for address in serve(FakeHub):
        point_hub_to(address, monkeypatch)
        yield address


def point_hub_to(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    template = address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", address)
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(
        huggingface_hub.file_download.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template
    )


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def put_in_hub_cache(cache: Path, name: str, *, revision: str = REVISION) -> Path:
    folder = cache / f"models--{REPO.replace('/', '--')}"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs" / "main").write_text(REVISION)
    path = folder / "snapshots" / revision / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(CONTENT)
    return path


def hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


@pytest.mark.parametrize(
    ("url", "prefix"),
    [
        ("https://a.org/models/resnet50-11ad3fa6.pth", "11ad3fa6"),
        ("https://a.org/m/x-0123456789abcdef.pth.tar?token=-ffffffff.pth", "0123456789abcdef"),
        ("https://a.org/m/IN22K-vit.g.16-600e.pth.tar", None),
        ("https://a.org/m/xcit_large_24_p8_384_dist.pth", None),
        ("https://a.org/m-11ad3fa6.d/x.pth", None),
    ],
)
def test_sha_prefix_of__file_name(url: str, prefix: str | None) -> None:
    assert sha_prefix_of(url) == prefix


def test_sha_prefix_of__agrees_with_torch_hub_for_all_torchvision_weights() -> None:
    names = torchvision.models.list_models()
    urls = [w.url for name in names for w in torchvision.models.get_model_weights(name)]
    assert len(urls) > 150
    for url in urls:
        found = torch.hub.HASH_REGEX.search(url.rsplit("/", 1)[1])
        assert sha_prefix_of(url) == (found.group(1) if found else None)


@pytest.mark.parametrize(
    "variables",
    [
        {"TORCH_HOME": "/a/torch"},
        {"TORCH_HOME": "~/t"},
        {"XDG_CACHE_HOME": "/x"},
        {"XDG_CACHE_HOME": "~/x", "TORCH_HOME": "/y"},
        {},
    ],
)
def test_url_cache_path__is_torch_hubs(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]
) -> None:
    for name in ("TORCH_HOME", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torch.hub, "_hub_dir", None)
    expected = Path(torch.hub.get_dir()) / "checkpoints" / "a-12345678.pth"
    assert _url_cache_path("https://h/x/a-12345678.pth?download=1") == expected


def test_cached_url_file__where_torch_hub_stores_it(no_sockets: None) -> None:
    url = "https://download.pytorch.org/models/tiny-12345678.pth?x=1"
    assert cached_url_file(url) is None
    hub_folder().mkdir(parents=True)
    path = hub_folder() / "tiny-12345678.pth"
    path.write_bytes(CONTENT)
    assert cached_url_file(url) == path


def test_download_url__is_found_by_torch_hub_afterwards(web: str, tmp_path: Path) -> None:
    name = f"tiny-{SHA[:8]}.pth"
    torch.save({"a": torch.arange(3)}, tmp_path / "web" / "x.pth")
    content = (tmp_path / "web" / "x.pth").read_bytes()
    name = f"tiny-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    (tmp_path / "web" / "x.pth").rename(tmp_path / "web" / name)
    path = download_url(f"{web}/{name}")
    assert path == hub_folder() / name == cached_url_file(f"{web}/{name}")
    assert path.read_bytes() == content
    (tmp_path / "web" / name).unlink()
    loaded = torch.hub.load_state_dict_from_url(f"{web}/{name}", weights_only=True)
    assert torch.equal(loaded["a"], torch.arange(3))
    assert download_url(f"{web}/{name}") == path


def test_download_url__timm_finds_it_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "plain.pth").write_bytes(CONTENT)
    url = (tmp_path / "plain.pth").as_uri()
    assert not timm.models._hub.check_cached_file(url)
    download_url(url)
    assert timm.models._hub.check_cached_file(url)


def test_download_url__wrong_hash_is_not_kept(web: str, tmp_path: Path) -> None:
    (tmp_path / "web" / "tiny-00000000.pth").write_bytes(CONTENT)
    with pytest.raises(WeightsError, match=r'invalid hash value .expected "00000000", got'):
        download_url(f"{web}/tiny-00000000.pth")
    assert list(hub_folder().iterdir()) == []


def test_download_url__not_found(web: str) -> None:
    with pytest.raises(WeightsError) as caught:
        download_url(f"{web}/none.pth")
    answer = "the server answers 404 File not found."
    assert str(caught.value) == f"Cannot download {web}/none.pth: {answer}"
    assert list(hub_folder().iterdir()) == []


def test_download_url__nobody_listens() -> None:
    url = f"http://127.0.0.1:{closed_port()}/x.pth"
    with pytest.raises(WeightsError, match=f"^Cannot download {url}: Connection refused\\.$"):
        download_url(url)


def test_download_url__unknown_host(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> NoReturn:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", fail)
    with pytest.raises(WeightsError, match=r"x.pth: the server's name cannot be looked up; there"):
        download_url("https://example.invalid/x.pth")


def test_download_url__silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/x.pth"
        start = time.monotonic()
        with pytest.raises(WeightsError, match="the server does not answer in time"):
            download_url(url)
    assert time.monotonic() - start < 3


def test_download_url__no_url() -> None:
    with pytest.raises(WeightsError, match=r"Cannot download x.pth: unknown url type: 'x.pth'"):
        download_url("x.pth")


def test_download_url__leaves_the_default_timeout(web: str, tmp_path: Path) -> None:
    (tmp_path / "web" / "x.pth").write_bytes(CONTENT)
    socket.setdefaulttimeout(7.5)
    try:
        download_url(f"{web}/x.pth")
        assert socket.getdefaulttimeout() == 7.5
    finally:
        socket.setdefaulttimeout(None)


@pytest.mark.parametrize(
    ("number", "words"),
    [(errno.ENOSPC, "No space left on device"), (errno.EACCES, "Permission denied")],
)
def test_download_url__no_room(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, words: str
) -> None:
    (tmp_path / "web" / "x.pth").write_bytes(CONTENT)

    def fail(*_: Any, **__: Any) -> NoReturn:
        raise OSError(number, words)

    monkeypatch.setattr(torch.hub.shutil, "move", fail)  # type: ignore[attr-defined]
    with pytest.raises(MachineError, match=f"in .*checkpoints: {words}. Make room there"):
        download_url(f"{web}/x.pth")
    assert list(hub_folder().iterdir()) == []


def test_download_url__cache_folder_is_a_file(
    web: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "home").touch()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "home"))
    with pytest.raises(MachineError, match=r"Not a directory. Make room there, or choose another"):
        download_url(f"{web}/x.pth")


def test_download_url__no_progress_without_a_terminal(
    web: str, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "web" / "x.pth").write_bytes(CONTENT)
    download_url(f"{web}/x.pth")
    assert capfd.readouterr() == ("", "")


def test_cached_hub_file__empty_cache(no_sockets: None) -> None:
    assert cached_hub_file(REPO) is None


def test_cached_hub_file__safetensors_before_bin(hub_cache: Path, no_sockets: None) -> None:
    old = put_in_hub_cache(hub_cache, "pytorch_model.bin")
    assert cached_hub_file(REPO) == old
    new = put_in_hub_cache(hub_cache, "model.safetensors")
    assert cached_hub_file(REPO) == new
    assert cached_hub_file(REPO, "pytorch_model.bin") == old
    assert cached_hub_file(REPO, "other.bin") is None


def test_cached_hub_file__known_not_to_exist(hub_cache: Path, no_sockets: None) -> None:
    old = put_in_hub_cache(hub_cache, "pytorch_model.bin")
    marker = old.parents[2] / ".no_exist" / REVISION / "model.safetensors"
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert cached_hub_file(REPO) == old
    assert cached_hub_file(REPO, "model.safetensors") is None


def test_cached_hub_file__revision(hub_cache: Path, no_sockets: None) -> None:
    other = "f" * 40
    main = put_in_hub_cache(hub_cache, "model.safetensors")
    path = put_in_hub_cache(hub_cache, "model.safetensors", revision=other)
    assert cached_hub_file(REPO) == main
    assert cached_hub_file(f"{REPO}@{other}") == path
    assert cached_hub_file(REPO, revision=other) == path
    assert cached_hub_file(f"{REPO}@{'e' * 40}") is None


def test_cached_hub_file__two_revisions() -> None:
    with pytest.raises(ValueError, match=f"two revisions: 'a' in '{REPO}@a', and 'b'"):
        cached_hub_file(f"{REPO}@a", revision="b")


def test_cached_hub_file__impossible_name(no_sockets: None) -> None:
    with pytest.raises(WeightsError, match="Cannot download a/b/c: Repo id must be"):
        cached_hub_file("a/b/c")


@pytest.mark.parametrize(
    ("repo", "name"),
    [(REPO, "model.safetensors"), ("timm/tiny.old", "pytorch_model.bin")],
)
def test_download_hub_file__is_cached_afterwards(hub: str, repo: str, name: str) -> None:
    path = download_hub_file(repo)
    assert path.name == name
    assert path.read_bytes() == CONTENT
    assert cached_hub_file(repo) == path


def test_download_hub_file__revision(hub: str) -> None:
    path = download_hub_file(f"{REPO}@v2")
    assert path.read_bytes() == CONTENT
    assert cached_hub_file(f"{REPO}@v2") == path
    assert cached_hub_file(REPO) is None


@pytest.mark.parametrize(
    ("repo", "reason"),
    [
        ("timm/tiny.gated", "access has to be granted by its owners; ask on its page, then"),
        ("timm/tiny.gone", "there is no such repository, or it is private"),
        ("timm/tiny.busy", "the server answers 500"),
        (f"{REPO}@v3", "the repository has no such revision"),
    ],
)
def test_download_hub_file__refused(hub: str, repo: str, reason: str) -> None:
    with pytest.raises(WeightsError) as caught:
        download_hub_file(repo)
    assert str(caught.value).startswith(f"Cannot download {repo} from the hub: {reason}")
    assert "\n" not in str(caught.value)


def test_download_hub_file__no_such_file(hub: str) -> None:
    with pytest.raises(WeightsError, match=f"{REPO} from the hub: it has no other.bin"):
        download_hub_file(REPO, "other.bin")
    with pytest.raises(WeightsError, match=r"it has no pytorch_model.bin"):
        download_hub_file(REPO, "pytorch_model.bin")


def test_download_hub_file__nobody_listens_fails_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    point_hub_to(f"http://127.0.0.1:{closed_port()}", monkeypatch)
    start = time.monotonic()
    with pytest.raises(WeightsError) as caught:
        download_hub_file(REPO)
    assert time.monotonic() - start < 3
    assert str(caught.value) == f"Cannot download {REPO} from the hub: Connection refused."


def test_download_hub_file__silent_server(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(downloads, "CONNECT_TIMEOUT_S", 0.1)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        point_hub_to(f"http://127.0.0.1:{silent.getsockname()[1]}", monkeypatch)
        with pytest.raises(WeightsError, match="the server does not answer in time"):
            download_hub_file(REPO)


def test_download_hub_file__offline_by_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(WeightsError, match="from the hub: HF_HUB_OFFLINE forbids it"):
        download_hub_file(REPO)


def test_download_hub_file__cache_folder_is_a_file(hub: str, hub_cache: Path) -> None:
    hub_cache.touch()
    with pytest.raises(MachineError, match=f"Cannot store {REPO} from the hub in .*hf: "):
        download_hub_file(REPO)
