"""Measures other libraries on a card, on the cases of this crate's benchmarks in the same run: loss and both gradients
of one-way InfoNCE, F.cross_entropy(q @ k.T / 0.07, arange(N)), and of CLIP, the mean of that and of the same with q
and k swapped; bf16, unit rows, N = M.

    python3 gpu.py [--out peers.json] [--seconds 180] [--shapes first] [--site FOLDER]
    python3 gpu.py --device cpu --shapes 256x64      # a trial, with the peers that run there

Needs PyTorch; requirements.txt lists the other packages and their releases. Writes the rows of a record
(benches/cuda/schema.rs): time cold and warm, rate of the library product in the same run, memory beside inputs and
gradients, error against float64. The file is whole after every row. A case without a time is a row with the reason:
not installed, out of memory, crashed, hung, not reached in time. Without PyTorch or a card all rows have a reason, and
the exit code is 0.

Inputs have the distribution of benches/cuda at the same shape: directions drawn uniformly from a cube, seeds 1 and 2,
one temperature; the generator differs. entries.py calls each peer, measure.py times it. Every peer runs in a process of
its own, one at a time while anything is timed.
"""

import argparse
import json
import os
import queue
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import entries

HERE = Path(__file__).resolve().parent
# N = M and D, most valuable first. All peers compute both losses at a shape, then at the next. `first` fits in the
# packed runner's stage `peers`.
SHAPES = {
    "first": [(32768, 512), (32768, 128), (32768, 1024)],
    "rest": [
        (32768, 256), (32768, 768),
        *((n, d) for n in (8192, 131072) for d in (512, 128, 1024, 256, 768)),
    ],
}
# Up to this N all peers fit on a card together, and compile at the same time.
TOGETHER = 32768
# After so many lost processes, a peer is left out.
MOST_LOST = 2


class Lost(Exception):
    """A process has ended or hangs; the message says how."""


class Child:
    """A process that answers each line with a line."""

    def __init__(self, command, log):
        self.log, self.lines = log, queue.Queue()
        with open(log, "ab") as words:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=words, text=True,
                start_new_session=True,
            )
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with self.process.stdout:
            for line in self.process.stdout:
                self.lines.put(line)
        self.lines.put(None)

    def ask(self, request):
        try:
            self.process.stdin.write(request + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `answer` reports how it ended

    def answer(self, deadline):
        try:
            line = self.lines.get(timeout=max(0.0, deadline - time.monotonic()))
            return json.loads(line) if line is not None else self._ended()
        except queue.Empty:
            self.end()
            raise Lost("stopped: no answer within its limit") from None
        except ValueError:
            self.end()
            raise Lost(f"stopped: it answered {line.strip()!r}") from None

    def _ended(self):
        try:
            self.process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            pass
        self.end()
        code = self.process.returncode
        how = f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"
        said = [line for line in self.log.read_text(errors="replace").splitlines() if line.strip()]
        raise Lost(f"{how}: {said[-1].strip()[:200]}" if said else how)

    def end(self):
        """Ends the process with all processes that it has started."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass


class Peer:
    """A peer, and its process while that lives."""

    def __init__(self, key, command, log, limit):
        self.key, self.command, self.log, self.limit = key, command, log, limit
        self.by, self.child, self.lost = entries.label(key), None, 0
        # Why it is not asked any more.
        self.out = None

    def start(self):
        if self.child is None and self.out is None:
            self.child, self.starting = Child(self.command, self.log), True

    def ask(self, request):
        if self.child is not None:
            self.child.ask(request)

    def answer(self):
        """The answer to the last request, or a reason why there is none."""
        if self.out is not None:
            return {"reason": self.out}
        deadline = time.monotonic() + self.limit
        try:
            if self.starting:
                self.out = self.child.answer(deadline).get("missing")
                self.starting = False
                if self.out is not None:
                    self.stop()
                    return {"reason": self.out}
            return self.child.answer(deadline)
        except Lost as how:
            self.child, self.lost = None, self.lost + 1
            if self.lost == MOST_LOST:
                self.out = f"left out: {how}"
            return {"reason": str(how)}

    def stop(self):
        if self.child is not None:
            self.child.end()
            self.child = None


def row(by, work, n, d, answer):
    """A row of benches/cuda/schema.rs, with FLOPs and bytes as benches/cuda counts them."""
    blank = dict.fromkeys(("cold", "warm", "measure", "extra_bytes", "error", "reason"))
    return {
        "by": by, "work": work, "wanted": "value and gradient", "shape": f"N={n} M={n} D={d}",
        "dtype": "bf16", "flops": 2.0 * entries.WORKS[work] * n * n * d, "bytes": 8.0 * n * d,
        **blank, **answer,
    }


class Table:
    """The rows so far, and the reason why others are missing."""

    def __init__(self, out, tasks, reason):
        self.out, self.tasks, self.reason, self.rows = out, tasks, reason, {}

    def write(self, peers):
        rows = []
        for task in self.tasks:
            for peer in peers:
                rows.append(self.rows.get((task, peer.key)) or row(peer.by, *task, {"reason": self.reason}))
        # A peer that gave the same reason everywhere gives it once.
        for by, work in {(x["by"], x["work"]): None for x in rows}:
            same = [x for x in rows if (x["by"], x["work"]) == (by, work)]
            reasons = {x["reason"] for x in same}
            if len(same) > 1 and len(reasons) == 1 and reasons != {None}:
                rows = [x for x in rows if x not in same]
                rows.append({**same[0], "shape": f"{len(same)} shapes", "flops": None, "bytes": 0.0})
        replace(self.out, {"rows": rows})


def run(peers, tasks, seconds, out):
    """Measures all peers at each task, a loss and a shape, one task after another, until the time is up."""
    table = Table(out, tasks, f"not reached within {seconds:g} s")
    table.write(peers)
    end = time.monotonic() + seconds
    try:
        for task in tasks:
            if time.monotonic() > end:
                break
            request = "{} {} {}".format(*task)
            together = task[1] <= TOGETHER
            # All peers compile at the same time, before anything is timed. The row of a peer that fails here has that
            # reason.
            failed = {}
            for peer in peers:
                peer.start()
                if together:
                    peer.ask(f"prepare {request}")
            if together:
                for peer in peers:
                    lost = peer.lost
                    answer = peer.answer()
                    if peer.lost > lost or peer.out:
                        failed[peer.key] = answer
            for peer in peers:
                if peer.key not in failed and time.monotonic() > end:
                    break
                if peer.key in failed:
                    answer = failed[peer.key]
                else:
                    peer.ask(f"measure {request}")
                    answer = peer.answer()
                table.rows[task, peer.key] = row(peer.by, *task, answer)
                table.write(peers)
                print(line(table.rows[task, peer.key]), flush=True)
    finally:
        for peer in peers:
            peer.stop()
        table.write(peers)


def check_ours(peer, tasks, folder, rows):
    """Writes the errors of this crate's outputs in `folder` into its rows of `tasks`, in the file `rows`. The reference
    is that of the other libraries."""
    file = json.loads(rows.read_text())
    for work, n, d in tasks:
        path, task = folder / f"{work}-{n}x{d}", row("", work, n, d, {})
        same = [x for x in file["rows"] if all(x[key] == task[key] for key in ("work", "wanted", "shape", "dtype"))]
        if not same or not path.exists():
            continue
        peer.start()
        peer.ask(f"check {work} {n} {d} {path}")
        answer = peer.answer()
        print(f"{name(task)} {same[0]['by']:<45} {answer.get('error') or answer['reason']}", flush=True)
        same[0]["error"] = answer.get("error")
    replace(rows, file)


def replace(path, value):
    """Writes a file that is whole at any time."""
    beside = path.with_suffix(".new")
    beside.write_text(json.dumps(value, indent=2, allow_nan=False) + "\n")
    beside.replace(path)


def name(of):
    return f"{of['work']:<7} {of['shape']:<28}"


def line(of):
    start = f"{name(of)} {of['by']:<45}"
    if of["reason"]:
        return f"{start} {of['reason']}"
    time, error = of["cold"] or of["warm"], of["error"]
    return (f"{start} {time['median'] * 1e3:9.3f} ms  "
            f"loss {error['loss']:.1e} dq {error['dq']:.1e} dk {error['dk']:.1e}")


def why_not(device):
    """Why nothing can be measured here, or None. PyTorch is imported in another process, which frees the card."""
    ask = "import torch; print(torch.cuda.is_available() or 'PyTorch finds no card')"
    if device == "cpu":
        ask = "import torch; print(True)"
    try:
        said = subprocess.run([sys.executable, "-c", ask], capture_output=True, text=True, timeout=120)
    except subprocess.TimeoutExpired:
        return "importing PyTorch did not end"
    last = (said.stdout if said.returncode == 0 else said.stderr).strip().splitlines()[-1:]
    return None if last == ["True"] else "".join(last) or "PyTorch does not start"


def shapes(text):
    """first, rest, or NxD."""
    n, _, d = text.partition("x")
    return SHAPES[text] if text in SHAPES else [(int(n), int(d))]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("peers.json"))
    parser.add_argument("--seconds", type=float, default=180, help="no task or peer starts after that")
    parser.add_argument("--limit", type=float, default=90, help="seconds that a peer has for one answer")
    parser.add_argument("--site", type=Path, help="a folder site-packages that pip has filled")
    parser.add_argument("--logs", type=Path, help="a folder for what peers print")
    parser.add_argument("--ours", type=Path, help="a folder of outputs of this crate's benchmark")
    parser.add_argument("--rows", type=Path, help="and its rows, to write errors into")
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--shapes", type=shapes, nargs="+", default=list(SHAPES.values()),
                        help="first, rest, or N = M and D as 256x64; all by default")
    parser.add_argument("--works", nargs="+", choices=entries.WORKS, default=list(entries.WORKS))
    parser.add_argument("--peers", nargs="+", choices=entries.PEERS, default=list(entries.PEERS))
    options = parser.parse_args()
    folders = [str(options.site.resolve())] if options.site else []
    sys.path[1:1] = folders  # for the packages' releases
    logs = options.logs or Path(tempfile.mkdtemp(prefix="peers-"))
    logs.mkdir(parents=True, exist_ok=True)
    tasks = [(work, *shape) for some in options.shapes for shape in some for work in options.works]
    command = lambda key: [sys.executable, str(HERE / "measure.py"), key, options.device, *folders]
    peers = [Peer(key, command(key), logs / f"{key}.log", options.limit) for key in options.peers]
    # SIGTERM ends the peers and writes the file, as the end of the time does.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    reason = why_not(options.device)
    if reason is None:
        # The peers import their packages while this crate's outputs are checked.
        for peer in peers:
            peer.start()
        if options.ours and options.rows:
            # In PyTorch's own process, which needs no other package.
            ours = Peer("torch-eager", command("torch-eager"), logs / "ours.log", options.limit)
            try:
                check_ours(ours, tasks, options.ours, options.rows)
            except (OSError, ValueError) as error:
                print(f"this crate's outputs are not checked: {error}")
            finally:
                ours.stop()
        run(peers, tasks, options.seconds, options.out)
    else:
        Table(options.out, tasks, reason).write(peers)
        print(f"ignored: {reason}")


if __name__ == "__main__":
    main()
