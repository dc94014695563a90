"""From the name a user types to a classifier on a device: registered, a library's, one's own code, a checkpoint.

And with a head of other classes, to be fine-tuned.
"""

from __future__ import annotations

import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from latcli.engine import registry
from latcli.engine.labels import known_class
from latcli.engine.models.classifier import AS_PUBLISHED, AnyChannels, Classifier, ClassifierSource, logits_in
from latcli.engine.models.libraries import huggingface, library_network, robustbench
from latcli.engine.models.preprocessing import Preprocessing
from latcli.engine.models.weights import load_file, load_into, pack, read_safetensors, state_dict_sha256, unpack
from latcli.engine.vision import import_torchvision
from latcli.errors import UsageError, WeightsError, first_line
from latcli.results import DocumentError, read, to_json

_KIND = "classifier"
_OTHER_CHECKPOINT = "give a checkpoint that latcli wrote"


def open_classifier(name: str, source: ClassifierSource, device: torch.device) -> Classifier:
    """A registered name, `FAMILY:NAME`, `module:function`, `file.py:function` or a checkpoint, in fp32 on `device`.

    A checkpoint is the path of a file of `latcli train`; its name ends in .safetensors. One that was trained from the
    user's code is opened by the name of the code, with the checkpoint as its weights.

    Raises UsageError for an unknown name or options that do not fit, WeightsError for weights that cannot be had, read
    or fitted.
    """
    code = registry.names_code(name)
    if code and source.weights is not None and is_of_code(source.weights):
        source.refuse_description(name)
        return open_checkpoint(source.weights, code=name).to(device)
    if name.endswith(".safetensors") and not code:
        source.refuse_description(name)
        return open_checkpoint(Path(name)).to(device)
    return named_classifier(name, source).to(device)


@dataclass(frozen=True)
class CheckpointInfo:
    """The description of a checkpoint's network. `image_shape` is (C, H, W); `dataset_fingerprint` a sha256.

    class_ids: the classes' WordNet ids, where it kept the classes of a classifier that has such. preprocessing: of a
    network that was fine-tuned; mean, std: of its normalisation, where the user gave them.
    """

    architecture: str
    image_shape: tuple[int, int, int]
    class_names: tuple[str, ...]
    dataset: str
    dataset_fingerprint: str
    regime: str
    epsilon: float
    steps: int
    preprocessing: Preprocessing | None = None
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    class_ids: tuple[str, ...] = ()


def pack_classifier(state_dict: Mapping[str, torch.Tensor], info: CheckpointInfo) -> bytes:
    """The bytes of a checkpoint that `open_checkpoint` reads."""
    return pack(_KIND, state_dict, to_json(info))


def read_info(path: Path) -> CheckpointInfo:
    """The description of the network in the checkpoint at `path`. Raises WeightsError as `unpack` does."""
    return _read(path)[1]


def is_of_code(path: Path) -> bool:
    """Whether the weights at `path` are a checkpoint whose network the user's code makes.

    Raises WeightsError for a safetensors file that cannot be read.
    """
    document = read_safetensors(path)[1] if path.suffix == ".safetensors" else {}
    return document.get("kind") == _KIND and registry.names_code(str(document.get("architecture")))


def open_checkpoint(path: Path, code: str | None = None) -> Classifier:
    """The classifier of a checkpoint: its network, class names and preprocessing, on the CPU.

    `code` is the user's name of the code that makes its network, which then may run.

    It takes photos of three channels, whatever it was trained on; one that was fine-tuned prepares them as the
    classifier that it came from. Raises WeightsError as `unpack` does, and where the
    weights do not fit the architecture that the file names; UsageError for an unknown architecture.
    """
    state_dict, info = _read(path)
    name, shape = code or info.architecture, info.image_shape
    if code is not None:
        named_by_user.add(code)
    try:
        if is_classifier_name(name):
            source = ClassifierSource(mean=info.mean, std=info.std)
            tuned = fine_tuned_without_weights(name, info.class_names, info.preprocessing, source)
            load_into(tuned, state_dict, what=f"the weights of {path}")
            net, preprocessing = tuned.net, tuned.preprocessing
        else:
            small = registry.load("architecture", name)(shape, len(info.class_names))
            load_into(small, state_dict, what=f"the weights of {path}")
            net, size = AnyChannels(small, 1) if shape[0] == 1 else small, shape[1:]
            preprocessing = Preprocessing(size, size)
    except (RuntimeError, ValueError, ArithmeticError) as error:
        reason = f"the network that {path} describes cannot be made: {first_line(error)}"
        raise WeightsError(reason, _OTHER_CHECKPOINT) from error
    sha256 = state_dict_sha256(state_dict)
    return Classifier(str(path), net, preprocessing, info.class_names, info.class_ids, sha256)


def _read(path: Path) -> tuple[dict[str, torch.Tensor], CheckpointInfo]:
    state_dict, document = unpack(path, _KIND)
    try:
        info = read(CheckpointInfo, document)
    except DocumentError as error:
        raise WeightsError(f"{path} does not describe its network: {error}", _OTHER_CHECKPOINT) from error
    if min(info.image_shape) < 1 or not info.class_names:
        raise WeightsError(f"{path} describes images without pixels, or no classes", _OTHER_CHECKPOINT)
    return state_dict, info


# fine-tuning: a classifier's network with a head for other classes, ready to be trained on


def is_classifier_name(architecture: str) -> bool:
    """Whether training an architecture of that name means fine-tuning: a registered classifier, a library's, code."""
    if architecture in registry.names("architecture"):
        return False
    return ":" in architecture or architecture in registry.names("classifier")


def check_architecture(architecture: str) -> None:
    """Raise UsageError for a name that is neither a small network's nor a classifier's."""
    known = [*registry.names("architecture"), *registry.names("classifier")]
    if architecture not in known and ":" not in architecture:
        families = (f"{family}:NAME" for family in registry.CLASSIFIER_FAMILIES)
        raise registry.unknown_name(
            "architecture", architecture, [*known, *families, "module:function", "file.py:function"]
        )


def require_named(architecture: str) -> None:
    """Raise UsageError where a stored model's network is code that the user has not named in this process."""
    if registry.names_code(architecture) and architecture not in named_by_user:
        raise UsageError(
            f"this model's network is the code {architecture}, which only the command line may name",
            f"name it, and the model as its weights: {architecture} --classifier-weights FILE",
        )


def preprocessing_of(architecture: str, described: ClassifierSource = AS_PUBLISHED) -> Preprocessing:
    """How photos are prepared for a classifier of that name, as the user describes it. Raises UsageError.

    A library's weights are not asked for; what is no library's is opened.
    """
    network = library_network(architecture)
    if network is None:
        return named_classifier(architecture, described).preprocessing
    return described.preprocessing(network.preprocessing)


def fine_tuned(classifier: Classifier, class_names: Sequence[str]) -> Classifier:
    """The classifier's own network with a new head, which takes the place of the old one in `classifier`, too.

    The row of a class that an old one shares its name or WordNet id with starts as that one's; the others start from
    torch's global generator. The classifier's own classes keep its rows and ids. Raises UsageError where there is no
    head to be found.
    """
    if tuple(class_names) == classifier.class_names:  # of which two may have one name
        return _with_head(classifier, class_names, range(len(class_names)), classifier.class_ids)
    known = [known_class(name, classifier) for name in class_names]
    return _with_head(classifier, class_names, [None if label is None else label.index for label in known])


def fine_tuned_without_weights(
    architecture: str,
    class_names: Sequence[str],
    preprocessing: Preprocessing | None = None,
    described: ClassifierSource = AS_PUBLISHED,
) -> Classifier:
    """The network that `fine_tuned` makes of that classifier, with weights that mean nothing yet; downloads nothing.

    `preprocessing` is that of a checkpoint; else the library's own, as the user describes it. A classifier that is no
    library's has but one way of being made, its own. Raises UsageError for a name that is no classifier's, and for code
    that the user has not named.
    """
    described = replace(described, weights=None, class_names=None, offline=True)
    network = library_network(architecture)
    if network is not None:
        classifier = network.opened(described, trained=False)
    else:
        require_named(architecture)
        size = preprocessing.size if preprocessing else described.input_size
        classifier = named_classifier(architecture, replace(described, input_size=size))
    classifier.preprocessing = preprocessing or classifier.preprocessing
    return _with_head(classifier, class_names, [None] * len(class_names))


def _with_head(
    classifier: Classifier, class_names: Sequence[str], rows: Sequence[int | None], class_ids: Sequence[str] = ()
) -> Classifier:
    """The network with a head of these classes; each is row `rows[k]` of the old head, or new."""
    net, old_classes = classifier.net, len(classifier.class_names)
    if not all(isinstance(value, torch.Tensor) for value in net.state_dict().values()):
        raise _untrainable(classifier.name, "its weights are not all tensors, as those of quantised layers")
    found = [path for path, module in net.named_modules() if _outputs(module) == old_classes]
    if found:
        net.set_submodule(found[-1], _new_head(net.get_submodule(found[-1]), rows))
    elif len(rows) != old_classes or any(row not in (None, place) for place, row in enumerate(rows)):
        # One without such a layer, as when it is scripted, may have the right number of classes, in their order.
        raise _no_head(classifier.name, f"no last layer of {old_classes} outputs is in it")
    tuned = Classifier(classifier.name, net, classifier.preprocessing, class_names, class_ids)
    tuned.requires_grad_(True)
    _freeze_unused(tuned)
    return tuned


def _outputs(module: nn.Module) -> int | None:
    if isinstance(module, nn.Linear):
        return module.out_features
    if isinstance(module, nn.Conv2d) and module.kernel_size == (1, 1):
        return module.out_channels
    return None


@torch.no_grad()
def _new_head(old: nn.Module, rows: Sequence[int | None]) -> nn.Module:
    new: nn.Linear | nn.Conv2d
    if isinstance(old, nn.Conv2d):
        new = nn.Conv2d(old.in_channels, len(rows), 1, bias=old.bias is not None)
    else:
        assert isinstance(old, nn.Linear)
        new = nn.Linear(old.in_features, len(rows), bias=old.bias is not None)
    for row, index in enumerate(rows):
        if index is not None:
            for name, value in new.named_parameters():
                value[row] = old.get_parameter(name)[index]
    return new


def _freeze_unused(tuned: Classifier) -> None:
    """Freeze what no logit depends on, as auxiliary heads: an update would wait for gradients that never come."""
    with torch.enable_grad():
        try:
            logits_1K = tuned(torch.zeros(1, 3, *tuned.preprocessing.size))
        except RuntimeError as error:  # two heads whose outputs are added
            raise _no_head(tuned.name, first_line(error)) from error
        if not isinstance(logits_1K, torch.Tensor) or logits_1K.shape != (1, len(tuned.class_names)):
            raise _no_head(tuned.name, "its last layer of that many outputs does not give its logits")
        if not logits_1K.requires_grad:
            raise _untrainable(tuned.name, "its logits have no gradient with respect to its weights")
        parameters = list(tuned.parameters())
        gradients = torch.autograd.grad(logits_1K.sum(), parameters, allow_unused=True)
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.requires_grad_(gradient is not None)


def _untrainable(name: str, reason: str) -> UsageError:
    return UsageError(f"{name} cannot be trained: {reason}", "give a network of float32 layers as --architecture")


def _no_head(name: str, reason: str) -> UsageError:
    return UsageError(f"the head of {name} cannot be replaced: {reason}", "choose another --architecture")


# the user's own code: `module:function` or `path/file.py:function`, which runs here

#: Sides that a module is tried on where nobody says and it does not take 224, the usual one.
_OTHER_SIDES = (32, 28, 64, 96, 128, 160, 192, 240, 256, 299, 320, 384, 448, 512)

_EXAMPLE = "a function without arguments that returns a torch.nn.Module taking images in [0, 1] is needed"

#: The names that were opened in this process: their code may run again, as for a checkpoint that was trained from it.
named_by_user: set[str] = set()


def named_classifier(name: str, source: ClassifierSource) -> Classifier:
    """The classifier of a registered name, a library's or the user's code, on the CPU. Raises as `open_classifier`."""
    if registry.names_code(name):
        return custom_classifier(name, source)
    family, _, rest = name.partition(":")
    if name.startswith(("hf:", "robustbench:")):
        return (huggingface if family == "hf" else robustbench)(rest, source)
    if (network := library_network(name)) is not None:
        return network.opened(source)
    source.refuse_description(name)
    return registry.load("classifier", name)(source)  # type: ignore[no-any-return]


def custom_classifier(name: str, source: ClassifierSource) -> Classifier:
    """What `module:function` returns: a Classifier, or any module that takes x_BCHW in [0, 1] and returns logits_BK.

    The logits may be in a tuple, a dict or an object with `logits`; images may have one channel. A plain module may
    carry `class_names` and `preprocessing` (a Preprocessing). Otherwise `source` says, or else classes are called by
    their numbers and photos are resized to 256 and cropped to 224; a network that does not take those gets the first
    size that it takes. `source.weights` are loaded into it. Weights of another precision become fp32.

    Raises UsageError where it is not found, fails, exits, or is no classifier; WeightsError for weights that do not
    fit.
    """
    named_by_user.add(name)
    import_torchvision()  # user code may begin with `import torchvision` or `import timm`
    where, _, function_name = name.rpartition(":")
    function = _run(lambda: getattr(_imported(where), function_name), f"the classifier {name} cannot be imported")
    net = _run(function, f"{name} failed")
    if not isinstance(net, nn.Module):
        raise UsageError(f"{name} returned a {type(net).__name__}, not a torch.nn.Module", _EXAMPLE)
    net.float()  # scores are taken in fp32, and half precision knows few operations on a CPU
    names: tuple[str, ...] = ()
    if source.weights is not None:
        inner = net.net if isinstance(net, Classifier) else net
        names = load_file(source.weights, lambda _: inner, 0, source.note)[2]
    if isinstance(net, Classifier):
        source.refuse_description(name)
        return net
    own = getattr(net, "preprocessing", None)
    if own is not None and not isinstance(own, Preprocessing):
        raise UsageError(
            f"the `preprocessing` of {name} is a {type(own).__name__}", "it has to be a latcli Preprocessing"
        )
    names = names or tuple(getattr(net, "class_names", None) or ())
    body, preprocessing, count = _tried(net.eval(), name, own, source)
    if names and len(names) != count and source.class_names is None:
        raise UsageError(
            f"{name} names {len(names)} classes and returns {count} logits", "give one class name for each logit"
        )
    return source.classifier(name, body, count, preprocessing, names)


def _imported(where: str) -> Any:
    """The module of a dotted name, found from the working directory, or of a file, with the files beside it."""
    path = Path(where).absolute() if where.endswith(".py") else None
    folder = str(path.parent if path else Path.cwd())
    if folder not in sys.path:
        sys.path.insert(0, folder)
    if path is None:
        return import_module(where)
    known = sys.modules.get(path.stem)
    if known is not None and getattr(known, "__file__", None) == str(path):
        return known
    spec: Any = importlib.util.spec_from_file_location(path.stem, path)
    module = importlib.util.module_from_spec(spec)
    sys.modules.setdefault(path.stem, module)  # so that pickles and dataclasses in it find it
    spec.loader.exec_module(module)
    return module


def _run(work: Callable[[], Any], what: str) -> Any:
    """What user code returns; whatever it raises, an exit included, is no defect of latcli: --debug shows where."""
    try:
        return work()
    except (Exception, SystemExit) as error:
        raise UsageError(f"{what}: {type(error).__name__}: {first_line(error)}", _EXAMPLE) from error


def _tried(
    net: nn.Module, name: str, own: Preprocessing | None, source: ClassifierSource
) -> tuple[nn.Module, Preprocessing, int]:
    """The network as it takes photos, its preprocessing and its number of classes, found by giving it images."""
    usual = own or (Preprocessing(256, 224) if source.input_size is None else Preprocessing(224, 224))
    prepared = [source.preprocessing(usual)]
    if own is None and source.input_size is None:
        prepared += [Preprocessing(side, side) for side in _OTHER_SIDES]
    failures = []
    for preprocessing in prepared:
        x_23hw = torch.rand(2, 3, *preprocessing.size, generator=torch.Generator().manual_seed(0))
        for body in (net, AnyChannels(net, 1)):
            try:
                with torch.no_grad():
                    found = logits_in(body(x_23hw))
            except (Exception, SystemExit) as error:
                failures.append(f"{type(error).__name__}: {first_line(error)}")
                continue
            if isinstance(found, torch.Tensor) and found.ndim == 2 and len(found) == 2 and found.shape[1] > 1:
                return body, preprocessing, found.shape[1]
            of_tensor = isinstance(found, torch.Tensor)
            shown = f"a tensor of shape {tuple(found.shape)}" if of_tensor else f"a {type(found).__name__}"
            raise UsageError(f"{name} returns {shown} for two images, not logits of shape (2, classes)", _EXAMPLE)
    h, w = prepared[0].size
    sizes = f"3x{h}x{w}" + (", nor of other usual sizes" if len(prepared) > 1 else ", nor of one channel")
    raise UsageError(
        f"{name} does not take images of {sizes}: {failures[0]}",
        "give --input-size, or give the module an attribute `preprocessing`; it must take a batch of float32 images",
    )
