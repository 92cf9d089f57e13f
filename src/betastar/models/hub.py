"""Where a model is, a local folder or the Hugging Face hub, and what goes wrong there, in one sentence."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from betastar.disk import content_key
from betastar.errors import BetastarError
from betastar.models.devices import is_out_of_memory
from betastar.models.gguf_files import check_file, damaged

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

    from betastar.settings.sections import PretrainedBase

COMMIT = re.compile(r"[0-9a-f]{40}")
WEIGHTS = ("model.safetensors.index.json", "model.safetensors")


class Location(NamedTuple):
    """What transformers' `from_pretrained` takes: a folder, or a hub id with the commit that its revision is now.
    `local`: everything is on this machine, or the hub cannot be reached. `gguf_file`: the one file in it that is
    read, where it is not a folder of Transformers' format."""

    where: str
    commit: str | None
    local: bool
    gguf_file: str | None = None

    def options(self) -> dict[str, Any]:
        """Arguments that keep `from_pretrained` in this place: of a hub model one commit is read throughout, and no
        code that came with a model is run. A GGUF file is read from the folder of its `gguf_path`."""
        if self.gguf_file is not None:
            # With its whole path: transformers takes a file of that name in the current directory first.
            return {"gguf_file": str(gguf_path(self)), "local_files_only": True, "trust_remote_code": False}
        return {"revision": self.commit, "local_files_only": self.local, "trust_remote_code": False}


def locate(model: str, revision: str | None = None, gguf_file: str | None = None) -> Location:
    """Find a folder (begins with / . or ~, or exists), or a hub model's commit: of the hub, or of its cache where the
    hub cannot be reached. Only config.json is downloaded, and nothing where a GGUF file is named. Raises BetastarError
    where there is none."""
    if not is_local(model):
        return _on_hub(model, revision, gguf_file)
    with explained(model, revision):
        folder = Path(model).expanduser()
    if gguf_file is not None:
        if not (folder / gguf_file).is_file():
            raise BetastarError(f"{folder}: {_no_gguf(folder, gguf_file)}.")
        return Location(str(folder), None, local=True, gguf_file=gguf_file)
    if not (folder / "config.json").is_file():
        what = "no Hugging Face model folder (config.json is missing)" if folder.is_dir() else "no such folder"
        raise BetastarError(f"{folder}: {what}; correct the path of the model.")
    return Location(str(folder), None, local=True)


def is_local(model: str) -> bool:
    """Whether a model is a folder, or is meant to be one."""
    return model.startswith(("/", ".", "~")) or Path(model).is_dir()


def _no_gguf(folder: Path, gguf_file: str) -> str:
    if not folder.is_dir():
        return "no such folder; correct the path of the model"
    there = sorted(path.name for path in folder.glob("*.gguf"))
    listed = f" ({', '.join(there)} {'is' if len(there) == 1 else 'are'} there)" if there else ""
    return f"there is no file {gguf_file} in it{listed}; correct gguf_file"


def _on_hub(model: str, revision: str | None, gguf_file: str | None) -> Location:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url, try_to_load_from_cache

    name = gguf_file or "config.json"
    try:
        with explained(model, revision, gguf_file):
            found = get_hf_file_metadata(hf_hub_url(model, name, revision=revision))  # fails without trying again
            if gguf_file is not None:
                return Location(model, found.commit_hash or revision or "main", local=False, gguf_file=gguf_file)
            path, local = hf_hub_download(model, name, revision=revision), False
    except Unreachable:
        path, local = try_to_load_from_cache(model, name, revision=revision), True
        if not isinstance(path, str):
            raise
    snapshot = Path(path).parents[len(Path(name).parts) - 1]  # …/snapshots/<commit>
    return Location(model, snapshot.name, local, gguf_file)


def gguf_path(location: Location) -> Path:
    """The GGUF file of a location on this machine; a hub model's is downloaded, all of it. Raises BetastarError where
    it cannot be had."""
    from huggingface_hub import hf_hub_download

    assert location.gguf_file is not None
    if location.commit is None:
        return (Path(location.where) / location.gguf_file).absolute()
    with explained(location.where, location.commit, location.gguf_file):
        return Path(
            hf_hub_download(
                location.where, location.gguf_file, revision=location.commit, local_files_only=location.local
            )
        )


def fingerprint(choice: PretrainedBase) -> str:
    """What changes when a model does, without its weights: of a folder the names, sizes and modification times of its
    files (of the one that is read, where that is a GGUF file), of a hub model its commit; where the hub cannot be
    reached and nothing is cached, id and revision."""
    if COMMIT.fullmatch(choice.revision or "") and not Path(choice.model).exists():
        return f"{choice.model}@{choice.revision}"
    try:
        location = locate(choice.model, choice.revision, choice.gguf_file)
    except Unreachable:
        return f"{choice.model}@{choice.revision}"
    if location.commit is not None:
        return f"{choice.model}@{location.commit}"
    if location.gguf_file is not None:
        files = [gguf_path(location)]
    else:
        files = [p for p in sorted(Path(location.where).iterdir()) if p.is_file()]
    return content_key([(p.name, p.stat().st_size, p.stat().st_mtime_ns) for p in files])


def read_config(location: Location) -> PreTrainedConfig:
    """A model's configuration; a GGUF file holds it, so a hub's is downloaded. Raises BetastarError where it cannot be
    read."""
    from transformers import AutoConfig

    if location.gguf_file is not None:
        path = gguf_path(location)
        check_file(path)
        with explained(str(path), None, location.gguf_file):
            return AutoConfig.from_pretrained(path.parent, **location.options())
    with explained(location.where, location.commit):
        return AutoConfig.from_pretrained(location.where, **location.options())


def fetch_weights(location: Location) -> None:
    """See that the weights are there in safetensors format; a hub model's are downloaded (where they are several
    files: their index). Pickled weights can run code when they are read, so they are refused with a BetastarError."""
    if location.gguf_file is not None:
        return  # its configuration was read from the same file
    if location.commit is None:
        found = any((Path(location.where) / name).is_file() for name in WEIGHTS)
    else:
        found = has_weights(location.where, location.commit) or any(_download(location, name) for name in WEIGHTS)
    if not found:
        raise BetastarError(
            f"{location.where}: no weights in safetensors format (pickled ones, .bin, are refused: they can run code); "
            "convert them where you trust them, with AutoModelForCausalLM.from_pretrained(…).save_pretrained(FOLDER)."
        )


def has_weights(model: str, revision: str | None, gguf_file: str | None = None) -> bool:
    """Whether the hub's cache here holds a model's weights (where they are several files: their index)."""
    from huggingface_hub import try_to_load_from_cache

    names = WEIGHTS if gguf_file is None else (gguf_file,)
    return any(isinstance(try_to_load_from_cache(model, name, revision=revision), str) for name in names)


def _download(location: Location, name: str) -> bool:
    """Whether the hub has the file, which then is in the cache."""
    from huggingface_hub import hf_hub_download
    from huggingface_hub.errors import RemoteEntryNotFoundError

    with explained(location.where, location.commit):
        try:
            hf_hub_download(location.where, name, revision=location.commit, local_files_only=location.local)
        except RemoteEntryNotFoundError:
            return False
    return True


class Unreachable(BetastarError):
    """The hub cannot be reached, and what is wanted is not in its cache."""


@contextmanager
def explained(model: str, revision: str | None, gguf_file: str | None = None) -> Iterator[None]:
    """Turn what transformers and the hub's client raise into one sentence, of a GGUF file where one is named. Memory
    that runs out and a full disk are not about the model and pass through."""
    try:
        yield
    except (BetastarError, MemoryError):
        raise
    except Exception as error:
        chain = list(_causes(error))
        mismatched = "ignore_mismatched_sizes" in str(error)  # weights beyond all memory may be such, too
        if not mismatched and any(is_out_of_memory(e) or _disk(e) for e in chain):
            raise
        about_hub = None if Path(model).exists() else _hub_sentence(model, revision, gguf_file, chain)
        if about_hub is not None:
            raise about_hub from error
        sentence = _package_sentence(chain[0])
        if sentence is None:
            sentence = _local_sentence(chain) if gguf_file is None else damaged(chain[0])
        raise BetastarError(f"{model}: {sentence}") from error


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _disk(error: BaseException) -> bool:
    import errno

    return isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)


def _hub_sentence(
    model: str, revision: str | None, gguf_file: str | None, chain: list[BaseException]
) -> BetastarError | None:
    """For the first cause that the hub or the way to it gave, the more particular before the more general."""
    from huggingface_hub import errors as hub

    def caused_by(*kinds: type[BaseException]) -> BaseException | None:
        return next((error for error in chain if isinstance(error, kinds)), None)

    if caused_by(hub.GatedRepoError):
        return BetastarError(
            f"{model}: this model is gated; accept its terms on its page, https://huggingface.co/{model}, and log in "
            "with `hf auth login`."
        )
    if caused_by(hub.DisabledRepoError):
        return BetastarError(f"{model}: the hub has disabled this model; choose another.")
    if caused_by(hub.RevisionNotFoundError):
        return BetastarError(f"{model}: there is no revision {revision}; give an existing branch, tag or commit.")
    if caused_by(hub.RepositoryNotFoundError, hub.HFValidationError):
        return BetastarError(
            f"{model}: no such model on the hub (or it is private) and no such folder here; correct it, or log in with "
            "`hf auth login`."
        )
    if caused_by(hub.RemoteEntryNotFoundError):
        if gguf_file is not None:
            return BetastarError(f"{model}: this hub repository has no file {gguf_file}; correct gguf_file.")
        return BetastarError(
            f"{model}: this hub repository has no config.json, so it has no model in Transformers' format; choose one "
            "that does."
        )
    answer = caused_by(hub.HfHubHTTPError)
    if isinstance(answer, hub.HfHubHTTPError):
        status = answer.response.status_code
        if status in (401, 403):
            return BetastarError(f"{model}: the hub refused access (HTTP status {status}); `hf auth login` again.")
        return Unreachable(f"{model}: the hub answered with HTTP status {status}; try again later.")
    remedy = "connect to the internet, or download the model elsewhere and give its folder."
    if caused_by(hub.OfflineModeIsEnabled):
        remedy = f"unset HF_HUB_OFFLINE and {remedy}"
    from_client = any(type(error).__module__.startswith(("httpx", "httpcore")) for error in chain)
    if from_client or caused_by(ConnectionError, hub.LocalEntryNotFoundError):
        return Unreachable(f"{model}: not in the hub's cache here, and the hub cannot be reached; {remedy}")
    return None


def _package_sentence(error: BaseException) -> str | None:
    """For what is about this installation and not about the model: a package, or a name in one, that is not there."""
    reason = " ".join(str(error).strip().split("\n")[0].split()).rstrip(".") or type(error).__name__
    if isinstance(error, ModuleNotFoundError):
        return f"a package is missing ({reason}); install it."
    if isinstance(error, ImportError) or (isinstance(error, AttributeError) and reason.startswith("module ")):
        import transformers

        if "pip install" in reason:  # how transformers asks for a package
            return f"a package is missing ({reason}); install it."
        return f"a package is too old ({reason}; transformers {transformers.__version__}); upgrade it."
    return None


def _local_sentence(chain: list[BaseException]) -> str:
    from safetensors import SafetensorError

    error = chain[0]
    first, *others = str(error).strip().split("\n")
    reason = " ".join(" ".join([first, *(others[:1] if first.endswith(":") else [])]).split()).rstrip(".:")[:300]
    reason = reason or type(error).__name__
    if any(isinstance(e, SafetensorError) for e in chain):
        return f"the weights are damaged ({reason}); download them again."
    if "ignore_mismatched_sizes" in str(error):
        return "the weights do not match config.json; use files from the same model."
    if "remote code" in str(error).lower() or "trust_remote_code" in str(error):
        return "this model brings its own code, which betastar does not run; choose one that Transformers knows."
    return f"the model or its tokenizer cannot be loaded ({reason}); correct its files, or download them again."
