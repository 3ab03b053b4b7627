"""python3 benches/peers/test_gpu.py: the rows of peers that crash, hang, answer with no JSON or are missing, and, where
PyTorch is installed, the errors of wrong gradients."""

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
    print('{"reason": "OutOfMemoryError: 8 GiB"}' if request.startswith("measure InfoNCE 8") else {}, flush=True)
""".replace("else {}", f"else {json.dumps(NUMBERS)!r}")


class Rows(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.folder = Path(folder.name)

    def rows(self, programs, tasks, seconds=60.0, limit=20.0):
        """(name, work, shape) to row, of peers that are these programs."""
        def peer(key, program):
            command = [sys.executable, "-c", "import os, sys, time\n" + program]
            return gpu.Peer(key, command, self.folder / f"{key}.log", limit)

        peers = [peer(key, program) for key, program in programs.items()]
        out = self.folder / "peers.json"
        gpu.run(peers, tasks, seconds, out)
        self.assertTrue(all(peer.child is None for peer in peers))
        rows = json.loads(out.read_text())["rows"]
        key = lambda row: (row["by"], row["work"], row["shape"])
        self.assertEqual(len(set(map(key, rows))), len(rows))
        return {key(row): row for row in rows}

    def test_a_peer_that_is_lost_takes_no_other_along(self):
        programs = {"torch-eager": CRASHES, "inf-cl": MISSING, "cce": NONSENSE, "quack": WORKS}
        rows = self.rows(programs, [(work, n, 2) for n in (4, 8, 16) for work in entries.WORKS])
        names = {key: entries.label(key) for key in programs}
        crash = "ended by SIGABRT: an illegal memory access"
        reason = lambda key, work, shape: rows[names[key], work, shape]["reason"]
        self.assertEqual(reason("torch-eager", "InfoNCE", "N=4 M=4 D=2"), crash)
        self.assertEqual(reason("torch-eager", "CLIP", "N=4 M=4 D=2"), crash)
        self.assertEqual(reason("torch-eager", "InfoNCE", "N=8 M=8 D=2"), f"left out: {crash}")
        for work, products in (("InfoNCE", 3), ("CLIP", 4)):
            self.assertEqual(reason("inf-cl", work, "3 shapes"), "no such package")
            for n in (4, 8, 16):
                row = rows[names["quack"], work, f"N={n} M={n} D=2"]
                self.assertEqual({key: row[key] for key in NUMBERS}, NUMBERS)
                self.assertEqual((row["flops"], row["bytes"]), (2.0 * products * n * n * 2, 8.0 * n * 2))
                self.assertIsNone(row["reason"])
        self.assertEqual(reason("cce", "InfoNCE", "N=4 M=4 D=2"), "stopped: it answered 'not JSON'")

    def test_a_peer_that_hangs_is_stopped_at_its_limit(self):
        start = time.monotonic()
        rows = self.rows({"quack": HANGS, "cce": WORKS}, [("CLIP", 4, 2)], limit=10.0)
        self.assertLess(time.monotonic() - start, 500)
        self.assertIn("no answer", rows[entries.label("quack"), "CLIP", "N=4 M=4 D=2"]["reason"])
        self.assertIsNone(rows[entries.label("cce"), "CLIP", "N=4 M=4 D=2"]["reason"])

    def test_a_shape_that_is_too_large_is_a_row_and_the_next_is_measured(self):
        rows = self.rows({"cce": OUT_OF_MEMORY}, [("InfoNCE", 8, 2), ("CLIP", 8, 2), ("InfoNCE", 16, 2)])
        name = entries.label("cce")
        self.assertEqual(rows[name, "InfoNCE", "N=8 M=8 D=2"]["reason"], "OutOfMemoryError: 8 GiB")
        self.assertIsNone(rows[name, "CLIP", "N=8 M=8 D=2"]["reason"])
        self.assertIsNone(rows[name, "InfoNCE", "N=16 M=16 D=2"]["reason"])

    def test_what_is_not_reached_says_so(self):
        tasks = [("InfoNCE", 4, 2), ("InfoNCE", 8, 2), ("CLIP", 4, 2)]
        rows = self.rows({"quack": WORKS}, tasks, seconds=-1.0)
        reasons = {(work, shape): row["reason"] for (_, work, shape), row in rows.items()}
        late = "not reached within -1 s"
        self.assertEqual(reasons, {("InfoNCE", "2 shapes"): late, ("CLIP", "N=4 M=4 D=2"): late})

    def test_shapes_are_named_or_given(self):
        self.assertEqual(gpu.shapes("256x64"), [(256, 64)])
        self.assertEqual([d for n, d in gpu.shapes("first")], [512, 128, 1024])
        both = gpu.shapes("first") + gpu.shapes("rest")
        self.assertEqual(len(set(both)), 15)
        for text in ("256", "x64", "last"):
            self.assertRaises(ValueError, gpu.shapes, text)

    def test_the_example_is_what_is_written(self):
        """benches/peers/example.json, which the records' tests assemble."""
        programs = {"quack": WORKS, "cce": OUT_OF_MEMORY, "inf-cl": MISSING}
        names = dict(zip(("quack-kernels", "cut-cross-entropy", "inf_cl"), programs))
        tasks = [("InfoNCE", 8, 2), ("InfoNCE", 16, 2), ("CLIP", 8, 2)]
        rows = list(self.rows(programs, tasks).values())
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

    def outputs(self, work):
        """From automatic differentiation in float64."""
        cross_entropy = self.torch.nn.functional.cross_entropy
        q, k = (x.double().requires_grad_() for x in (self.q, self.k))
        z, target = self.scale * q @ k.T, self.torch.arange(len(q))
        loss = cross_entropy(z, target)
        if work == "CLIP":
            loss = 0.5 * loss + 0.5 * cross_entropy(z.T, target)
        return [loss.detach(), *self.torch.autograd.grad(loss, (q, k))]

    def check(self, work):
        exact = measure.errors(work, self.outputs(work), self.q, self.k, self.scale)
        rows = exact.pop("rows")
        self.assertLess(max(exact.values()), 1e-12)
        for place, name in enumerate(("loss", "dq", "dk")):
            wrong = self.outputs(work)
            wrong[place] = wrong[place] * 1.01
            found = measure.errors(work, wrong, self.q, self.k, self.scale)
            self.assertAlmostEqual(found.pop(name), 0.01, places=9)
            self.assertLess(max(value for key, value in found.items() if key != "rows"), 1e-12)
        # One wrong row of those that are checked.
        wrong = self.outputs(work)
        wrong[1][0] = 0
        self.assertGreater(measure.errors(work, wrong, self.q, self.k, self.scale)["dq"], 0.5 / rows**0.5)
        return rows

    def test_errors_are_those_of_the_outputs(self):
        for work in entries.WORKS:
            with self.subTest(work):
                self.assertEqual(self.check(work), 48)

    def test_errors_of_a_sample_are_those_of_the_outputs(self):
        whole, some = measure.CHECKED_WHOLE, measure.CHECKED_ROWS
        measure.CHECKED_WHOLE, measure.CHECKED_ROWS = 16, 12
        try:
            for work in entries.WORKS:
                with self.subTest(work):
                    self.assertEqual(self.check(work), 12)
        finally:
            measure.CHECKED_WHOLE, measure.CHECKED_ROWS = whole, some

    def test_one_work_is_not_taken_for_the_other(self):
        """The gradients differ by more than SAME_GRADIENT of benches/records."""
        found = measure.errors("CLIP", self.outputs("InfoNCE"), self.q, self.k, self.scale)
        self.assertGreater(min(found["dq"], found["dk"]), 0.05)

    def test_what_pytorch_has_computes_both_works(self):
        """In bf16; entries that this release lacks are skipped. CLIP is also computed by two calls."""
        for key in ("torch-eager", "torch-linear"):
            for work, load in entries.PEERS[key].load.items():
                with self.subTest(f"{key} {work}"):
                    try:
                        loss_of = load()
                    except ImportError as error:
                        self.assertIn("PyTorch 2.13", str(error))
                        continue
                    q, k = (x.clone().requires_grad_() for x in (self.q, self.k))
                    loss = loss_of(q, k, self.torch.arange(len(q)), self.scale)
                    outputs = [loss.detach(), *self.torch.autograd.grad(loss, (q, k))]
                    found = measure.errors(work, outputs, self.q, self.k, self.scale)
                    self.assertLess(max(found["loss"], found["dq"], found["dk"]), 0.03)

    def test_a_pytorch_that_lacks_an_entry_says_which_has_it(self):
        functional = self.torch.nn.functional
        own = vars(functional).pop("linear_cross_entropy", None)
        try:
            with self.assertRaisesRegex(ImportError, "PyTorch 2.13, this is"):
                entries.PEERS["torch-linear"].load["CLIP"]()
        finally:
            if own is not None:
                functional.linear_cross_entropy = own

    def test_this_crates_outputs_are_checked_by_the_same_reference(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        folder = Path(folder.name)
        outputs = folder / "outputs of a run"
        outputs.mkdir()
        for work in entries.WORKS:
            loss, dq, dk = self.outputs(work)
            matrices = (self.q, self.k, dq.bfloat16(), 1.5 * dk.bfloat16())
            tensors = [loss.float().reshape(1), *(x.contiguous() for x in matrices)]
            bytes_of = lambda x: bytes(x.view(self.torch.uint8).flatten().tolist())
            (outputs / f"{work}-48x16").write_bytes(b"".join(map(bytes_of, tensors)))
        rows = folder / "rows.json"
        ours = [gpu.row("infonce 0.1.0", work, 48, 16, {"warm": NUMBERS["warm"]}) for work in entries.WORKS]
        other = gpu.row("infonce 0.1.0", "CLIP", 48, 32, {"warm": NUMBERS["warm"]})
        rows.write_text(json.dumps({"rows": [other, *ours]}))
        command = [sys.executable, str(gpu.HERE / "measure.py"), "torch-eager", "cpu"]
        peer = gpu.Peer("torch-eager", command, folder / "log", 60.0)
        self.addCleanup(peer.stop)
        tasks = [("CLIP", 48, 16), ("InfoNCE", 48, 16), ("CLIP", 48, 32)]
        gpu.check_ours(peer, tasks, outputs, rows)
        left, *checked = json.loads(rows.read_text())["rows"]
        self.assertEqual(left, other)
        for row, unchecked in zip(checked, ours):
            error = row.pop("error")
            self.assertEqual({**row, "error": None}, unchecked)
            self.assertLess(error["loss"], 1e-6)
            self.assertTrue(0 < error["dq"] < 2e-3)
            self.assertAlmostEqual(error["dk"], 0.5, delta=2e-3)
            self.assertEqual(error["rows"], 48)

    def test_rows_have_length_1(self):
        length = self.q.float().norm(dim=1)
        self.assertLess((length - 1).abs().max().item(), 2**-8)

    def answers(self, load):
        answers = []
        bench = measure.Bench({"InfoNCE": load, "CLIP": load}, measure.Cpu())
        requests = ["prepare InfoNCE 32 8", "measure InfoNCE 32 8", "measure CLIP 16 8"]
        measure.serve(bench, requests, answers.append)
        return answers

    def test_a_peer_with_wrong_gradients_is_seen(self):
        def load():
            def loss(q, k, target, scale):
                z = scale * (q + 0.5 * (q - q.detach())) @ k.T  # dq times 1.5
                return self.torch.nn.functional.cross_entropy(z, target)

            return loss

        prepared, measured, one_way = self.answers(load)
        self.assertEqual(prepared, {})
        error = measured["error"]
        self.assertAlmostEqual(error["dq"], 0.5, delta=0.02)
        self.assertLess(error["dk"], 0.02)
        self.assertEqual(error["rows"], 32)
        self.assertEqual(measured["warm"]["samples"], measure.SAMPLES)
        # One direction is not CLIP.
        self.assertGreater(one_way["error"]["dk"], 0.05)
        self.assertEqual(one_way["error"]["rows"], 16)

    def test_outputs_that_are_not_finite_are_a_reason(self):
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
