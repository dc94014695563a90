"""The form in which a network computes gradients, chosen by rule; results are always scored by the network as it is.

A form is a copy of the network: batch norms folded into the convolutions before them, weights in another memory layout
or number format. It is tried on two images before it is used, and left out where it fails or changes the logits.

Legend: B images, C channels, H, W pixels, K classes.
"""

from __future__ import annotations

import copy
import operator
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.utils import parametrize
from torch.nn.utils.fusion import fuse_conv_bn_weights

from latcli.engine.cuda_graph import Recordings
from latcli.engine.devices import failure_of
from latcli.errors import UsageError, first_line

Precision = Literal["auto", "fp32", "bf16"]

Form = Literal["fp32", "fp32-channels-last", "bf16-channels-last"]
FORMS: tuple[Form, ...] = get_args(Form)

#: Largest difference of logits, as a share of their standard deviation, that a form may make.
_TOLERANCE = {"fp32": 1e-3, "bf16": 0.1}

#: Cosine of the gradients of two bf16 forms of a network, above which they are the same but for rounding.
_SAME_SLOPE = 0.9

#: Below so many multiplications an image, converting numbers costs more than multiplying them faster saves.
_FEW = 1_000_000
#: Share of the multiplications in depthwise convolutions above which bf16 gains nothing: they wait for memory. Measured
#: by `python -m benchmarks.forms`.
_DEPTHWISE = 0.02


class GradientForm:
    """A frozen copy of a network in evaluation mode, in one of the forms; see `gradient_model`.

    form: its name. note: one line for the user where the form that was asked for could not be used, else None. `folds`
    are the names of convolutions and of the norms that each takes in; `joined`: convolutions also take in the ReLUs
    after them, and the sums between. shareable: whether several threads do well to call it side by side, each with
    images of its own; `gradient_model` decides.
    """

    def __init__(
        self,
        net: nn.Module,
        form: Form,
        folds: Sequence[tuple[str, str]] = (),
        note: str | None = None,
        joined: bool = False,
    ) -> None:
        self.form, self.note = form, note
        self._net, self._folds = net, folds
        self.shareable = False
        self.recordings: Recordings = {}
        self._bf16, self._channels_last = form.startswith("bf16"), form.endswith("channels-last")
        with torch.no_grad():  # scripted networks are copied by cloning their weights
            self._copy = copy.deepcopy(net).eval().requires_grad_(False)
        for convolution, norm in folds:
            layer, (weight, bias) = self._copy.get_submodule(convolution), _folded(net, convolution, norm)
            layer.weight = nn.Parameter(weight, requires_grad=False)
            layer.bias = nn.Parameter(bias, requires_grad=False)
            # What the norm does besides stays (timm's activate).
            rest = getattr(self._copy.get_submodule(norm), "act", None)
            self._copy.set_submodule(norm, rest if isinstance(rest, nn.Module) else nn.Identity())
        if self._bf16:
            for module in self._copy.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):  # norms keep their statistics in fp32
                    module.to(torch.bfloat16)
        if self._channels_last:
            self._copy.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if joined:
            self._copy = _with_joined_relus(self._copy)

    @torch.no_grad()
    def refresh(self) -> None:
        """Take over the network's weights as they are now.

        For the many gradients of a training step: casting the weights anew for each would cost more than once a step.
        """
        mine, theirs = _tensors(self._copy), _tensors(self._net)
        for convolution, norm in self._folds:
            theirs[f"{convolution}.weight"], theirs[f"{convolution}.bias"] = _folded(self._net, convolution, norm)
        for name in mine.keys() & theirs.keys():
            mine[name].copy_(theirs[name])

    def __call__(self, x_BCHW: torch.Tensor) -> torch.Tensor:
        """logits_BK in fp32 of images in [0, 1]."""
        if self._channels_last:
            x_BCHW = x_BCHW.contiguous(memory_format=torch.channels_last)
        # The weights are bf16 already; autocast takes care of whatever stands between the layers.
        with torch.autocast(x_BCHW.device.type, dtype=torch.bfloat16, enabled=self._bf16):
            logits_BK: torch.Tensor = self._copy(x_BCHW)
        return logits_BK.float()


def gradient_model(
    net: nn.Module, image_shape: tuple[int, int, int], precision: Precision = "auto", form: Form | None = None
) -> GradientForm:
    """The network in the form that suits its device, its layers and the images, for gradients with respect to images.

    `net` maps x_BCHW in [0, 1], of image_shape (C, H, W), to logits_BK. `precision` leaves the choice to the rule of
    `chosen_form` or overrules it; `form` is that of an earlier run. A form in which the network fails on two images, or
    gives other logits, is replaced by plain fp32, which the result's `note` says. The network stays as it is.
    """
    with _evaluating(net):
        x_2CHW = torch.rand(2, *image_shape, generator=torch.Generator().manual_seed(0)).to(device_of(net))
        expected_2K, layers = _observed(net, x_2CHW)
        if not torch.isfinite(expected_2K).all():
            return GradientForm(net, "fp32")  # no form is to blame; whoever scores it says what is wrong
        wanted = form or chosen_form(net, layers, precision)
        # A network that uses a convolution's own output besides, or mixes the images of a batch, fails the first try.
        tries = [(layers.folds, True)] * (x_2CHW.is_cuda and wanted.startswith("bf16"))
        tries += [(layers.folds, False)] + [([], False)] * bool(layers.folds)
        for folds, joined in tries:
            try:
                found = GradientForm(net, wanted, folds, joined=joined)
                reason = _fault(found, x_2CHW, expected_2K)
                if joined and reason is None and not _same_slope(found, GradientForm(net, wanted, folds), x_2CHW):
                    reason = "its gradients point elsewhere"
            except Exception as error:  # whatever a network raises where a layer is not as its author had it
                # What one kernel of cuDNN cannot do is no sign of a lost device.
                if not joined and (failure := failure_of(error)):
                    raise failure from error
                reason = first_line(error)
            if reason is None:
                long = layers.multiplications >= _LONG
                found.shareable = long and all(map(_keeps_nothing, net.modules()))
                return found
        note = f"gradients are computed in plain fp32, since {wanted} does not fit this network: {reason}"
        return GradientForm(net, "fp32", note=note)


def chosen_form(net: nn.Module, layers: Layers, precision: Precision) -> Form:
    """The rule, from processor, network and image shape: the form that is the fastest, or within a few per cent of it.

    bf16 where the device multiplies it in hardware, save in small networks, networks of depthwise convolutions, and
    torch's own attention, whose packed weights autocast would convert in every call. Channels-last for convolutions.
    """
    if precision == "bf16":
        return "bf16-channels-last"
    attention = any(isinstance(module, nn.MultiheadAttention) for module in net.modules())
    few = layers.multiplications < _FEW or layers.depthwise > _DEPTHWISE * layers.multiplications
    if precision == "auto" and not few and not attention and has_bf16_units(device_of(net)):
        return "bf16-channels-last"
    return "fp32-channels-last" if 2 * layers.convolved > layers.multiplications else "fp32"


def has_bf16_units(device: torch.device) -> bool:
    """Whether the device multiplies bf16 matrices in hardware."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        capabilities = torch.cpu.get_capabilities()
        return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16") or capabilities.get("bf16"))
    return False


def check_form(name: str) -> Form:
    """The form of that name. Raises UsageError for one that this version does not know."""
    if name not in FORMS:
        raise UsageError(f"there is no gradient form called '{name}'", f"known: {', '.join(FORMS)}")
    return name


def device_of(net: nn.Module) -> torch.device:
    """Where the network's weights lie; the CPU for one that has none."""
    return next((tensor.device for tensor in (*net.parameters(), *net.buffers())), torch.device("cpu"))


# what one run of the network shows


@dataclass
class Layers:
    """What the layers of a network do for one image of a shape.

    multiplications: in convolutions and linear layers; convolved, depthwise: of them, in all convolutions and in those
    of one channel a group. folds: convolutions whose output goes into a batch norm and nowhere else, and these norms.
    """

    multiplications: float = 0.0
    convolved: float = 0.0
    depthwise: float = 0.0
    folds: list[tuple[str, str]] = field(default_factory=list)


@contextmanager
def _evaluating(net: nn.Module) -> Iterator[None]:
    """Evaluation mode, module by module, while the block runs."""
    training = [module for module in net.modules() if module.training]
    net.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True


@torch.no_grad()
def _observed(net: nn.Module, x_BCHW: torch.Tensor) -> tuple[torch.Tensor, Layers]:
    """logits_BK of the network as it is, and its layers as hooks see them."""
    layers = Layers()
    names = {module: name for name, module in net.named_modules()}
    plain = {name for module, name in names.items() if _is_plain(module)}  # before this function's own hooks
    outputs: dict[int, tuple[str, torch.Tensor]] = {}  # kept alive, so that no two tensors have the same id

    def note_layer(module: nn.Module, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        count = output.numel() / len(x_BCHW) * module.weight[0].numel()  # type: ignore[index]
        layers.multiplications += count
        if isinstance(module, nn.Conv2d):
            layers.convolved += count
            layers.depthwise += count if module.groups == module.in_channels > 1 else 0.0
            outputs[id(output)] = (names[module], output)

    def note_norm(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
        if inputs and (made := outputs.get(id(inputs[0]))):
            layers.folds.append((made[0], names[module]))

    hooks: list[Any] = []
    try:
        for module in names:
            if isinstance(module, nn.Conv2d | nn.Linear):
                hooks.append(module.register_forward_hook(note_layer))
            elif isinstance(module, _BatchNorm) and module.running_mean is not None:
                hooks.append(module.register_forward_pre_hook(note_norm))
        logits_BK: torch.Tensor = net(x_BCHW)
    finally:
        for hook in hooks:
            hook.remove()
    uses = Counter(name for pair in layers.folds for name in pair)
    layers.folds = [pair for pair in layers.folds if plain.issuperset(pair) and all(uses[name] == 1 for name in pair)]
    return logits_BK.float(), layers


def _is_plain(module: nn.Module) -> bool:
    """Whether the layer's weights are plain parameters, which no hook or parametrization computes on a call."""
    hooked = module._forward_hooks or module._forward_pre_hooks or parametrize.is_parametrized(module)
    return not hooked and (isinstance(module, _BatchNorm) or "weight" in module._parameters)


#: Multiplications of a pass over an image, below which threads that each make passes wait for Python, not for numbers.
_LONG = 100_000_000
#: Whose layers neither keep anything from one call to the next nor draw random numbers, in evaluation mode.
_KNOWN_LAYERS = frozenset({"latcli", "timm", "torch", "torchvision"})


def _keeps_nothing(module: nn.Module) -> bool:
    """Whether the module is such a layer through and through; a script or a hook could do anything."""
    kinds = type(module).__mro__[: type(module).__mro__.index(nn.Module)]
    known = all(kind.__module__.partition(".")[0] in _KNOWN_LAYERS for kind in kinds)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "forward")
    return known and not isinstance(module, torch.jit.ScriptModule) and not any(map(vars(module).get, hooks))


def _fault(form: GradientForm, x_BCHW: torch.Tensor, expected_BK: torch.Tensor) -> str | None:
    """What is wrong with a form: it gives other logits than expected, or no finite gradient. May raise anything."""
    with torch.enable_grad():
        leaf_BCHW = x_BCHW.clone().requires_grad_()
        logits_BK = form(leaf_BCHW)
        if logits_BK.shape != expected_BK.shape:
            return "its logits have another shape"
        difference = (logits_BK.detach() - expected_BK).abs().max()
        spread = expected_BK.std().clamp_min(1e-6)
        if not difference <= _TOLERANCE[form.form[:4]] * spread:  # also true of NaN
            return f"its logits differ by {float(difference / spread):.2g} of their spread"
        if logits_BK.requires_grad:
            (gradient_BCHW,) = torch.autograd.grad(logits_BK.sum(), leaf_BCHW, allow_unused=True)
            if gradient_BCHW is not None and not torch.isfinite(gradient_BCHW).all():
                return "its gradients are not finite"
    return None


def _same_slope(one: GradientForm, other: GradientForm, x_BCHW: Tensor) -> bool:
    """Whether gradients with respect to the images have the same direction in both forms, up to rounding."""
    slopes = []
    for form in (one, other):
        with torch.enable_grad():
            leaf_BCHW = x_BCHW.clone().requires_grad_()
            slopes.append(torch.autograd.grad(form(leaf_BCHW).square().sum(), leaf_BCHW)[0].flatten())
    return bool(functional.cosine_similarity(slopes[0], slopes[1], dim=0) > _SAME_SLOPE)


@torch.no_grad()
def _folded(net: nn.Module, convolution: str, norm: str) -> tuple[torch.Tensor, torch.Tensor]:
    """Weight and bias of a convolution that does what it and the norm after it do together."""
    one: Any = net.get_submodule(convolution)
    two: Any = net.get_submodule(norm)
    weight, bias = fuse_conv_bn_weights(
        one.weight, one.bias, two.running_mean, two.running_var, two.eps, two.weight, two.bias
    )
    return weight, bias


# convolutions that end in a ReLU: on a GPU a bias, a sum and a ReLU apart read and write all of the output again


class _ConvolutionReLU(torch.autograd.Function):
    """ReLU of a convolution, its bias, and another tensor of that shape if there is one; one kernel of cuDNN.

    Has gradients with respect to images and the other tensor alone.
    """

    @staticmethod
    def forward(ctx: Any, x_BCHW: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, *about: Any) -> Tensor:
        out: Tensor
        if other is None:
            out = torch.cudnn_convolution_relu(x_BCHW, weight, bias, *about)
        else:
            out = torch.cudnn_convolution_add_relu(x_BCHW, weight, other, 1.0, bias, *about)
        ctx.save_for_backward(x_BCHW, weight, out)
        ctx.about, ctx.adds = about, other is not None
        return out

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        x_BCHW, weight, out = ctx.saved_tensors
        stride, padding, dilation, groups = ctx.about
        gradient = torch.ops.aten.threshold_backward(gradient, out, 0)
        about = (None, stride, padding, dilation, False, [0, 0], groups, [True, False, False])
        of_x, _, _ = torch.ops.aten.convolution_backward(gradient, x_BCHW, weight, *about)
        return of_x, None, None, gradient if ctx.adds else None, None, None, None, None


def _convolution_relu(x_BCHW: Tensor, weight: Tensor, bias: Tensor, other: Tensor | None, *about: Any) -> Tensor:
    other = None if other is None else other.to(weight.dtype)  # as autocast would
    out: Tensor = _ConvolutionReLU.apply(x_BCHW.to(weight.dtype), weight, bias, other, *about)  # type: ignore[no-untyped-call]
    return out


def _with_joined_relus(module: nn.Module) -> nn.Module:
    """The module, or what stands for it, with each convolution that a ReLU follows in one kernel with it.

    A module's code is followed by torch.fx, which loses gradients of a module's own making and tensors that change;
    where there is anything but layers and what only joins or cuts their outputs, its parts are looked at alone.
    Weights keep their names.
    """
    try:
        graph = fx.symbolic_trace(module)
    except Exception:  # whatever code does that is given no real tensor
        graph = None
    if graph is None or not all(node.op in _FOLLOWED or (node.op, node.target) in _KNOWN for node in graph.graph.nodes):
        for name, child in module.named_children():
            setattr(module, name, _with_joined_relus(child))
        return module
    modules, joined = dict(graph.named_modules()), False
    for node in list(graph.graph.nodes):
        if _layer(node, modules, nn.Identity) is not None:  # a norm that its convolution has taken in
            node.replace_all_uses_with(node.args[0])
            graph.graph.erase_node(node)
    for node in graph.graph.nodes:
        if (node.op, node.target) in _RELUS or _layer(node, modules, nn.ReLU) is not None:
            terms = [node.args[0]]
            if (terms[0].op, terms[0].target) in _SUMS and len(terms[0].users) == 1 and not terms[0].kwargs:
                terms = sorted(terms[0].args, key=lambda term: not _joinable(term, modules))
            if not _joinable(terms[0], modules) or not all(isinstance(term, fx.Node) for term in terms):
                continue
            convolution, other = terms[0], terms[1] if len(terms) == 2 else None
            layer = modules[convolution.target]
            about = (layer.stride, layer.padding, layer.dilation, layer.groups)
            with graph.graph.inserting_before(node):
                weights = [graph.graph.get_attr(f"{convolution.target}.{name}") for name in ("weight", "bias")]
                one = graph.graph.call_function(_convolution_relu, (convolution.args[0], *weights, other, *about))
            node.replace_all_uses_with(one)
            joined = True
    if not joined:
        return module
    graph.graph.eliminate_dead_code()
    graph.recompile()
    return graph


_RELUS: set[tuple[str, Any]] = {
    ("call_function", relu) for relu in (functional.relu, functional.relu_, torch.relu, torch.relu_)
}
_RELUS |= {("call_method", "relu"), ("call_method", "relu_")}
_SUMS: set[tuple[str, Any]] = {("call_function", add) for add in (operator.add, operator.iadd, torch.add)}
_FOLLOWED = ("placeholder", "call_module", "output")
_KNOWN = _RELUS | _SUMS | {("call_method", "flatten"), ("call_method", "mean")}
_KNOWN |= {("call_function", join) for join in (torch.flatten, torch.cat, functional.pad, operator.getitem)}


def _layer(node: Any, modules: Mapping[str, nn.Module], kind: type[nn.Module]) -> Any:
    """The layer that the node calls, where it is of just this kind; else None."""
    layer = modules.get(str(node.target)) if isinstance(node, fx.Node) and node.op == "call_module" else None
    return layer if type(layer) is kind else None


def _joinable(node: Any, modules: Mapping[str, nn.Module]) -> bool:
    """Whether the node is a plain convolution with a bias whose output has this one use."""
    layer = _layer(node, modules, nn.Conv2d)
    if layer is None or layer.bias is None or layer.groups > 1 or len(node.users) != 1:
        return False
    return layer.padding_mode == "zeros" and not isinstance(layer.padding, str)


def _tensors(net: nn.Module) -> dict[str, torch.Tensor]:
    # Under all their names: which is the first may differ between a network and its copy.
    weights = net.named_parameters(remove_duplicate=False)
    return dict(weights) | dict(net.named_buffers(remove_duplicate=False))
