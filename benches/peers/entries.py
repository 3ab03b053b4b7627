"""The calls of each peer: q (N, D) and k (N, D) in bf16 with unit rows, the positive of row i is k_i, logits are
<q_i, k_j>/tau. One-way InfoNCE is the mean over rows; CLIP is half of it, and half of the mean over columns.

An entry's function imports its package and returns loss(q, k, target, scale), with scale = 1/tau. A linear
cross-entropy takes the keys as its weight. A peer without a scale takes scale·q, in bf16, which rounds q once more: its
users would have the same error.

An entry imports its package when it is loaded; listing the entries needs none.
"""

from collections import namedtuple
from functools import partial

# Losses under the names of benches/cuda/losses.rs, each with the number of products, 2NMD FLOPs each, of value and
# gradient (docs/design.md, section 8).
WORKS = {"InfoNCE": 3, "CLIP": 4}

# package: its name for pip. name: follows package and release in a row's label. load: the entry's function for each
# loss.
Peer = namedtuple("Peer", "package name load")


def peer(package, name, one_way, clip=None):
    return Peer(package, name, {"InfoNCE": one_way, "CLIP": clip or partial(both_ways, one_way)})


def both_ways(load):
    """CLIP of a peer with one direction: two calls with the roles swapped."""
    one_way = load()
    return lambda q, k, target, scale: (one_way(q, k, target, scale) + one_way(k, q, target, scale)) / 2


def torch_eager():
    import torch.nn.functional as F

    return lambda q, k, target, scale: F.cross_entropy(q @ k.T * scale, target)


def torch_eager_clip():
    import torch.nn.functional as F

    def loss(q, k, target, scale):
        z = q @ k.T * scale
        return (F.cross_entropy(z, target) + F.cross_entropy(z.T, target)) / 2

    return loss


def torch_compiled(eager):
    import torch

    # One shape at a time: without the reset, PyTorch falls back to eager after eight of them.
    torch.compiler.reset()
    return torch.compile(eager(), dynamic=False)


def torch_linear():
    import torch
    import torch.nn.functional as F

    if not hasattr(F, "linear_cross_entropy"):
        raise ImportError(f"linear_cross_entropy came with PyTorch 2.13, this is {torch.__version__}")
    # Without options it stores all logits, as the eager entry does; with options those of a chunk of rows.
    options = torch.nn.LinearCrossEntropyOptions()
    return lambda q, k, target, scale: F.linear_cross_entropy(q * scale, k, target, options=options)


def memeff():
    from memeff import MemoryEfficientQwen3Loss

    # One-way, with a margin that no logit exceeds: no candidate counts as a false negative.
    def loss(q, k, target, scale):
        return MemoryEfficientQwen3Loss(1 / scale, margin=4.0, **MEMEFF)(q, k)

    return loss


def memeff_clip():
    from memeff import MemoryEfficientCLIPLoss

    return lambda q, k, target, scale: MemoryEfficientCLIPLoss(1 / scale, **MEMEFF)(q, k)


# By default gradients are multiplied by sqrt(N·tau), and rows are normalised once more.
MEMEFF = {"stable": False, "normalized_inputs": True}


def inf_cl():
    from inf_cl import cal_flash_loss

    # The path of `cal_inf_loss` on a single device. It computes in f32 with tf32 products, so q is scaled in f32. It
    # splits D into heads of at most 256.
    def loss(q, k, target, scale):
        return cal_flash_loss(q.float(), k.float(), target, scale, head_dim=min(256, q.shape[1])).mean()

    return loss


def cut_cross_entropy():
    from cut_cross_entropy import linear_cross_entropy

    # By default it skips tiles whose softmax is below 2^-12 everywhere.
    return lambda q, k, target, scale: linear_cross_entropy(q * scale, k, target)


def cut_cross_entropy_unfiltered():
    from cut_cross_entropy import linear_cross_entropy

    return lambda q, k, target, scale: linear_cross_entropy(q * scale, k, target, filter_eps=None)


def liger_triton():
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy

    # By default a chunk has about D rows, and dk is summed over chunks in bf16.
    return lambda q, k, target, scale: liger_fused_linear_cross_entropy(q * scale, k, target)


def liger_triton_large_chunks():
    from liger_kernel.transformers.functional import liger_fused_linear_cross_entropy as cross_entropy
    import torch

    def loss(q, k, target, scale):
        rows = max(1, 4096 // q.shape[1])  # in units of D rows
        return cross_entropy(q * scale, k, target, accum_dtype=torch.float32, chunk_mem_const=rows)

    return loss


def liger_sm90():
    from liger_kernel.ops.cutedsl.ops.fused_linear_cross_entropy_sm90 import (
        liger_fused_linear_cross_entropy_sm90 as cross_entropy,
    )

    # Stores all logits, in bf16; D is padded to multiples of 256.
    return lambda q, k, target, scale: cross_entropy(q * scale, k, target)


def liger_sm90_scaled():
    from liger_kernel.ops.cutedsl.ops.fused_scaled_cross_entropy_sm90 import (
        LigerFusedScaledCrossEntropySM90Function as ScaledCrossEntropy,
    )

    # Takes a temperature, and returns a loss for each row.
    return lambda q, k, target, scale: ScaledCrossEntropy.apply(q, k, target, 1 / scale).mean()


def quack():
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    # It chooses its fused path by itself: SM90, bf16, sizes that are multiples of 128.
    return lambda q, k, target, scale: chunked_linear_cross_entropy(q * scale, k, target)


PEERS = {
    "torch-eager": peer("torch", "eager", torch_eager, torch_eager_clip),
    "torch-compile": peer(
        "torch", "compile", partial(torch_compiled, torch_eager), partial(torch_compiled, torch_eager_clip)
    ),
    "torch-linear": peer("torch", "linear_cross_entropy", torch_linear),
    "memeff": peer("memeff", "", memeff, memeff_clip),
    # Its own example computes CLIP by two calls too.
    "inf-cl": peer("inf_cl", "", inf_cl),
    "cce": peer("cut-cross-entropy", "", cut_cross_entropy),
    "cce-unfiltered": peer("cut-cross-entropy", "unfiltered", cut_cross_entropy_unfiltered),
    "liger": peer("liger-kernel", "Triton", liger_triton),
    "liger-large-chunks": peer("liger-kernel", "Triton, chunks of 4096", liger_triton_large_chunks),
    "liger-sm90": peer("liger-kernel", "SM90", liger_sm90),
    "liger-sm90-scaled": peer("liger-kernel", "SM90 scaled", liger_sm90_scaled),
    "quack": peer("quack-kernels", "", quack),
}


def label(key):
    """The label of a row: package, release where it is installed, and name."""
    from importlib.metadata import PackageNotFoundError, version

    package, name, _ = PEERS[key]
    try:
        words = [package, version(package).split("+")[0], name]
    except PackageNotFoundError:
        words = [package, name]
    return " ".join(word for word in words if word)
