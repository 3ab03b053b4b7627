"""python3 benches/peers/test_gpu.py: what stands in peers.json when peers crash, hang, talk nonsense or
are not there, and, where PyTorch is installed, that wrong gradients are seen."""

import json
import sys
import tempfile
import time
import unittest
from pathlib import Path

import entries
import gpu
import measure

NUMBERS = {
    "extra_bytes": 1024,
    "error": {"loss": 1e-4, "dq": 2e-3, "dk": 3e-3, "rows": 4},
    "cold": {"median": 2e-3, "low": 1e-3, "high": 3e-3, "samples": 20},
    "warm": {"median": 1e-3, "low": 1e-3, "high": 1e-3, "samples": 20},
    "measure": {"what": "product", "rate": 8e14, "samples": 20},
}
WORKS = f"""
print({json.dumps({})!r}, flush=True)
for request in sys.stdin:
    print({json.dumps({})!r} if request.startswith("prepare") else {json.dumps(NUMBERS)!r}, flush=True)
"""
CRASHES = """
print("{}", flush=True)
for request in sys.stdin:
    if request.startswith("measure"):
        print("an illegal memory access", file=sys.stderr, flush=True)
        os.abort()
    print("{}", flush=True)
"""
HANGS = """
print("{}", flush=True)
sys.stdin.readline()
time.sleep(1000)
"""
NONSENSE = "print('not JSON', flush=True)"
MISSING = """print('{"missing": "no such package"}', flush=True)"""
OUT_OF_MEMORY = """
print("{}", flush=True)
for request in sys.stdin:
    print('{"reason": "OutOfMemoryError: 8 GiB"}' if "measure 8" in request else {}, flush=True)
""".replace("else {}", f"else {json.dumps(NUMBERS)!r}")


class Rows(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def rows(self, programs, shapes, seconds=60.0, limit=20.0):
        """(name, shape) to row, of peers that are these programs."""
        def peer(key, program):
            command = [sys.executable, "-c", "import os, sys, time\n" + program]
            return gpu.Peer(key, command, self.folder / f"{key}.log", limit)

        peers = [peer(key, program) for key, program in programs.items()]
        out = self.folder / "peers.json"
        gpu.run(peers, shapes, seconds, out)
        self.assertTrue(all(peer.child is None for peer in peers))
        rows = json.loads(out.read_text())["rows"]
        self.assertEqual(len({(row["by"], row["shape"]) for row in rows}), len(rows))
        return {(row["by"], row["shape"]): row for row in rows}

    def test_a_peer_that_is_lost_takes_no_other_along(self):
        programs = {"torch-eager": CRASHES, "inf-cl": MISSING, "cce": NONSENSE, "quack": WORKS}
        rows = self.rows(programs, [(4, 2), (8, 2), (16, 2)])
        names = {key: entries.label(key) for key in programs}
        crash = "ended by SIGABRT: an illegal memory access"
        reason = lambda key, shape: rows[names[key], shape]["reason"]
        self.assertEqual(reason("torch-eager", "N=4 M=4 D=2"), crash)
        self.assertEqual(reason("torch-eager", "N=8 M=8 D=2"), crash)
        self.assertEqual(reason("torch-eager", "N=16 M=16 D=2"), f"left out: {crash}")
        self.assertEqual(reason("inf-cl", "every shape"), "no such package")
        self.assertEqual(reason("cce", "N=4 M=4 D=2"), "stopped: it answered 'not JSON'")
        for n in (4, 8, 16):
            row = rows[names["quack"], f"N={n} M={n} D=2"]
            self.assertEqual({key: row[key] for key in NUMBERS}, NUMBERS)
            self.assertEqual((row["flops"], row["bytes"]), (6.0 * n * n * 2, 8.0 * n * 2))
            self.assertIsNone(row["reason"])

    def test_a_peer_that_hangs_is_stopped_at_its_limit(self):
        start = time.monotonic()
        rows = self.rows({"quack": HANGS, "cce": WORKS}, [(4, 2)], limit=10.0)
        self.assertLess(time.monotonic() - start, 500)
        self.assertIn("no answer", rows[entries.label("quack"), "N=4 M=4 D=2"]["reason"])
        self.assertIsNone(rows[entries.label("cce"), "N=4 M=4 D=2"]["reason"])

    def test_a_shape_that_is_too_large_is_a_row_and_the_next_is_measured(self):
        rows = self.rows({"cce": OUT_OF_MEMORY}, [(8, 2), (16, 2)])
        name = entries.label("cce")
        self.assertEqual(rows[name, "N=8 M=8 D=2"]["reason"], "OutOfMemoryError: 8 GiB")
        self.assertIsNone(rows[name, "N=16 M=16 D=2"]["reason"])

    def test_what_is_not_reached_says_so(self):
        rows = self.rows({"quack": WORKS}, [(4, 2), (8, 2)], seconds=-1.0)
        reasons = {shape: row["reason"] for (_, shape), row in rows.items()}
        self.assertEqual(reasons, {"every shape": "not reached within -1 s"})

    def test_the_example_is_what_is_written(self):
        """benches/peers/example.json, which the records' tests assemble."""
        programs = {"quack": WORKS, "cce": OUT_OF_MEMORY, "inf-cl": MISSING}
        names = dict(zip(("quack-kernels", "cut-cross-entropy", "inf_cl"), programs))
        rows = list(self.rows(programs, [(8, 2), (16, 2)]).values())
        example = json.loads((gpu.HERE / "example.json").read_text())["rows"]
        for row in rows:  # without releases, which depend on what is installed
            row["by"] = next(name for name in names if row["by"].startswith(name))
        self.assertEqual(rows, example)


class Measured(unittest.TestCase):
    def setUp(self):
        try:
            import torch
        except ImportError:
            self.skipTest("torch is not installed")
        self.torch, self.scale = torch, 1 / measure.TEMPERATURE
        self.q, self.k = (measure.unit_rows(48, 16, seed, "cpu") for seed in (1, 2))

    def outputs(self):
        """From automatic differentiation in float64."""
        torch = self.torch
        q, k = (x.double().requires_grad_() for x in (self.q, self.k))
        loss = torch.nn.functional.cross_entropy(self.scale * q @ k.T, torch.arange(len(q)))
        return [loss.detach(), *torch.autograd.grad(loss, (q, k))]

    def check(self):
        exact = measure.errors(self.outputs(), self.q, self.k, self.scale)
        rows = exact.pop("rows")
        self.assertLess(max(exact.values()), 1e-12)
        for place, name in enumerate(("loss", "dq", "dk")):
            wrong = self.outputs()
            wrong[place] = wrong[place] * 1.01
            found = measure.errors(wrong, self.q, self.k, self.scale)
            self.assertAlmostEqual(found.pop(name), 0.01, places=9)
            self.assertLess(max(value for key, value in found.items() if key != "rows"), 1e-12)
        # One wrong row of those that are checked.
        wrong = self.outputs()
        wrong[1][0] = 0
        self.assertGreater(measure.errors(wrong, self.q, self.k, self.scale)["dq"], 0.5 / rows**0.5)
        return rows

    def test_errors_are_those_of_the_outputs(self):
        self.assertEqual(self.check(), 48)

    def test_errors_of_a_sample_are_those_of_the_outputs(self):
        whole, some = measure.CHECKED_WHOLE, measure.CHECKED_ROWS
        measure.CHECKED_WHOLE, measure.CHECKED_ROWS = 16, 12
        try:
            self.assertEqual(self.check(), 12)
        finally:
            measure.CHECKED_WHOLE, measure.CHECKED_ROWS = whole, some

    def test_this_crates_outcomes_are_checked_by_the_same_reference(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        folder = Path(folder.name)
        loss, dq, dk = self.outputs()
        matrices = (self.q, self.k, dq.bfloat16(), 1.5 * dk.bfloat16())
        parts = [loss.float(), *(x.contiguous().view(self.torch.uint8) for x in matrices)]
        parts[0] = parts[0].reshape(1).view(self.torch.uint8)
        outcomes = folder / "ours of a run"
        outcomes.mkdir()
        (outcomes / "48x16").write_bytes(b"".join(bytes(x.flatten().tolist()) for x in parts))
        rows = folder / "rows.json"
        ours = gpu.row("infonce 0.1.0", 48, 16, {"warm": NUMBERS["warm"]})
        other = gpu.row("infonce 0.1.0", 48, 32, {"warm": NUMBERS["warm"]})
        rows.write_text(json.dumps({"rows": [other, ours]}))
        command = [sys.executable, str(gpu.HERE / "measure.py"), "torch-eager", "cpu"]
        peer = gpu.Peer("torch-eager", command, folder / "log", 60.0)
        self.addCleanup(peer.stop)
        gpu.check_ours(peer, outcomes, rows)
        left, checked = json.loads(rows.read_text())["rows"]
        self.assertEqual(left, other)
        error = checked.pop("error")
        self.assertEqual({**checked, "error": None}, ours)
        self.assertLess(error["loss"], 1e-6)
        self.assertTrue(0 < error["dq"] < 2e-3)
        self.assertAlmostEqual(error["dk"], 0.5, delta=2e-3)
        self.assertEqual(error["rows"], 48)

    def test_rows_have_length_1(self):
        length = self.q.float().norm(dim=1)
        self.assertLess((length - 1).abs().max().item(), 2**-8)

    def answers(self, load):
        answers = []
        bench = measure.Bench(load, measure.Processor())
        measure.serve(bench, ["prepare 32 8", "measure 32 8", "measure 16 8"], answers.append)
        return answers

    def test_a_peer_with_wrong_gradients_is_seen(self):
        def load():
            def loss(q, k, target, scale):
                z = scale * (q + 0.5 * (q - q.detach())) @ k.T  # dq times 1.5
                return self.torch.nn.functional.cross_entropy(z, target)

            return loss

        prepared, *measured = self.answers(load)
        self.assertEqual(prepared, {})
        for answer, rows in zip(measured, (32, 16)):
            error = answer["error"]
            self.assertAlmostEqual(error["dq"], 0.5, delta=0.02)
            self.assertLess(error["dk"], 0.02)
            self.assertEqual(error["rows"], rows)
            self.assertEqual(answer["warm"]["samples"], measure.SAMPLES)

    def test_numbers_that_are_not_finite_are_a_reason(self):
        load = lambda: lambda q, k, target, scale: (q * float("nan")).sum() + (k * scale).sum()
        self.assertIn("not finite", self.answers(load)[1]["reason"])

    def test_an_exception_is_a_reason(self):
        def load():
            def loss(q, k, target, scale):
                raise RuntimeError("sizes must be\n multiples of 128")

            return loss

        expected = {"reason": "RuntimeError: sizes must be multiples of 128"}
        self.assertEqual(self.answers(load), [expected] * 3)


if __name__ == "__main__":
    unittest.main(buffer=True)
