"""Measures one peer. It reads a request a line and answers with a line of JSON, in a process of its own, so that a peer
that crashes or hangs stops nothing else. benches/peers/gpu.py starts it:

    measure.py PEER DEVICE [SITE]    DEVICE: cuda or cpu; SITE: a folder of packages

    (at the start)       {} when its package is there, else {"missing": why}
    prepare WORK N D     {} after one call, which compiles the kernels
    measure WORK N D     times, memory and errors of a row (benches/cuda/schema.rs)
    check WORK N D FILE  {"error": …} of outputs of this crate's benchmark (benches/cuda/losses.rs)

Any answer may be {"reason": why}.

Time is device time between two events around a call of loss and both gradients. Before the first event the device
sleeps while the host issues the call, and the L2 cache is overwritten: the call starts cold, and the device waits for
the host only where the peer itself makes it wait. The cuBLAS product is timed with every sample.
"""

import ctypes
import gc
import json
import math
import os
import signal
import site
import statistics
import sys
import time
from pathlib import Path

import entries

TEMPERATURE = 0.07
SAMPLES = 20
# Seconds for the samples of one shape. A slow peer has fewer samples; the row says how many.
SAMPLING = 4.0
FEWEST_SAMPLES = 3
PRODUCT = 8192
# Up to this N every row of dq and dk is checked, above it so many rows, evenly spaced.
CHECKED_WHOLE = 32768
CHECKED_ROWS = 1024


def unit_rows(rows, dim, seed, device):
    """Rows of length 1 in independent directions: uniform in [-1, 1), divided by their length in f32, rounded to bf16.
    benches/cuda/random.rs has the same distribution from another generator."""
    import torch

    generator = torch.Generator(device).manual_seed(seed)
    x = torch.rand(rows, dim, generator=generator, device=device) * 2 - 1
    return (x / x.norm(dim=1, keepdim=True)).bfloat16()


def one_way(q, k, scale, rows):
    """Loss, dq[rows] and dk[rows] of InfoNCE in float64; dz = (softmax(z) - 1)/N for the positive. Computes chunks of
    at most 2^27 logits."""
    import torch

    q, k = q.double(), k.double()
    n, m = len(q), len(k)
    chunk = max(1, 2**27 // m)
    positive = scale * (q * k).sum(1)
    lse = torch.empty_like(positive)
    dk = torch.zeros(len(rows), k.shape[1], dtype=torch.float64, device=k.device)
    for start in range(0, n, chunk):
        some = slice(start, start + chunk)
        z = scale * (q[some] @ k.T)
        lse[some] = torch.logsumexp(z, 1)
        p = torch.exp(z[:, rows] - lse[some, None])
        dk += p.T @ q[some]
    dq = torch.empty(len(rows), q.shape[1], dtype=torch.float64, device=q.device)
    for start in range(0, len(rows), chunk):
        some = rows[start : start + chunk]
        dq[start : start + chunk] = torch.exp(scale * (q[some] @ k.T) - lse[some, None]) @ k
    weight = scale / n
    return (lse - positive).mean(), weight * (dq - k[rows]), weight * (dk - q[rows])


def reference(work, q, k, scale, rows):
    """Loss, dq[rows] and dk[rows] in float64."""
    loss, dq, dk = one_way(q, k, scale, rows)
    if work == "InfoNCE":
        return loss, dq, dk
    # CLIP: the columns of z are the rows with the roles swapped.
    of_columns, dk_too, dq_too = one_way(k, q, scale, rows)
    return (loss + of_columns) / 2, (dq + dq_too) / 2, (dk + dk_too) / 2


def errors(work, outputs, q, k, scale):
    """Relative error of the loss, and of dq and dk in the L2 norm over the rows that are checked."""
    import torch

    n = len(q)
    count = n if n <= CHECKED_WHOLE else CHECKED_ROWS
    rows = torch.arange(count, device=q.device) * n // count
    loss, dq, dk = outputs
    expected = reference(work, q, k, scale, rows)
    found = (loss.double(), dq[rows].double(), dk[rows].double())
    relative = [((x - y).norm() / y.norm()).item() for x, y in zip(found, expected)]
    return dict(zip(("loss", "dq", "dk"), relative), rows=count)


def times(seconds):
    """Times::of of benches/cuda/rig.rs."""
    seconds = sorted(seconds)
    at = lambda share: seconds[math.floor(share * (len(seconds) - 1) + 0.5)]
    return {"median": at(0.5), "low": at(0.25), "high": at(0.75), "samples": len(seconds)}


class Cpu:
    """For trials: wall-clock times, nothing cold, no yardstick."""

    def __init__(self):
        self.name = "cpu"

    def works(self):
        return True

    def first(self, call):
        start = time.perf_counter()
        outputs = call()
        return outputs, {"extra_bytes": None}, 0.0, time.perf_counter() - start

    def sample(self, call, issue, samples):
        def seconds():
            start = time.perf_counter()
            call()
            return time.perf_counter() - start

        return {"cold": None, "warm": times([seconds() for _ in range(samples)]), "measure": None}

    def release(self):
        gc.collect()


class Card:
    """Device times on a CUDA device."""

    def __init__(self):
        import torch

        self.torch, self.name = torch, "cuda"
        cache = torch.cuda.get_device_properties(0).L2_cache_size
        self.flush = torch.empty(2 * cache, dtype=torch.uint8, device="cuda")
        self.factors = [torch.rand(PRODUCT, PRODUCT, device="cuda").mul_(2).sub_(1).bfloat16() for _ in range(2)]
        self.product = torch.empty_like(self.factors[0])

    def works(self):
        """Whether the device still runs work of this process."""
        try:
            self.torch.cuda.synchronize()
        except Exception:
            return False
        return True

    def first(self, call):
        """What a call returns; the peak memory during it, without the memory in use before and that of what it returns;
        the host's seconds to issue it; all its seconds."""
        cuda = self.torch.cuda
        cuda.synchronize()
        cuda.reset_peak_memory_stats()
        before = cuda.memory_allocated()
        start = time.perf_counter()
        outputs = call()
        issue = time.perf_counter() - start
        cuda.synchronize()
        whole = time.perf_counter() - start
        kept = sum(x.numel() * x.element_size() for x in outputs)
        extra = max(0, cuda.max_memory_allocated() - before - kept)
        return outputs, {"extra_bytes": extra}, issue, whole

    def seconds(self, call, issue):
        """Device seconds of a call that takes the host `issue` seconds to issue."""
        cuda = self.torch.cuda
        start, end = (cuda.Event(enable_timing=True) for _ in range(2))
        cuda._sleep(int(2e9 * min(1.5 * issue, 0.02)))
        self.flush.zero_()
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) / 1e3

    def sample(self, call, issue, samples):
        multiply = lambda: self.torch.matmul(self.factors[0], self.factors[1].T, out=self.product)
        multiply()
        call()
        cold, product = [], []
        for _ in range(samples):
            product.append(self.seconds(multiply, 1e-3))
            cold.append(self.seconds(call, issue))
        rate = 2 * PRODUCT**3 / statistics.median(product)
        measure = {"what": "product", "rate": rate, "samples": samples}
        warm = times(self.replays(call, samples)) if samples == SAMPLES else None
        return {"cold": times(cold), "warm": warm, "measure": measure}

    def replays(self, call, samples):
        """Device seconds of calls one right after the other."""
        cuda = self.torch.cuda
        events = [cuda.Event(enable_timing=True) for _ in range(samples + 1)]
        cuda._sleep(int(2e9 * 0.02))
        call()
        events[0].record()
        for event in events[1:]:
            call()
            event.record()
        cuda.synchronize()
        return [a.elapsed_time(b) / 1e3 for a, b in zip(events, events[1:])]

    def release(self):
        gc.collect()
        self.torch.cuda.empty_cache()


class Bench:
    """Runs a peer's functions, `load[loss]`, at one loss and shape after another."""

    def __init__(self, load, device):
        self.load, self.device = load, device
        self.release()

    def prepare(self, work, n, d):
        import torch

        name = self.device.name
        q, k = (unit_rows(n, d, seed, name).requires_grad_() for seed in (1, 2))
        target = torch.arange(n, device=name)
        loss_of, scale = self.load[work](), 1 / TEMPERATURE

        def call():
            loss = loss_of(q, k, target, scale)
            return loss.detach(), *torch.autograd.grad(loss, (q, k))

        call()
        self.device.release()
        self.task, self.call, self.inputs = (work, n, d), call, (q.detach(), k.detach(), scale)
        return {}

    def measure(self, work, n, d):
        if self.task != (work, n, d):
            self.prepare(work, n, d)
        outputs, extra, issue, whole = self.device.first(self.call)
        error = errors(work, outputs, *self.inputs)
        del outputs
        if not all(map(math.isfinite, error.values())):
            return {"reason": "its loss or a gradient is not finite"}
        self.device.release()
        # Each sample is a cold call and a warm one; a peer with fewer samples has no warm calls.
        samples = max(FEWEST_SAMPLES, min(SAMPLES, int(SAMPLING / (2 * whole))))
        return {**extra, "error": error, **self.device.sample(self.call, issue, samples)}

    def check(self, work, n, d, path):
        """The errors of outputs in a file: loss in f32; q, k, dq and dk in bf16."""
        import torch

        elements = torch.frombuffer(bytearray(Path(path).read_bytes()), dtype=torch.bfloat16).to(self.device.name)
        loss, (q, k, dq, dk) = elements[:2].view(torch.float32)[0], elements[2:].view(4, n, d)
        return {"error": errors(work, (loss, dq, dk), q, k, 1 / TEMPERATURE)}

    def release(self):
        self.task = self.call = self.inputs = None
        self.device.release()


def words(error):
    """An exception in one line."""
    text = " ".join(str(error).split())
    return f"{type(error).__name__}: {text}"[:300].rstrip(": ")


def serve(bench, requests, answer):
    verbs = {"prepare": bench.prepare, "measure": bench.measure, "check": bench.check}
    for request in requests:
        verb, work, n, d, *path = request.rstrip("\n").split(" ", 4)
        try:
            reply = verbs[verb](work, int(n), int(d), *path)
        except Exception as error:
            reply = {"reason": words(error)}
        if not bench.device.works():
            sys.exit(reply.get("reason", "the device failed during the call"))
        if verb != "prepare" or "reason" in reply:
            bench.release()
        answer(reply)


def main():
    key, device, *folders = sys.argv[1:]
    # Answers go to gpu.py; all that a package prints goes to the log.
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    # Linux: this process ends with its parent, also while the device hangs.
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)
    for folder in folders:
        sys.path.insert(1, folder)
        site.addsitedir(folder)  # some packages name further folders there

    def answer(reply):
        print(json.dumps(reply, allow_nan=False), file=answers, flush=True)

    try:
        load = entries.PEERS[key].load
        for of_work in load.values():
            of_work()
        device = {"cuda": Card, "cpu": Cpu}[device]()
    except Exception as error:
        answer({"missing": words(error)})
    else:
        answer({})
        serve(Bench(load, device), sys.stdin, answer)


if __name__ == "__main__":
    main()
