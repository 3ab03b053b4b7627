"""How each peer is called for one-way InfoNCE: q (N, D) and k (N, D) in bf16 with unit rows, the
positive of row i is k_i, logits are <q_i, k_j>/tau, the loss is the mean over rows.

An entry's function imports its package and returns loss(q, k, target, scale), with scale = 1/tau. A
linear cross-entropy is given the keys as its weight. Those that know no scale get scale·q, in bf16,
which rounds q once more: that error is theirs, as it would be their user's.

Nothing is imported before an entry is asked for, so that whoever only lists them needs no package.
"""

from collections import namedtuple

# name: what a row calls it, behind the package and its release. package: as pip calls it.
Peer = namedtuple("Peer", "package name load")


def torch_eager():
    import torch.nn.functional as F

    return lambda q, k, target, scale: F.cross_entropy(q @ k.T * scale, target)


def torch_compiled():
    import torch

    # One shape at a time: without the reset, PyTorch falls back to eager after eight of them.
    torch.compiler.reset()
    return torch.compile(torch_eager(), dynamic=False)


def inf_cl():
    from inf_cl import cal_flash_loss

    # The path of `cal_inf_loss` on a single device. It computes in f32 with tf32 products, so q is
    # scaled in f32. Heads are how it splits D, at most 256 each.
    def loss(q, k, target, scale):
        return cal_flash_loss(q.float(), k.float(), target, scale, head_dim=min(256, q.shape[1])).mean()

    return loss


def cut_cross_entropy():
    from cut_cross_entropy import linear_cross_entropy

    # By default it leaves out tiles whose softmax is everywhere below 2^-12.
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

    # Knows a temperature, and returns a loss for each row.
    return lambda q, k, target, scale: ScaledCrossEntropy.apply(q, k, target, 1 / scale).mean()


def quack():
    from quack.linear_cross_entropy import chunked_linear_cross_entropy

    # Chooses its fused path by itself: SM90, bf16, sizes that are multiples of 128.
    return lambda q, k, target, scale: chunked_linear_cross_entropy(q * scale, k, target)


PEERS = {
    "torch-eager": Peer("torch", "eager", torch_eager),
    "torch-compile": Peer("torch", "compile", torch_compiled),
    "inf-cl": Peer("inf_cl", "", inf_cl),
    "cce": Peer("cut-cross-entropy", "", cut_cross_entropy),
    "cce-unfiltered": Peer("cut-cross-entropy", "unfiltered", cut_cross_entropy_unfiltered),
    "liger": Peer("liger-kernel", "Triton", liger_triton),
    "liger-large-chunks": Peer("liger-kernel", "Triton, chunks of 4096", liger_triton_large_chunks),
    "liger-sm90": Peer("liger-kernel", "SM90", liger_sm90),
    "liger-sm90-scaled": Peer("liger-kernel", "SM90 scaled", liger_sm90_scaled),
    "quack": Peer("quack-kernels", "", quack),
}


def label(key):
    """Whose code a row is about: package, release where it is installed, and which of its ways."""
    from importlib.metadata import PackageNotFoundError, version

    peer = PEERS[key]
    try:
        words = [peer.package, version(peer.package).split("+")[0], peer.name]
    except PackageNotFoundError:
        words = [peer.package, peer.name]
    return " ".join(word for word in words if word)
