"""Models of a hub: a small real server stands in for huggingface.co, with its headers and its error codes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest
import torch

from betastar.errors import BetastarError
from betastar.models.hub import Unreachable, explained, fingerprint, has_weights, locate
from betastar.models.loading import load_base
from betastar.models.random_models import build_byte_tokenizer, build_model
from betastar.models.support import model_facts
from betastar.settings.sections import Geometry, PretrainedBase

pytestmark = pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")

COMMIT = "5eed" * 10
GEOMETRY = Geometry(hidden_size=64, intermediate_size=64, layers=2, heads=2, key_value_heads=1, context=64)
ERRORS = {  # repository → status, code and message, as the hub sends them
    "org/gated": (401, "GatedRepo", "Access to model org/gated is restricted."),
    "org/not-yet-granted": (403, "GatedRepo", "Access to model org/not-yet-granted is restricted."),
    "org/missing": (401, "RepoNotFound", "Repository not found"),
    "org/disabled": (403, "", "Access to this resource is disabled."),
    "org/old-token": (401, "", "Invalid credentials in Authorization header"),
    "org/busy": (503, "", "Service unavailable"),
}


class Hub(NamedTuple):
    """A running server: its folder of repositories, what was asked of it, and how to stop it."""

    files: Path
    asked: list[str]
    stop: Callable[[], None]


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Serves `files/<org>/<name>/<file>` as revision main of a model, and nothing else."""
    from huggingface_hub import constants

    files, asked = tmp_path / "hub", []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(f"{self.command} {self.path}")
            path = self.path.split("?")[0].removeprefix("/api/models")
            org, name, kind, revision, *rest = [*path.lstrip("/").split("/"), "", ""]
            repository = files / org / name
            found = repository.joinpath(*rest)
            if f"{org}/{name}" in ERRORS:
                self.answer(*ERRORS[f"{org}/{name}"])
            elif not repository.is_dir():
                self.answer(404, "RepoNotFound", "Repository not found")
            elif revision not in ("main", COMMIT):
                self.answer(404, "RevisionNotFound", "Invalid rev id")
            elif kind == "tree" and found.is_dir():
                listed = [
                    {"type": "file", "path": p.name, "size": p.stat().st_size, "oid": ""} for p in found.iterdir()
                ]
                self.answer(200, "", "", json.dumps(listed).encode())
            elif kind == "resolve" and found.is_file():
                self.answer(200, "", "", found.read_bytes())
            else:
                self.answer(404, "EntryNotFound", "Entry not found")

        do_HEAD = do_GET

        def answer(self, status: int, code: str, message: str, content: bytes = b"") -> None:
            self.send_response(status)
            self.send_header("X-Repo-Commit", COMMIT)
            self.send_header("ETag", f'"{hash(content):x}"')
            self.send_header("Content-Length", str(len(content)))
            if status != 200:
                self.send_header("X-Error-Code", code)
                self.send_header("X-Error-Message", message)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop() -> None:
        server.shutdown()
        server.server_close()

    here = f"http://127.0.0.1:{server.server_port}"  # as HF_ENDPOINT would have it, which is read at import
    monkeypatch.setattr(constants, "ENDPOINT", here)
    monkeypatch.setattr(constants, "HUGGINGFACE_CO_URL_TEMPLATE", here + "/{repo_id}/resolve/{revision}/{filename}")
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("transformers.utils.hub._hf_api", None)  # it remembers an endpoint
    yield Hub(files, asked, stop)
    stop()


def put_model(hub: Hub, name: str = "org/tiny") -> None:
    folder = hub.files / name
    build_model(GEOMETRY, 258, root_seed=0).save_pretrained(folder)
    build_byte_tokenizer().save_pretrained(folder)


def choice(model: str, revision: str | None = None) -> PretrainedBase:
    return PretrainedBase(source="pretrained", model=model, revision=revision)


@torch.no_grad()
def test_a_hub_model_is_loaded_and_afterwards_needs_no_hub(hub: Hub) -> None:
    put_model(hub)
    tokens = torch.tensor([[5, 6, 7]])
    expected = build_model(GEOMETRY, 258, root_seed=0)(tokens).logits[..., :258]
    base = load_base(choice("org/tiny"), torch.device("cpu"))
    assert base.name == "org/tiny"
    assert torch.equal(base.model(tokens).logits[..., :258], expected)
    downloads = [path for path in hub.asked if path.startswith("GET") and path.endswith("model.safetensors")]
    assert len(downloads) == 1
    hub.stop()
    again = load_base(choice("org/tiny"), torch.device("cpu"))
    assert torch.equal(again.model(tokens).logits[..., :258], expected)
    assert fingerprint(choice("org/tiny")) == f"org/tiny@{COMMIT}"


def test_a_fingerprint_and_facts_need_no_weights(hub: Hub) -> None:
    put_model(hub)
    assert fingerprint(choice("org/tiny")) == fingerprint(choice("org/tiny", COMMIT)) == f"org/tiny@{COMMIT}"
    assert model_facts("org/tiny", "attention") == model_facts(hub.files / "org/tiny", "attention")
    assert not [path for path in hub.asked if "safetensors" in path]


@torch.no_grad()
@pytest.mark.parametrize("name", ["m.gguf", "Q8/m.gguf"])
def test_a_gguf_file_of_the_hub_is_the_only_one_that_is_fetched(hub: Hub, name: str) -> None:
    pytest.importorskip("gguf")
    from models.tiny_gguf import make_model, write_gguf

    put_model(hub)  # in Transformers' format, beside it
    (hub.files / "org/tiny/Q8").mkdir()
    model, tokens = make_model(), torch.tensor([[5, 6, 7]])
    write_gguf(hub.files / "org/tiny" / name, model)
    wanted = PretrainedBase(source="pretrained", model="org/tiny", gguf_file=name)
    assert fingerprint(wanted) == f"org/tiny@{COMMIT}"
    assert not [line for line in hub.asked if line.startswith("GET")]
    assert not has_weights("org/tiny", COMMIT, name)
    base = load_base(wanted, torch.device("cpu"))
    assert base.name == "org/tiny"
    assert torch.equal(base.model(tokens).logits, model(tokens).logits)
    assert {line for line in hub.asked if line.startswith("GET") and "/resolve/" in line} == {
        f"GET /org/tiny/resolve/{COMMIT}/{name}"
    }
    assert has_weights("org/tiny", COMMIT, name)
    assert model_facts("org/tiny", "attention", None, name) == model_facts(model.config, "attention")
    hub.stop()
    again = load_base(wanted.model_copy(update={"revision": COMMIT}), torch.device("cpu"))
    assert torch.equal(again.model(tokens).logits, model(tokens).logits)
    with pytest.raises(Unreachable, match="org/tiny: not in the hub's cache here"):
        locate("org/tiny", None, "other.gguf")


def test_a_gguf_file_that_the_hub_does_not_have_is_named(hub: Hub) -> None:
    put_model(hub)
    with pytest.raises(BetastarError, match=r"org/tiny: this hub repository has no file x\.gguf; correct gguf_file"):
        locate("org/tiny", None, "x.gguf")


def test_a_commit_is_its_own_fingerprint(hub: Hub) -> None:
    hub.stop()
    assert fingerprint(choice("org/tiny", COMMIT)) == f"org/tiny@{COMMIT}"
    assert fingerprint(choice("org/tiny", "v1")) == "org/tiny@v1"  # cannot be resolved now


def test_a_folders_fingerprint_changes_with_its_files(tmp_path: Path) -> None:
    build_model(GEOMETRY, 258, root_seed=0).save_pretrained(tmp_path)
    before = fingerprint(choice(str(tmp_path)))
    assert fingerprint(choice(str(tmp_path))) == before
    with (tmp_path / "config.json").open("a") as file:
        file.write("\n")
    assert fingerprint(choice(str(tmp_path))) != before


@pytest.mark.parametrize(
    ("model", "revision", "sentence"),
    [
        (
            "org/gated",
            None,
            r"gated; accept its terms on its page, https://huggingface\.co/org/gated, and log in with `",
        ),
        ("org/not-yet-granted", None, "gated; accept its terms"),
        ("org/missing", None, r"no such model on the hub \(or it is private\) and no such folder here; correct it, or"),
        ("org/nobody-has-it", None, "no such model on the hub"),
        ("no/such/name", None, "no such model on the hub"),
        ("org/tiny", "v2", "there is no revision v2; give an existing branch"),
        ("org/disabled", None, "the hub has disabled this model"),
        ("org/old-token", None, r"the hub refused access \(HTTP status 401\); `hf auth login` again"),
        ("org/busy", None, "the hub answered with HTTP status 503; try again later"),
        ("org/empty", None, r"has no config\.json, so it has no model in Transformers' format"),
    ],
)
def test_what_the_hub_refuses_is_said_in_one_sentence(
    hub: Hub, model: str, revision: str | None, sentence: str
) -> None:
    (hub.files / "org/tiny").mkdir(parents=True)
    (hub.files / "org/empty").mkdir()
    with pytest.raises(BetastarError, match=sentence) as raised:
        load_base(choice(model, revision), torch.device("cpu"))
    assert str(raised.value).startswith(f"{model}: ")
    assert "\n" not in str(raised.value)


def test_a_hub_model_with_pickled_weights_alone_is_refused(hub: Hub) -> None:
    put_model(hub)
    (hub.files / "org/tiny/model.safetensors").rename(hub.files / "org/tiny/pytorch_model.bin")
    with pytest.raises(BetastarError, match=r"org/tiny: no weights in safetensors format \(pickled ones"):
        load_base(choice("org/tiny"), torch.device("cpu"))
    assert not [path for path in hub.asked if path.endswith(".bin")]


def test_weights_in_several_files_are_found(hub: Hub) -> None:
    put_model(hub)
    build_model(GEOMETRY, 258, root_seed=0).save_pretrained(hub.files / "org/tiny", max_shard_size="100KB")
    (hub.files / "org/tiny/model.safetensors").unlink()
    assert load_base(choice("org/tiny"), torch.device("cpu")).model.num_parameters() > 0
    assert sum(path.startswith("GET") and "model-0000" in path for path in hub.asked) > 1


def test_no_network_is_said(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.stop()
    remedy = "the hub cannot be reached; connect to the internet, or download the model elsewhere and give its folder"
    with pytest.raises(Unreachable, match=f"org/tiny: not in the hub's cache here, and {remedy}"):
        locate("org/tiny")


def test_the_offline_switch_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(Unreachable, match="unset HF_HUB_OFFLINE and connect to the internet, or"):
        locate("org/tiny")


def test_what_is_not_about_the_model_passes_through() -> None:
    """Memory that runs out and a full disk are told elsewhere, wherever in the chain of causes they are."""
    full = OSError(28, "No space left on device")
    for cause in (MemoryError(), torch.OutOfMemoryError("CUDA out of memory."), full):
        with pytest.raises(type(cause)), explained("m", None):
            raise cause
    with pytest.raises(RuntimeError, match="outer"), explained("m", None):
        raise RuntimeError("outer") from full


@pytest.mark.parametrize("gguf_file", [None, "m.gguf"])
@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (
            ModuleNotFoundError("No module named 'sentencepiece'"),
            "a package is missing (No module named 'sentencepiece'",
        ),
        (ImportError("X needs tiktoken: `pip install tiktoken`"), "a package is missing (X needs tiktoken: `pip"),
        (ImportError("cannot import name 'f' from 'transformers.g'"), "a package is too old (cannot import name 'f'"),
        (
            AttributeError("module 'transformers' has no attribute 'g'"),
            "a package is too old (module 'transformers' has",
        ),
    ],
)
def test_what_is_about_the_installation_is_not_blamed_on_the_model(
    error: Exception, sentence: str, gguf_file: str | None
) -> None:
    with pytest.raises(BetastarError) as raised, explained("/some/model", None, gguf_file):
        raise error
    assert str(raised.value).startswith(f"/some/model: {sentence}")
    assert raised.value.remedy == ("install it" if "missing" in sentence else "upgrade it")
