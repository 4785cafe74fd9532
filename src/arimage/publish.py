"""Models to the Hugging Face Hub: one folder, checked before it is uploaded, in one commit."""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from arimage import __version__
from arimage.benchmark_entries import FOLDER, check_entries, make_entries, write_entries
from arimage.card_rules import check_card
from arimage.files import new_file, write_text
from arimage.hub import Access, explained, failures, patient
from arimage.images import grid, write_png
from arimage.model_card import (
    RECORDS,
    REPORT,
    SAMPLES,
    CardFacts,
    find_base,
    read_folder,
    read_report,
    render,
)

if TYPE_CHECKING:
    from huggingface_hub import CommitInfo

CARD = "README.md"
PARTS = (".", "image_tokenizer", "transformer")
WEIGHTS = ("model.safetensors", "model-*.safetensors", "model.safetensors.index.json")
UPLOADED = ("model_index.json", "config.json", *WEIGHTS, "LICENSE*", *RECORDS)
SHOWN = 8  # images of a sample grid that is drawn here
Draw = Callable[[Path], None]


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a model goes, in the words of ``huggingface_hub``.

    Attributes:
        repo_id: "owner/name"; made if it is not there.
        private: of a repository that is made; None is the owner's setting.
        revision: branch; made if it is not there.
        commit_message: "Upload ..." by default.
        create_pr: open a pull request instead of a commit to the branch.
        token: with write access; None is that of ``hf auth login`` or HF_TOKEN.

    Raises:
        ValueError: no form of a hub id. PermissionError: no token.
    """

    repo_id: str
    private: bool | None = None
    revision: str | None = None
    commit_message: str | None = None
    create_pr: bool = False
    token: str | None = None

    def __post_init__(self) -> None:
        from huggingface_hub import get_token
        from huggingface_hub.errors import HFValidationError
        from huggingface_hub.utils import validate_repo_id

        try:
            validate_repo_id(self.repo_id)
        except HFValidationError as error:
            raise ValueError(
                f"got {self.repo_id!r}, which is no name of a repository; expected owner/name"
            ) from error
        if not (self.token or get_token()):
            raise PermissionError(
                f"no token to push to {self.repo_id} with; make one with write access on "
                "huggingface.co/settings/tokens and run `hf auth login`, set HF_TOKEN or give "
                "token="
            )


def push(folder: Path, target: Target, facts: CardFacts, draw: Draw | None = None) -> "CommitInfo":
    """Uploads a folder made by ``save_pretrained``, or a finished run's, in one commit.

    What was uploaded before is not uploaded again, so an interrupted push is repeated by the
    same call. Checkpoints, logs and all samples but the last stay where they are.

    Args:
        folder: it stays as it is.
        target: where it goes.
        facts: for the model card, unless the folder has a README.md.
        draw: writes a sample grid, where the folder has none.

    Raises:
        ValueError: a card that the hub would refuse; nothing is uploaded. FileNotFoundError: no
            model. PermissionError: a token that may not write. ConnectionError: no way to the hub.
    """
    from huggingface_hub import HfApi

    with TemporaryDirectory() as name:
        staged = Path(name)
        stage(folder, staged, target.repo_id, facts, draw)
        kind = read_folder(staged).kind
        api = HfApi(token=target.token)
        options = {
            "commit_message": target.commit_message or f"Upload {kind} of arimage {__version__}",
            "create_pr": target.create_pr,
            "revision": target.revision,
            "delete_patterns": [
                (Path(part) / name).as_posix() for part in PARTS for name in WEIGHTS
            ],
        }
        try:
            repo_id = patient(lambda: _repository(api, target))
            return patient(
                lambda: api.upload_folder(repo_id=repo_id, folder_path=staged, **options)
            )
        except failures() as error:
            raise _refused(error, target) from error


def _repository(api: Any, target: Target) -> str:
    """The full id of the repository, which exists then, as does the branch."""
    repo_id = api.create_repo(target.repo_id, private=target.private, exist_ok=True).repo_id
    branch = target.revision
    if branch is not None and not target.create_pr and not branch.startswith("refs/"):
        api.create_branch(repo_id, branch=branch, exist_ok=True)
    return repo_id


def _refused(error: BaseException, target: Target) -> OSError:
    kind, reason = explained(error, target.repo_id, Access(revision=target.revision))
    if kind is PermissionError or "no such repository" in reason:
        kind, reason = PermissionError, "this token may not write there: give another one"
    elif "not in the cache" in reason:
        why = "check the network, and HF_HUB_OFFLINE, which switches it off"
        kind, reason = ConnectionError, f"the hub cannot be reached: {why}"
    return kind(
        f"cannot push to {target.repo_id!r}: {reason}; what was uploaded stays, so the same push "
        "goes on from there"
    )


def stage(
    folder: Path, staged: Path, repo_id: str, facts: CardFacts, draw: Draw | None = None
) -> None:
    """Links what is uploaded of ``folder`` into ``staged`` and writes a checked card there.

    Raises:
        ValueError, FileNotFoundError: as ``push``.
    """
    read_folder(folder)
    entries = entries_of(facts)
    for path in sorted((folder / FOLDER).glob("*.yaml")):
        check_entries(path)
        link(path, staged / FOLDER / path.name)
    for part in PARTS:
        for pattern in UPLOADED:
            for path in sorted((folder / part).glob(pattern)):
                link(path, staged / part / path.name)
    picture = sample_sheet(folder)
    if picture is not None:
        link(picture, staged / SAMPLES)
    elif draw is not None:
        draw(staged / SAMPLES)
    card = folder / CARD
    if not card.is_file():
        text = render(folder, repo_id, facts, (staged / SAMPLES).is_file())
    elif facts != CardFacts():
        raise ValueError(
            f"{card} is there already and is what will be uploaded; edit it, or delete it to have "
            "one made with these facts"
        )
    else:
        text = card.read_text(encoding="utf-8")
        check_card(text, str(card))
    write_text(staged / CARD, text)
    write_entries(staged, entries)
    for report in facts.reports[:1]:
        link(Path(report) / REPORT if Path(report).is_dir() else Path(report), staged / REPORT)


def write_card(
    folder: Path, repo_id: str, facts: CardFacts, draw: Draw | None = None, force: bool = False
) -> Path:
    """Writes the card, and its sample grid, into ``folder``; returns the card's path.

    Raises:
        FileExistsError: a card is there, unless ``force``. ValueError, FileNotFoundError: as
            ``push``.
    """
    card = folder / CARD
    if card.exists() and not force:
        raise FileExistsError(f"{card} is there already; give --force to write it anew")
    read_folder(folder)
    entries = entries_of(facts)
    picture = folder / SAMPLES
    found = sample_sheet(folder)
    if found is not None and found != picture:
        with new_file(picture) as temporary:
            shutil.copyfile(found, temporary)
    elif found is None and draw is not None:
        draw(picture)
    text = render(folder, repo_id, facts, picture.is_file())
    write_entries(folder, entries)
    return write_text(card, text)


def entries_of(facts: CardFacts) -> dict[str, Any]:
    """Files of the scores that go to leaderboards; see ``make_entries``."""
    return make_entries([read_report(path) for path in facts.reports], facts.benchmarks)


def sample_sheet(folder: Path) -> Path | None:
    """The last picture in samples/, or samples.png, or None."""
    own = [folder / SAMPLES] if (folder / SAMPLES).is_file() else []
    return max((folder / "samples").glob("*.png"), default=(own or [None])[0])


def draw_samples(generator: Any, path: Path) -> None:
    """Writes a grid of a class-conditional generator's images; of no other one."""
    if generator.transformer.takes_text:
        return
    classes = generator.transformer.config.num_classes
    labels = [i * classes // SHOWN if classes > SHOWN else i % classes for i in range(SHOWN)]
    pixels = generator(labels, seeds=0, output_type="pixels").images
    write_png(path, grid(pixels, SHOWN))


def link(source: Path, target: Path) -> None:
    """A link where the system has them, else a copy; weights are large."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.symlink(source.resolve(), target)
    except OSError:
        shutil.copyfile(source, target)


class Publishable:
    """Gives models with ``save_pretrained`` the method that uploads them."""

    def push_to_hub(
        self,
        repo_id: str,
        *,
        private: bool | None = None,
        revision: str | None = None,
        commit_message: str | None = None,
        create_pr: bool = False,
        token: str | None = None,
        licence: str | None = None,
        base_model: str | None = None,
        data: str | None = None,
        reports: Sequence[str | Path] = (),
        benchmarks: Sequence[str] = (),
    ) -> "CommitInfo":
        """Uploads the model with a model card; returns what ``huggingface_hub`` says of the commit.

        Args:
            repo_id: "owner/name"; made if it is not there.
            private, revision, commit_message, create_pr, token: as ``publish.Target``.
            licence, base_model, data, reports, benchmarks: for the card, as
                ``model_card.CardFacts``.

        Raises:
            ValueError, PermissionError, ConnectionError: as ``publish.push``.
        """
        target = Target(
            repo_id=repo_id,
            private=private,
            revision=revision,
            commit_message=commit_message,
            create_pr=create_pr,
            token=token,
        )
        model: Any = self
        generates = hasattr(model, "transformer")
        if generates and base_model is None and find_base(model.origin.name):
            base_model = model.origin.name
        facts = CardFacts(
            licence=licence,
            base_model=base_model,
            data=data,
            reports=reports,
            benchmarks=benchmarks,
        )
        with TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            draw = partial(draw_samples, model) if generates else None
            return push(Path(folder), target, facts, draw)
