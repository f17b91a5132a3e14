"""What is served of a run: its bundle of LoRAs by topic behind a gateway."""

from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.errors import LocalEntryNotFoundError
from huggingface_hub.utils import validate_repo_id

from topiclora_cli.errors import TopicLoraError, first_line
from topiclora_cli.models.base import BaseModel
from topiclora_cli.models.hub import HUB_ERRORS
from topiclora_cli.recipe import load_recipe
from topiclora_cli.runs.commands import command_line
from topiclora_cli.runs.naming import named_folders
from topiclora_cli.runs.progress import Progress
from topiclora_cli.runs.results.bundle import BUNDLE, Bundle
from topiclora_cli.runs.results.files import read_result
from topiclora_cli.runs.run import RECIPE, RunDir, is_run
from topiclora_cli.serving.chooser import Chooser
from topiclora_cli.serving.gateway import Served
from topiclora_cli.stages.asking import chat_text
from topiclora_cli.stages.inputs import graph_folder, make_text_encoder, open_base
from topiclora_cli.topics.prior import TopicPrior
from topiclora_cli.topics.store import TopicGraph

BUNDLED_GRAPH = "topic_graph"
# Nothing else of a repository is fetched, which may hold whole models.
_OF_A_BUNDLE = [BUNDLE, RECIPE, f"{BUNDLED_GRAPH}/*", "lora/*"]


def open_bundle(path: Path, progress: Progress) -> tuple[Path, Bundle]:
    """The bundle that lies at a path, the latest of the run there, or the one that a hub has under this name, and its
    folder.

    Raises TopicLoraError where there is none, for one that is not whole, and for one of the hub whose base would bring
    code of its own.
    """
    if _may_be_on_a_hub(path):
        path = _fetched(path.as_posix())
    folder = path if (path / BUNDLE).is_file() else _latest_bundle(path, progress)
    bundle = read_result(folder / BUNDLE, Bundle, hint="Make it again with merge --gates topic:all.")
    names = [adapter.name for adapter in bundle.adapters]
    unknown = sorted(set(bundle.topics.values()) - set(names))
    if unknown or len(set(names)) < len(names) or not names:
        trouble = f"names no adapter {unknown[0]!r}" if unknown else "does not name each adapter once"
        raise TopicLoraError(f"{folder / BUNDLE} is damaged: it {trouble}.", "Make it again with merge.")
    for adapter in bundle.adapters:
        if not (folder / adapter.folder / "adapter_config.json").is_file():
            raise TopicLoraError(
                f"{folder / adapter.folder} holds no adapter, and {BUNDLE} names it.", "Make it again with merge."
            )
    return folder, bundle


def open_served(folder: Path, bundle: Bundle) -> Served:
    """A bundle with what chooses among its adapters: its topic graph and the text encoder, which is read once so that
    the first prompt waits for nothing.

    Raises TopicLoraError where the bundle and its graph do not belong together, and for an encoder that cannot be had.
    """
    graph = TopicGraph.load(folder / BUNDLED_GRAPH)
    if set(graph.topics) != set(bundle.topics):
        raise TopicLoraError(
            f"{folder / BUNDLE} and the topic graph beside it have different topics.", "Make them again with merge."
        )
    if not (folder / RECIPE).is_file():
        raise TopicLoraError(f"{folder} has no {RECIPE}, which names the text encoder.", "Copy the whole bundle.")
    recipe = load_recipe(str(folder / RECIPE))
    base = open_base(recipe) if recipe.graph.encoder == "lm" else None
    chooser = Chooser(TopicPrior(graph, make_text_encoder(recipe, base)), bundle.topics)
    chooser(["?"])
    has_template = _has_template(base)

    def read_chat(messages: list[object], tools: object) -> str:
        return chat_text(recipe, messages, tools, has_template=has_template)

    return Served(bundle, folder, chooser, read_chat)


def _has_template(base: BaseModel | None) -> bool:
    """Whether the base's tokenizer has a chat template; where no base was loaded, it may have one."""
    return base is None or base.tokenizer.chat_template is not None


def _may_be_on_a_hub(path: Path) -> bool:
    """Whether this is a user and a name, and no folder of this machine or one beside others here."""
    if path.is_absolute() or len(path.parts) != 2 or path.parent.exists():
        return False
    try:
        validate_repo_id(path.as_posix())
    except ValueError:
        return False
    return True


def _fetched(name: str) -> Path:
    """The folder of a hub's bundle in the cache, of its latest version where the hub is within reach."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=_OF_A_BUNDLE))
    except LocalEntryNotFoundError:
        raise TopicLoraError(
            f"{name} is no folder here and not in the hub's cache, and the hub cannot be reached.",
            "Name a run or a bundle, or download it while there is a network.",
        ) from None
    except HUB_ERRORS as error:
        raise TopicLoraError(
            f"{name} is no folder here, and the hub gives no bundle of that name: {first_line(error)}",
            "Name a run or a bundle.",
        ) from None
    if not (folder / BUNDLE).is_file():
        raise TopicLoraError(
            f"{name} on the hub is no bundle of LoRAs (it has no {BUNDLE}).", "Push one with push --what bundle."
        )
    if (folder / RECIPE).is_file() and load_recipe(str(folder / RECIPE)).model.trust_remote_code:
        raise TopicLoraError(
            f"{name} asks for a base model with code of its own (model.trust_remote_code).",
            f"Read that code first; to run it, serve the folder of: hf download {name} --local-dir FOLDER.",
        )
    return folder


def _latest_bundle(path: Path, progress: Progress) -> Path:
    if not is_run(path):
        raise TopicLoraError(
            f"{path} is neither a run nor a bundle of LoRAs (it has no {BUNDLE}).",
            "Make one with merge --gates topic:all.",
        )
    run = RunDir(path)
    if folders := named_folders(path / "merged", BUNDLE):
        return folders[-1]
    if graph_folder(run, progress) is None:
        raise TopicLoraError(
            f"{path} has no topic graph, by which a prompt's adapter could be told.",
            "Serve the routed model itself: leave out --upstream.",
        )
    raise TopicLoraError(
        f"{path} has no bundle of LoRAs by topic yet.",
        f"Make it with: {command_line('merge', '--run', path, '--gates', 'topic:all')}",
    )
