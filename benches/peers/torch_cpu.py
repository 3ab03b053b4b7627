"""Times PyTorch's cross-entropy on the CPU and this crate's engine at the same shapes in the same run.

Needs `pip install torch` (any version with a CPU build) and cargo. Each round times one after the other, and the ratio
is taken within the round:

    python benches/peers/torch_cpu.py [--n 8192] [--d 128 256 512] [--rounds 5]

PyTorch computes loss and both gradients of one-way InfoNCE, F.cross_entropy(q @ k.T / tau, arange(N)),
eagerly. The engine runs in a child process that answers a line per timing (`--serve` of the `similarity` bench), so
neither side's threads run while the other is timed.
"""

import argparse
import json
import statistics
import subprocess
import sys
import time


def build_server():
    """Path of the compiled `similarity` bench."""
    build = subprocess.run(
        ["cargo", "bench", "--bench", "similarity", "--no-run", "--message-format=json"],
        stdout=subprocess.PIPE, check=True, text=True,
    )
    messages = (json.loads(line) for line in build.stdout.splitlines() if line.startswith("{"))
    return next(m["executable"] for m in messages
                if m.get("executable") and m["target"]["name"] == "similarity")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=int, nargs="+", default=[8192])
    parser.add_argument("--d", type=int, nargs="+", default=[128, 256, 512])
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    try:
        import torch
        import torch.nn.functional as F
    except ImportError:
        sys.exit("torch is not installed: pip install torch")

    server = subprocess.Popen([build_server(), "--serve"], stdin=subprocess.PIPE,
                              stdout=subprocess.PIPE, text=True)

    def ours(n, d, dtype):
        server.stdin.write(f"{n} {d} {dtype}\n")
        server.stdin.flush()
        return float(server.stdout.readline())

    def theirs(q, k, target):
        q.grad = k.grad = None
        start = time.perf_counter()
        F.cross_entropy(q @ k.T / 0.07, target).backward()
        return time.perf_counter() - start

    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads, "
          f"{torch.backends.cpu.get_cpu_capability()}")
    print(f"{'N=M':>6} {'D':>5} {'type':>5} {'ours ms':>9} {'torch ms':>9} {'torch/ours':>11}")
    for n in options.n:
        for d in options.d:
            for name, dtype in (("f32", torch.float32), ("bf16", torch.bfloat16)):
                generator = torch.Generator().manual_seed(0)
                rows = [F.normalize(torch.randn(n, d, generator=generator), dim=1).to(dtype)
                        for _ in range(2)]
                q, k = (x.requires_grad_() for x in rows)
                target = torch.arange(n)
                ours(n, d, name), theirs(q, k, target)  # warm up
                pairs = [(ours(n, d, name), theirs(q, k, target)) for _ in range(options.rounds)]
                median_ours = statistics.median(a for a, _ in pairs)
                median_theirs = statistics.median(b for _, b in pairs)
                ratio = statistics.median(b / a for a, b in pairs)
                print(f"{n:>6} {d:>5} {name:>5} {median_ours * 1e3:>9.1f} "
                      f"{median_theirs * 1e3:>9.1f} {ratio:>10.2f}x", flush=True)
    server.stdin.close()
    server.wait()


if __name__ == "__main__":
    main()
